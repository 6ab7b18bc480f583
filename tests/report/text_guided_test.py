"""The config of the text-guided paper: rows, what trains, where they start."""

import jax
import jax.numpy as jnp
import pytest
import tiny
import tiny_config

from configs import common, text_guided
from salflax import models
from salflax.config import resolve as config_lib
from salflax.config import saved
from salflax.models.layers import TextFeatures
from salflax.predict import trained
from salflax.report import papers
from salflax.train import checks, loop, optim


def section(row, **options):
  argument = ','.join([f'row={row}', *(f'{k}={v}' for k, v in options.items())])
  config = config_lib.plain(text_guided.get_config(argument))
  return config, config[config['stages'][-1]]


def params_of(config, node):
  """Computes the shapes of a row's parameters, sentences being 256 wide."""
  record = config_lib.merged(config['model'], node['model'])
  backbone = {k: v for k, v in record['backbone'].items() if k != 'weights'}
  record['backbone'] = backbone
  model = models.build(dict(record, text=None))
  text = TextFeatures(
    jnp.zeros((1, 35, 768)), jnp.ones((1, 35), bool), jnp.zeros((1, 256))
  )
  image = jnp.zeros((1, *model.size, 3))
  init = lambda key: model.init(key, image, text, train=False)
  return jax.eval_shape(init, jax.random.key(0))['params']


# Counted on the released code, each form of Table IV with its `gate`.
@pytest.mark.slow
@pytest.mark.parametrize(
  'row, trains',
  [
    ('non_salient_1att_last2conv', 65_030_529),
    ('non_salient_3att_none', 407_371_776),
    ('non_salient_3att_last2conv', 407_390_593),
    ('non_salient_3att_last4conv', 407_759_425),
    ('non_salient_3att_all_decoder', 456_374_721),
  ],
)
def test_what_trains_in_the_rows_of_table_4(row, trains):
  config, node = section(row, fusion='gate')
  params = params_of(config, node)
  assert optim.count(params, node['freeze'])[0] == trains


@pytest.mark.parametrize('scale', ['paper', 'small'])
def test_last_convolutions_are_those_before_the_map(scale):
  config, node = section('non_salient_1att_last2conv', scale=scale)
  frozen = optim.frozen_names(params_of(config, node), node['freeze'])
  names = set(optim.path_names(params_of(config, node))) - frozen
  last = {'paper': 6, 'small': 4}[scale]
  assert {n.split('/')[1] for n in names if n.startswith('decoder')} == {
    f'conv{last}',
    f'batchnorm{last}',
    'conv7',
  }
  assert {n.split('/')[0] for n in names} == {'decoder', 'fusion_32'}


def test_every_printed_row_has_a_config():
  rows = [r for t in papers.PAPERS['text_guided'].tables for r in t.rows]
  printed = {row.place.folder for row in rows if row.printed}
  assert len(printed) == 11 and printed <= set(text_guided.ROWS)


def test_frozen_layers_keep_their_statistics():
  _, node = section('non_salient_3att_last2conv')
  assert node['model']['bn'] == 'frozen'
  _, node = section('non_salient_3att_last2conv', freeze_bn_stats=0)
  assert node['model']['bn'] == 'train'
  _, node = section('non_salient_3att_all_decoder')
  assert node['model']['bn'] == 'train'


def test_images_of_both_data_sets_are_left_out_of_the_first_stage():
  _, node = section('SALICON_pretrained')
  assert node['exclude'] == 'salicon_in_sjtu_tis'
  _, node = section('SALICON_pretrained', free='osie')
  assert node['exclude'] == ''


@pytest.mark.parametrize(
  'argument, says',
  [
    ('row=finetuned_pur', "'finetuned_pur'. Did you mean 'finetuned_pure'"),
    ('scale=smal', "'smal'. Did you mean 'small'"),
  ],
)
def test_what_is_misspelt_is_named(argument, says):
  with pytest.raises(ValueError, match=says):
    text_guided.get_config(argument)


def test_choices():
  common.choice('form', 'b', ('a', 'b'))
  with pytest.raises(ValueError, match='Allowed: a, b'):
    common.choice('form', 'zzz', ('a', 'b'))


@pytest.mark.nightly  # trains twice
def test_a_run_starts_from_another(tmp_path):
  bert = tiny.bert_folder(tmp_path / 'bert')
  first = tiny_config.get_config()
  first.only.steps = 2
  saved.save(first, str(tmp_path / 'a'))
  loop.run(config_lib.resolve(first, str(tmp_path / 'a')), str(tmp_path / 'a'))
  second = config_lib.plain(tiny_config.get_config(f'bert={bert}'))
  second['only'].update(init=str(tmp_path / 'a'), steps=1, lr=1e-12)
  (stage,) = config_lib.resolve(second, str(tmp_path / 'b'))
  checks.check(stage)
  saved.save(second, str(tmp_path / 'b'))
  loop.run([stage], str(tmp_path / 'b'))
  ours = trained.load(tmp_path / 'b').variables['params']
  theirs = trained.load(tmp_path / 'a').variables['params']
  jax.tree.map(
    lambda a, b: (
      None if jnp.allclose(a, b, atol=1e-6) else pytest.fail('differ')
    ),
    {k: ours[k] for k in theirs},
    theirs,
  )
  # It is read without the run that it came from.
  (tmp_path / 'a').rename(tmp_path / 'gone')
  trained.load(tmp_path / 'b')
  with pytest.raises(ValueError, match='the folder of a run'):
    config_lib.resolve(second, str(tmp_path / 'b'))


def test_another_network_is_no_start(tmp_path):
  saved.save(tiny_config.get_config(), str(tmp_path))
  node = config_lib.plain(tiny_config.get_config())
  node['only'].update(init=str(tmp_path))
  node['model'].update(widths=(8, 16))
  (stage,) = config_lib.resolve(node)
  with pytest.raises(ValueError, match=r'(?s)init .*encoder'):
    checks.check(stage)
