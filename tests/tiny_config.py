"""The config of a tiny network, also for python -m salflax.main --config."""

from configs import common

PP = 'resize_pad(32, 32)|flip(0.5)|rasterize|normalize("imagenet")'
EVAL_PP = 'resize_pad(32, 32)|rasterize|normalize("imagenet")'


def get_config(arg=''):
  """Makes a config with one stage, 'only'.

  Args:
    arg: bert=folder of a text encoder, '' for none; data=data set.
  """
  options = common.options(arg, dict(bert='', data='scenes'))
  config = common.get_config()
  config.stages = ('only',)
  config.log_every = 1
  config.threads = 1
  config.evaluate.protocols = ''
  config.model = dict(
    name='transalnet',
    size=(32, 32),
    backbone=dict(name='resnet', depths=(1, 1), width=4),
    text=dict(name='none'),
    levels=('1/4', '1/8'),
    widths=(16, 16),
    depth=1,
    head_dim=8,
    mlp_ratio=1,
    decoder_widths=(8,),
    out_stride=4,
  )
  if options.bert:
    config.model.text = dict(name='bert', weights=options.bert, length=8)
    config.model.fuse = ('1/8',)
    config.model.fusion = 'token(dim=8)'
  config.only = common.stage(
    data=options.data,
    pp=PP,
    eval_pp=EVAL_PP,
    loss='10*kld + 2*cc',
    lr=1e-2,
    batch_size=4,
    steps=6,
    eval_epochs=0.6,
  )
  return config


def put(path, value):
  """Makes a change of a config: config.<path> = value."""

  def change(node):
    *parents, last = path.split('.')
    for parent in parents:
      node = node[parent]
    node[last] = value

  return change
