"""Sentences to word pieces, with Hugging Face's `tokenizers`."""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from salflax.core import hub

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]')
# BLIP's embedding table has rows for [DEC] and [ENC], which its tokenizer
# lacks and which plain sentences never use.
BLIP_EXTRA = 2


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
      FileNotFoundError: where neither file is found.
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
    self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
    _check(self._tokenizer, path, _config(folder_or_name))
    # Published files bake in other values, such as 128.
    self._tokenizer.enable_truncation(length)
    self._tokenizer.enable_padding(
      length=length,
      pad_id=self._tokenizer.token_to_id('[PAD]'),
      pad_token='[PAD]',
    )

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns word pieces i32 [B, L], and bool [B, L], True for real ones.

    An empty sentence is [CLS] [SEP].

    Raises:
      TypeError: where `texts` is not a list of strings.
    """
    if isinstance(texts, str | bytes):
      raise TypeError(f'Expected a list of sentences, found {texts!r}.')
    for i, text in enumerate(texts):
      if not isinstance(text, str):
        raise TypeError(f'Sentence {i} is {text!r}, not a string.')
    # Not encode_batch: its threads do not survive a fork.
    encoded = [self._tokenizer.encode(_valid(t)) for t in texts]
    shape = (len(encoded), self.length)
    ids = np.array([e.ids for e in encoded], np.int32).reshape(shape)
    mask = np.array([e.attention_mask for e in encoded], bool).reshape(shape)
    return ids, mask

  def fits(self, text: str) -> bool:
    """Tells whether a sentence keeps its end."""
    return not self._tokenizer.encode(_valid(text)).overflowing


def _valid(text: str) -> str:
  """Returns the text without halves of characters, which stop the library."""
  return text.encode('utf-8', 'replace').decode('utf-8')


def _find(folder_or_name: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(folder_or_name)
  # A vocabulary under a name of its own, not the one that lies beside it.
  if path.is_file() and path.suffix == '.txt':
    return path
  return hub.locate(folder_or_name, files=('tokenizer.json', 'vocab.txt'))


def _read(path: pathlib.Path) -> tokenizers.Tokenizer:
  if path.suffix == '.json':
    try:
      return tokenizers.Tokenizer.from_file(str(path))
    except Exception as e:  # the library raises nothing narrower
      raise ValueError(f'{path} is not a tokenizer.json: {e}.') from e
  try:
    # Not splitlines(), which also cuts at separators that are word pieces.
    words = path.read_text(encoding='utf-8').removesuffix('\n').split('\n')
  except UnicodeDecodeError as e:
    raise ValueError(f'{path} is not a vocabulary in UTF-8: {e}.') from e
  vocab = {word.rstrip('\r'): i for i, word in enumerate(words)}
  _require_special(vocab, path)
  options = _options(path.with_name('tokenizer_config.json'))
  tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token='[UNK]'))
  tokenizer.add_special_tokens([*SPECIAL, '[MASK]'][: 4 + ('[MASK]' in vocab)])
  tokenizer.normalizer = normalizers.BertNormalizer(
    lowercase=options.get('do_lower_case', True),
    strip_accents=options.get('strip_accents'),
    handle_chinese_chars=options.get('tokenize_chinese_chars', True),
  )
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = processors.BertProcessing(
    ('[SEP]', vocab['[SEP]']), ('[CLS]', vocab['[CLS]'])
  )
  return tokenizer


def _options(path: pathlib.Path) -> dict:
  return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}


def _require_special(vocab, path: pathlib.Path) -> None:
  if missing := [word for word in SPECIAL if word not in vocab]:
    raise ValueError(
      f'The vocabulary {path} ({len(vocab)} word pieces) lacks '
      f'{", ".join(missing)}.'
    )


def _config(folder_or_name: str | os.PathLike) -> pathlib.Path | None:
  """Returns the network's config.json where there is one."""
  try:
    return hub.locate(folder_or_name, files=('config.json',))
  except FileNotFoundError:
    return None


def _check(
  tokenizer: tokenizers.Tokenizer,
  path: pathlib.Path,
  config_path: pathlib.Path | None,
) -> None:
  """Raises ValueError unless the vocabulary is the network's.

  Without this a truncated vocabulary makes every word [UNK], and a network
  trains on the lengths of sentences without a murmur.
  """
  vocab = tokenizer.get_vocab(with_added_tokens=True)
  _require_special(vocab, path)
  config = _options(config_path) if config_path else {}
  text = config.get('text_config') or config
  want = text.get('vocab_size')
  blip = str(config.get('model_type', '')).startswith('blip')
  allowed = (want, want - BLIP_EXTRA) if blip and want else (want,)
  if want is not None and len(vocab) not in allowed:
    raise ValueError(
      f'{path} has {len(vocab)} word pieces, but {config_path} states a '
      f'vocabulary of {want}: they do not belong together.'
    )
