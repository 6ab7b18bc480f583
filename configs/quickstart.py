"""Text-guided saliency on embedded scenes: no data, no network, minutes.

    salflax train --config=configs/quickstart.py

Stage 1 looks at scenes without a sentence, stage 2 at the same kind of scenes
under four text conditions, as the SJTU-TIS data set has them.
"""

from configs import common

FRAME = '96, 128'
PP = f'resize_pad({FRAME})|flip(0.5)|rasterize|normalize("imagenet")'
EVAL_PP = f'resize_pad({FRAME})|rasterize|normalize("imagenet")'


def get_config(arg=''):
  """Makes the config.

  Args:
    arg: options such as 'epochs=2,fusion=bilinear'.
  """
  options = common.options(arg, dict(epochs=4.0, fusion='token(dim=96)'))
  config = common.get_config()
  config.stages = ('free', 'text')
  config.evaluate.protocols = 'mit'
  config.model = dict(
    name='transalnet',
    size=(96, 128),
    backbone=dict(name='resnet', depths=(2, 2, 2), width=16),
    text=common.text_encoder('all-MiniLM-L6-v2'),
    fuse=('1/8', '1/16'),
    fusion=options.fusion,
    levels=('1/8', '1/16'),
    widths=(96, 96),
    head_dim=32,
    mlp_ratio=2,
    decoder_widths=(64, 32),
    out_stride=4,
  )
  recipe = dict(
    data='scenes',
    pp=PP,
    eval_pp=EVAL_PP,
    loss='10*kld + 2*cc',
    optimizer='adamw(decay=0.01)',
    lr=1e-3,
    schedule='cosine(warmup=0.1)',
    batch_size=16,
    freeze=('text/.*',),
  )
  config.free = common.stage(
    conditions=('pure',),
    limit=800,
    eval_limit=40,
    epochs=0.75 * options.epochs,
    **recipe,
  )
  config.text = common.stage(
    limit=2000,
    eval_limit=160,
    test_limit=400,
    epochs=options.epochs,
    eval_epochs=2.0,
    init='@free',
    **recipe,
  )
  return config
