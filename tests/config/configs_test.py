"""Every config resolves, its train step traces; what is misspelt is named."""

import importlib
import inspect
import pathlib
import time

import jax
import ml_collections
import numpy as np
import pytest
import tiny
import tiny_config
from tiny_config import put
from toy_gaze import Toy

from configs import common
from salflax.config import network, saved
from salflax.config import resolve as config_lib
from salflax.core import parallel
from salflax.train import checks, step
from salflax.train import stage as stages_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = sorted(
  p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != 'common'
)
# Arguments that docstrings tell of, beside none at all.
ARGUMENTS = {
  'quickstart': ('epochs=2', 'fusion=lowrank'),
  'sjtu_tis': (
    'small',
    'small=1,fusion=token(dim=32)',
    'fusion=gate,levels=1',
    'fusion=full,levels=2',
    'fusion=lowrank',
    'fusion=te_cross(dim=32)',
    'small,fusion=te_bilinear',
    'fusion=te_prepend,levels=2',
    'fusion=bilinear,place=encoder',
    'condition=salient',
    'free=osie',
    'loss=paper1_paper',
  ),
  'loss_study': (
    'row=mlnet_mse,scale=small',
    'row=lc2_r,scale=small,network=sam,data=osie',
    'row=lc2_r,loss=10*kld + 2*cc,maps=imagenet',
    'row=sam_lc1_r',
    'row=ae,output=projected_relu',
  ),
  'text_guided': (
    'row=SALICON_pretrained',
    'row=finetuned_pure,scale=small',
    'row=non_salient_3att_none,scale=small,free=osie',
    'row=all_conditions,scale=small',
    'row=non_salient_sam_text',
    'row=non_salient_sam_text,scale=small',
    'row=non_salient_scheme3_contrastive,scale=small',
    'row=non_salient_te_prepend',
    'row=non_salient_contrastive_order',
    'freeze_bn_stats=0,fusion=gate',
  ),
}
CASES = [
  pytest.param(n, a, marks=[pytest.mark.slow] if a else [])
  for n in NAMES
  for a in ('', *ARGUMENTS.get(n, ()))
]


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  return tiny.bert_folder(tmp_path_factory.mktemp('bert'))


@pytest.fixture(scope='module')
def vgg(tmp_path_factory):
  return tiny.vgg_file(tmp_path_factory.mktemp('vgg') / 'narrow.npz')


def get_config(name, argument=''):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(argument)
  config.lock()
  return config


def without_weights(config, bert, vgg):
  """Makes the config with tiny fixed networks and drawn parameters."""
  node = config_lib.plain(config)
  for name in node['stages']:
    if node[name]['perceptual'].get('weights'):
      node[name]['perceptual']['weights'] = str(vgg)
    # Batches as published do not divide over every number of devices.
    node[name]['batch_size'] += -node[name]['batch_size'] % 4
  for record in (node['model'], *(node[s]['model'] for s in node['stages'])):
    record.pop('weights', None)
    if record.get('name') == 'lite':
      for key, count in (('names', 1000), ('sight_names', 96)):
        path = tiny.names_file(bert.parent / f'{key}.npz', count)
        record[key] = str(path)
    if 'backbone' in record:
      record['backbone'].pop('weights', None)
    if record.get('text', {}).get('name', 'none') != 'none':
      record['text'].update(weights=str(bert), length=8)
  return node


def trace(stage):
  """Computes the shapes that a train step of two images gives."""
  tx, example = stage.make_tx(), stages_lib.example_batch(stage)
  state = stages_lib.abstract_state(stage)
  batch = {
    k: jax.ShapeDtypeStruct((2, *v.shape[1:]), v.dtype)
    for k, v in example.items()
  }
  train_step = step.make_train_step(
    stage.model,
    stage.loss_fn,
    tx,
    parallel.make_mesh(jax.devices()[:1]),
    contrast_fn=stage.contrast_fn,
    round_taps='backbone' in stage.stored,
  )
  key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  return state, *jax.eval_shape(train_step, state, batch, key)


def same_shapes(a, b):
  return jax.tree.all(
    jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), a, b)
  )


def traces(stage):
  """Traces a train step of a stage: nothing changes its shapes."""
  before, after, measures = trace(stage)
  assert same_shapes(before, after)
  assert measures['loss'].shape == ()
  assert {k for k in measures if k.startswith('loss/')}


@pytest.mark.parametrize('name, argument', CASES)
def test_configs_resolve_and_fit(name, argument, bert, vgg):
  node = without_weights(get_config(name, argument), bert, vgg)
  stages = config_lib.resolve(node, with_data=False)
  assert [s.name for s in stages] == list(node['stages'])
  for stage in stages:
    checks.check(stage)


@pytest.mark.parametrize('name', NAMES)
def test_train_steps_trace(name, bert, vgg):
  node = without_weights(get_config(name), bert, vgg)
  for stage in config_lib.resolve(node, with_data=False):
    traces(stage)


@pytest.mark.nightly
@pytest.mark.parametrize(
  'name, argument', [(n, a) for n, args in ARGUMENTS.items() for a in args]
)
def test_train_steps_with_arguments_trace(name, argument, bert, vgg):
  node = without_weights(get_config(name, argument), bert, vgg)
  traces(config_lib.resolve(node, with_data=False)[-1])


@pytest.mark.parametrize('name', NAMES)
def test_configs_say_how_they_are_run(name):
  module = importlib.import_module(f'configs.{name}')
  assert f'--config=configs/{name}.py' in module.__doc__
  assert inspect.getdoc(module.get_config)
  # Every argument that is tested is one a reader can know of.
  docs = module.__doc__ + inspect.getdoc(module.get_config)
  for argument in ARGUMENTS.get(name, ()):
    for part in argument.split(','):
      assert part.partition('=')[0] in docs, part


@pytest.mark.parametrize('name', NAMES)
def test_a_misspelt_argument_is_named(name):
  with pytest.raises(ValueError, match='Unknown option .* Allowed: '):
    get_config(name, 'pictrues=3')


def test_options_take_the_type_of_their_default():
  make = lambda text: common.options(
    text, dict(epochs=8.0, levels=3, small=False, fusion='token')
  ).to_dict()
  assert make('') == dict(epochs=8.0, levels=3, small=False, fusion='token')
  assert make('epochs=2,small,levels=1')['epochs'] == 2.0
  assert make('small')['small'] is True
  assert make('small=0')['small'] is False
  assert make('fusion=token(dim=96, heads=2),levels=1') == dict(
    epochs=8.0, levels=1, small=False, fusion='token(dim=96, heads=2)'
  )
  with pytest.raises(ValueError, match="'lvels'.* Did you mean 'levels'"):
    make('lvels=1')
  for text, says in (
    ('levels=two', "levels.*'two' is no int"),
    ('small=maybe', "small.*'maybe' is no bool"),
  ):
    with pytest.raises(ValueError, match=says):
      make(text)


def test_a_stage_refuses_a_key_it_does_not_know():
  with pytest.raises(ValueError, match="'losss'. Did you mean 'loss'"):
    common.stage(losss='kld')


def _drop(path):
  def change(node):
    *parents, last = path.split('.')
    for parent in parents:
      node = node[parent]
    del node[last]

  return change


def _move(old, new):
  def change(node):
    node[new] = node.pop(old)

  return change


WRONG = {
  'run key': (put('lgo_every', 5), "'lgo_every'. Did you mean 'log_every'"),
  'run record': (put('modle', {}), "'modle'. Did you mean 'model'"),
  'stage key': (put('only.losss', 'kld'), "'losss'. Did you mean 'loss'"),
  'evaluate key': (
    put('evaluate.protocol', 'mit'),
    "'protocol'. Did you mean 'protocols'",
  ),
  'missing key': (_drop('only.patience'), "config.only lacks 'patience'"),
  'missing run key': (_drop('seed'), "config lacks 'seed'"),
  'type': (
    put('only.freeze', 'text/.*'),
    r"freeze must be .* \('text/\.\*',\)",
  ),
  'number': (put('only.lr', '1e-3'), 'only.lr must be of type float'),
  'switch': (put('only.store', 1), 'only.store must be of type bool'),
  'count': (put('only.batch_size', True), 'batch_size must be of type int'),
  'negative': (put('only.patience', -1), 'patience must not be negative'),
  'zero lr': (put('only.lr', 0.0), 'only.lr must be positive'),
  'nan lr': (put('only.lr', float('nan')), 'only.lr must'),
  'zero period': (put('log_every', 0), 'log_every must be positive'),
  'no stages': (put('stages', ()), 'stages is empty'),
  'stage': (put('stages', ('onyl',)), "'onyl'. Did you mean 'only'"),
  'stage renamed': (_move('only', 'sole'), "'only'. .*sole"),
  'steps and epochs': (put('only.epochs', 2.0), 'exactly one of steps and'),
  'loss': (put('only.loss', '10*kldd + cc'), "'kldd'. Did you mean 'kld'"),
  'loss option': (put('only.loss', 'kld(epz=1)'), "'epz'. Did you mean 'eps'"),
  'loss minus': (put('only.loss', 'kld - cc'), 'no minus'),
  'preset': (put('only.loss', 'transalnt'), "Did you mean 'transalnet'"),
  'op': (
    put('only.pp', tiny_config.PP.replace('flip', 'filp')),
    "'filp'. Did you mean 'flip'",
  ),
  'op option': (
    put('only.eval_pp', tiny_config.EVAL_PP.replace('imagenet', 'imagnet')),
    "'imagnet'. Did you mean 'imagenet'",
  ),
  'random eval_pp': (
    put('only.eval_pp', tiny_config.PP),
    'eval_pp must not draw',
  ),
  'no normalize': (
    put('only.pp', 'resize_pad(32, 32)|rasterize'),
    'pp lacks normalize',
  ),
  'frame': (
    put('only.pp', tiny_config.PP.replace('32, 32', 'height=32, width=64')),
    r'pp resizes to \(32, 64\), the model has size \(32, 32\)',
  ),
  'an op that may come once': (
    put('only.eval_pp', tiny_config.EVAL_PP + '|normalize("imagenet")'),
    'config.only: normalize goes once',
  ),
  'no rasterize': (
    lambda node: node['only'].update(
      loss='kld + nss', pp=tiny_config.PP.replace('|rasterize', '')
    ),
    'needs rasterize in pp',
  ),
  'schedule': (put('only.schedule', 'cosin'), "Did you mean 'cosine'"),
  'schedule option': (
    put('only.schedule', 'cosine(warmpu=0.1)'),
    "Did you mean 'warmup'",
  ),
  'optimizer': (put('only.optimizer', 'adma'), "Did you mean 'adam'"),
  'optimizer option': (
    put('only.optimizer', 'adamw(decy=1)'),
    "Did you mean 'decay'",
  ),
  'score': (put('only.score', 'mit/ccc'), "'ccc'. Did you mean 'cc'"),
  'score protocol': (put('only.score', 'mti/cc'), "'mti'. Did you mean 'mit'"),
  'score alone': (put('only.score', 'cc'), 'mit'),
  'score that needs other training images': (
    lambda node: node['only'].update(score='mit/ig', eval_split='fit'),
    "score 'mit/ig' needs training images that are not evaluated",
  ),
  'score that needs other images': (
    lambda node: node['only'].update(score='mit/auc_shuffled', eval_limit=4),
    "score 'mit/auc_shuffled' needs fixations of other images",
  ),
  'protocol': (
    put('evaluate.protocols', 'mit,cuorse'),
    "'cuorse'. Did you mean 'course'",
  ),
  'text that nothing reads': (
    lambda node: node['model'].update(fuse=()),
    r'nothing reads it: set model.fuse \(found \(\)\), or contrast',
  ),
  'init': (
    put('only.init', '@free'),
    "only: Unknown init '@free'. Allowed: the folder of a run",
  ),
  'init itself': (put('only.init', '@only'), "only: Unknown init '@only'"),
  'dtype': (put('dtype', 'bfloat61'), "'bfloat61'. Did you mean 'bfloat16'"),
  'dataset': (put('only.data', 'secnes'), "'secnes'. Did you mean 'scenes'"),
  'second dataset': (
    put('only.data', 'scenes+sjtu-tis'),
    "'sjtu-tis'. Did you mean 'sjtu_tis'",
  ),
  'split': (put('only.split', 'trian'), "'trian'. Did you mean 'train'"),
  'test split': (
    lambda node: (
      node['only'].update(test_split='tset'),
      node['evaluate'].update(protocols='mit'),
    ),
    "test_split: .*'tset'. Did you mean 'test'",
  ),
  'condition': (
    put('only.conditions', ('pure', 'salinet')),
    "'salinet'. Did you mean 'salient'",
  ),
  'freeze': (
    put('only.freeze', ('backbon/.*',)),
    r"'backbon/\.\*'. Did you mean 'backbone/\.\*'",
  ),
  'freeze all': (put('only.freeze', ('.*',)), 'leave nothing to train'),
  'lr_scale': (
    put('only.lr_scale', (('decodr/.*', 0.1),)),
    r"'decodr/\.\*'. Did you mean 'decoder/\.\*'",
  ),
  'lr_scale shape': (put('only.lr_scale', ('decoder/.*', 0.1)), 'pairs such'),
  'model': (put('model.name', 'transalnt'), "Did you mean 'transalnet'"),
  'model key': (put('model.dpeth', 2), "'dpeth'. Did you mean 'depth'"),
  'stage model key': (put('only.model', {'dpeth': 2}), "Did you mean 'depth'"),
  'no backbone': (_drop('model.backbone'), 'model.backbone must be a record'),
  'no text': (_drop('model.text'), 'model.text must be a record'),
  'backbone': (
    put('model.backbone', {'name': 'resnet51'}),
    "'resnet51'. Did you mean 'resnet50'",
  ),
  'backbone key': (put('model.backbone.wdith', 4), "Did you mean 'width'"),
  'backbone bn': (
    put('model.backbone.bn', 'forzen'),
    "'frozen', not 'forzen'",
  ),
  'text': (
    put('model.text', {'name': 'brt', 'weights': 'x'}),
    "'brt'. Did you mean 'bert'",
  ),
  'text weights': (put('model.text', {'name': 'bert'}), "lacks 'weights'"),
  'fusion': (
    lambda node: node['model'].update(fuse=('1/8',), fusion='tokn'),
    "'tokn'. Did you mean 'token'",
  ),
  'place of fusion': (
    lambda node: node['model'].update(
      fuse=('1/8',), fusion='te_cross', place='backbone'
    ),
    "'te_cross' goes with place 'encoder', found place 'backbone'",
  ),
  'fusion without text': (
    put('model.fuse', ('1/8',)),
    r"model.fuse=\('1/8',\) joins a sentence, but model.text is 'none'",
  ),
  'fused level': (
    lambda node: node['model'].update(fuse=('1/9',)),
    "'1/9'. Did you mean",
  ),
  'level': (put('model.levels', ('1/4', '1/6')), "'1/6'. Did you mean"),
  'bn': (put('model.bn', 'frzen'), "'frozen', not 'frzen'"),
  'widths': (put('model.widths', (16,)), 'as many widths'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_named_within_seconds(case, bert, monkeypatch):
  change, says = WRONG[case]
  with_text = case in (
    *('fusion', 'fused level', 'place of fusion'),
    'text that nothing reads',
  )
  node = config_lib.plain(
    tiny_config.get_config(f'bert={bert}' if with_text else '')
  )
  change(node)
  start = time.process_time()
  with pytest.raises(ValueError, match=says):
    for stage in config_lib.resolve(node):
      checks.check(stage)
  # Measured: under a second, and a few for the first to trace a network.
  assert time.process_time() - start < 20


def test_the_config_that_those_change_is_sound(bert):
  for encoder in ('', bert):
    for stage in config_lib.resolve(tiny_config.get_config(f'bert={encoder}')):
      checks.check(stage)


@pytest.mark.parametrize(
  'change, says',
  [
    (put('only.data', 'sjtu_tis'), 'salflax prepare --dataset=sjtu_tis'),
    (put('only.data', 'folder:mine'), '--dataset=folder --name=mine'),
    (put('model.weights', 'nowhere/a.safetensors'), 'nowhere/a.safetensors'),
    (put('model.backbone.weights', './x.safetensors'), 'x.safetensors'),
    (
      put('model.text', {'name': 'bert', 'weights': './no-such-folder'}),
      'no-such-folder',
    ),
  ],
)
def test_what_is_absent_is_named(change, says, tmp_path):
  node = config_lib.plain(tiny_config.get_config())
  node['data_dir'] = str(tmp_path)
  change(node)
  with pytest.raises(FileNotFoundError, match=says):
    config_lib.resolve(node)


def test_joined_data_sets_are_one_source(monkeypatch):
  sources = {'a': Toy(1), 'b': Toy(2, seed=1)}
  monkeypatch.setattr(
    config_lib.datasets,
    'load_source',
    lambda name, split, folder, **options: sources[name],
  )
  rows = config_lib.load_rows('a + b', 'train', '')
  assert len(rows) == 12
  assert len(config_lib.load_rows('a+b', 'train', '', limit=5)) == 5
  assert len(config_lib.load_rows('b', 'train', '', limit=50)) == 8


def test_a_stage_may_set_the_model_otherwise():
  assert config_lib.merged(
    {'a': 1, 'b': {'c': 2, 'd': 3}}, {'b': {'c': 4}, 'e': 5}
  ) == {'a': 1, 'b': {'c': 4, 'd': 3}, 'e': 5}
  node = config_lib.plain(tiny_config.get_config())
  node['only']['model'] = {'backbone': {'bn': 'frozen'}, 'depth': 2}
  (stage,) = config_lib.resolve(node, with_data=False)
  assert stage.model.backbone.bn == 'frozen' and stage.model.depth == 2
  assert stage.model.backbone.width == 4


def test_a_config_is_alike_from_a_file_and_from_json(tmp_path):
  config = tiny_config.get_config()
  saved.save(config, str(tmp_path))
  assert saved.load(tmp_path) == config_lib.plain(config)
  (a,) = config_lib.resolve(config, with_data=False)
  (b,) = config_lib.resolve(saved.load(tmp_path), with_data=False)
  assert repr(a.model) == repr(b.model) and a.freeze == b.freeze
  assert isinstance(a.model.levels, tuple)


def test_lengths():
  node = dict(steps=0, epochs=2.5, batch_size=4)
  assert config_lib._length(node, 41) == (25, 10)
  assert config_lib._length(dict(node, steps=7, epochs=0.0), 41) == (7, 10)
  assert config_lib._length(node, 3) == (2, 1)
  assert np.all(np.array(config_lib._length(dict(node, epochs=0.1), 4)) == 1)


def test_a_record_may_be_a_config_dict():
  config = tiny_config.get_config()
  assert isinstance(config, ml_collections.ConfigDict)
  assert config_lib.plain(config) == config_lib.plain(config_lib.plain(config))
  assert network.make(
    config_lib.plain(config)['model'], config_lib.DTYPES['float32']
  )[0].size == (32, 32)
