"""The main job: text-guided TranSalNet, free viewing first, then SJTU-TIS.

    salflax train --config=configs/sjtu_tis.py

Options come after a colon, e.g. configs/sjtu_tis.py:fusion=gate,levels=1.
The size of the published network by default; `small` is one that a CPU trains
in an hour, on a frozen EfficientNet-Lite0:

    salflax train --config=configs/sjtu_tis.py:small

Data: `salflax prepare` makes `sjtu_tis`, and what `free` names for the first
stage.
"""

from configs import common

CONDITIONS = ('pure', 'whole', 'all', 'salient', 'non_salient')


def _paper(config, options):
  """The network of the paper; ResNet-50 v1.5, all three levels."""
  config.model = common.transalnet()
  levels = config.model.levels
  config.model.update(
    text=common.text_encoder(options.text),
    fuse=levels[-options.levels :],
    fusion=options.fusion or 'token',
    place=options.place,
  )
  return 'resize_pad(288, 384)', 'imagenet'


def _small(config, options):
  """A network that a CPU trains, on stored features of a frozen backbone."""
  backbone, pixels = common.small_backbone(options.backbone)
  # ResNet-50 lacks its 1/32 level here.
  levels = ('1/16', '1/32') if options.backbone == 'lite0' else ('1/16',)
  size = (288, 384) if options.backbone == 'lite0' else (240, 320)
  config.model = dict(
    name='transalnet',
    size=size,
    backbone=backbone,
    text=common.text_encoder(options.text),
    fuse=levels,
    fusion=options.fusion or 'bilinear(dim=256)',
    place=options.place,
    levels=levels,
    widths=(256,) * len(levels),
    depth=2,
    head_dim=64,
    mlp_ratio=2,
    decoder_widths=(128, 64, 32),
    out_stride=4,
    bn='train',
    dropout=0.1,
  )
  return f'resize_pad{size}', pixels


def get_config(arg=''):
  """Makes the config.

  Args:
    arg: options: `small`, with backbone=lite0|resnet50_v1|resnet50;
      fusion=gate|gate_hw|full at the backbone's output,
      te_cross|te_bilinear|te_prepend in the transformer encoders, or
      lowrank|token|bilinear, at the backbone's output unless place=encoder;
      levels=1|2|3 that the sentence joins, from the coarsest (not `small`);
      text=weights of the text encoder; free=data of the first stage;
      condition=one of SJTU-TIS, '' for all; loss=of both stages.
  """
  options = common.options(
    arg,
    dict(
      small=False,
      backbone='lite0',
      fusion='',
      place='',
      levels=3,
      text='all-MiniLM-L6-v2',
      free='salicon2017',
      condition='',
      loss='10*kld + 2*cc + sim + nss',
    ),
  )
  common.choice('levels', options.levels, (1, 2, 3))
  common.choice('condition', options.condition, ('', *CONDITIONS))
  config = common.get_config()
  config.stages = ('free', 'sjtu')
  frame, pixels = (_small if options.small else _paper)(config, options)
  rows = dict(
    pp=f'{frame}|flip(0.5)|rasterize|normalize("{pixels}")',
    eval_pp=f'{frame}|rasterize|normalize("{pixels}")',
    loss=options.loss,
  )
  frozen = ('backbone/.*', 'text/.*')
  config.free = common.stage(
    data=options.free,
    exclude='salicon_in_sjtu_tis' if 'salicon' in options.free else '',
    batch_size=8,
    lr=1e-5,
    schedule='staircase(every=3)',
    epochs=30.0,
    patience=5,
    freeze=('text/.*',),
    **rows,
  )
  config.sjtu = common.stage(
    data='sjtu_tis',
    conditions=(options.condition,) if options.condition else (),
    batch_size=8,
    lr=1e-5,
    schedule='staircase(every=5)',
    epochs=10.0,
    init='@free',
    freeze=frozen,
    model={} if options.small else dict(backbone=dict(bn='frozen')),
    **rows,
  )
  if options.small:
    recipe = dict(
      optimizer='adamw(decay=0.05)',
      schedule='cosine(warmup=0.1)',
      clip=1.0,
      batch_size=16,
      patience=0,
    )
    # Without a sentence the network is the plain one: no text to carry along.
    config.free.update(
      recipe,
      # Nothing is reported on these data sets.
      split='fit+test',
      lr=7e-4,
      epochs=6.0,
      freeze=('backbone/.*',),
      model=dict(fuse=(), text=dict(name='none')),
    )
    config.sjtu.update(
      recipe,
      lr=5e-4,
      epochs=5.0,
      lr_scale=(('encoder_16/.*', 0.2),),
    )
  return config
