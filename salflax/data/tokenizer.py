"""Sentences to word pieces, with Hugging Face's tokenizers."""

import logging
import os
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import tokenizers

from salflax.core import files, hub, paths

FILES = ('tokenizer.json', 'vocab.txt')
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]')
# BLIP's embedding table has rows for [DEC] and [ENC], which its tokenizer
# lacks and which plain sentences never use.
BLIP_EXTRA = 2
# Letters and symbols that show nothing: the fillers of Hangul, Braille's blank.
_INVISIBLE = '\u115f\u1160\u3164\uffa0\u2800'
_LOG = logging.getLogger('salflax')


class Tokenizer:
  """BERT's word pieces, padded and cut to one length.

  Callable and picklable; holds no jax, so that loader workers can have it.

  Attributes:
    length: L, word pieces of a sentence with [CLS] and [SEP].
    vocab_size: number of word pieces.
  """

  def __init__(self, folder_or_name: str | os.PathLike, length: int = 35):
    """Reads tokenizer.json, or vocab.txt where there is none.

    Args:
      folder_or_name: a folder, one of the two files, or a name `hub.locate`
        knows.
      length: L >= 3; longer sentences lose their end but keep [SEP].

    Raises:
      FileNotFoundError: where neither file is there.
      ValueError: for a length below 3, or a vocabulary that lacks a special
        word or is not of the size that config.json states.
    """
    if length < 3:
      raise ValueError(
        f'length must be at least 3 ([CLS], a word piece, [SEP]), not {length}.'
      )
    path = _find(folder_or_name)
    self.length = length
    self._tokenizer = _read(path)
    self._warned = False
    self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
    _check(self._tokenizer, path, folder_or_name)
    to_id = self._tokenizer.token_to_id
    self._special = [to_id(w) for w in SPECIAL if w != '[UNK]']
    # Published files bake in other values, such as 128.
    self._tokenizer.enable_truncation(length)
    self._tokenizer.enable_padding(
      length=length, pad_id=to_id('[PAD]'), pad_token='[PAD]'
    )

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes sentences: i32 [B, L], and bool [B, L], True for real pieces.

    A text without a word, such as '' or ' ', is padding throughout: no
    sentence. Warns once of sentences that lose their end.

    Raises:
      TypeError: where `texts` is not a list of strings.
    """
    if isinstance(texts, str | bytes):
      raise TypeError(f'Expected a list of sentences, found {texts!r}.')
    for i, text in enumerate(texts):
      if not isinstance(text, str):
        raise TypeError(f'Sentence {i} is {text!r}, not a string.')
    # Not encode_batch: its threads do not survive a fork.
    encoded = [self._tokenizer.encode(_visible(t)) for t in texts]
    self._warn([t for t, e in zip(texts, encoded) if e.overflowing])
    shape = (len(encoded), self.length)
    ids = np.array([e.ids for e in encoded], np.int32).reshape(shape)
    mask = np.array([e.attention_mask for e in encoded], bool).reshape(shape)
    # [CLS] and [SEP] alone are no sentence.
    words = ~np.isin(ids, self._special).all(1, keepdims=True)
    return np.where(words, ids, self._special[0]).astype(np.int32), mask & words

  def knows(self, text: str) -> bool:
    """Tells whether a sentence has a known word piece, or none at all."""
    ids = {*self._tokenizer.encode(_visible(text)).ids} - {*self._special}
    return ids != {self._tokenizer.token_to_id('[UNK]')}

  def fits(self, text: str) -> bool:
    """Tells whether a sentence keeps its end."""
    return not self._tokenizer.encode(_visible(text)).overflowing

  def save(self, folder: str | os.PathLike) -> None:
    """Writes tokenizer.json into a folder, new or not."""
    with files.replacing(paths.path(folder) / FILES[0]) as temporary:
      self._tokenizer.save(os.fspath(temporary))

  def _warn(self, long: Sequence[str]) -> None:
    if long and not self._warned:
      self._warned = True
      _LOG.warning(
        '%d sentences have more than %d word pieces and lose their end; the '
        'longest has %d letters: raise model.text.length.',
        *(len(long), self.length, max(map(len, long))),
      )


def _visible(text: str) -> str:
  """Cleans a text; '' where it shows nothing.

  Halves of characters, which stop the library, become '?'.
  """
  text = text.encode('utf-8', 'replace').decode('utf-8')
  shows = (
    unicodedata.category(c)[0] not in 'ZCM' and c not in _INVISIBLE
    for c in text
  )
  return text if any(shows) else ''


def _find(folder_or_name: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(folder_or_name)
  # A vocabulary under a name of its own, not the one that lies beside it.
  if path.is_file() and path.suffix == '.txt':
    return path
  return hub.locate(folder_or_name, files=FILES)


def _read(path: pathlib.Path) -> tokenizers.Tokenizer:
  try:
    # Without the library beside: importing it takes a second.
    if path.suffix == '.json':
      return tokenizers.Tokenizer.from_file(os.fspath(path))
    # Not AutoTokenizer: it fails on a folder with nothing but vocab.txt.
    beside = path.with_name('tokenizer_config.json')
    options = files.read_json(beside) if beside.is_file() else {}
    keys = ('do_lower_case', 'strip_accents', 'tokenize_chinese_chars')
    options = {k: options[k] for k in keys if k in options}
    reader = hub.transformers().BertTokenizerFast
    return reader.from_pretrained(path, **options).backend_tokenizer
  except Exception as e:  # the library raises nothing narrower
    raise ValueError(f'{path} is no tokenizer: {e}.') from e


def _check(
  tokenizer: tokenizers.Tokenizer,
  path: pathlib.Path,
  folder_or_name: str | os.PathLike,
) -> None:
  """Raises ValueError unless the vocabulary is the network's.

  Without this a truncated vocabulary makes every word [UNK], and a network
  trains on the lengths of sentences without a murmur.
  """
  # The library adds special words that the file lacks.
  vocab = tokenizer.get_vocab(with_added_tokens=False)
  if missing := [word for word in SPECIAL if word not in vocab]:
    raise ValueError(
      f'The vocabulary {path} ({len(vocab)} word pieces) lacks '
      f'{", ".join(missing)}.'
    )
  try:
    config_path = hub.locate(folder_or_name, files=('config.json',))
  except FileNotFoundError:
    return
  config = files.read_json(config_path)
  want = (config.get('text_config') or config).get('vocab_size')
  allowed = {len(vocab), tokenizer.get_vocab_size(with_added_tokens=True)}
  if str(config.get('model_type', '')).startswith('blip'):
    allowed |= {n + BLIP_EXTRA for n in allowed}
  if want is not None and want not in allowed:
    raise ValueError(
      f'{path} has {len(vocab)} word pieces, but {config_path} states a '
      f'vocabulary of {want}: they do not belong together.'
    )
