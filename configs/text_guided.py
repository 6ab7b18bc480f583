"""Every row of the tables of Huang, Text-Guided Saliency Prediction Model.

    salflax train \\
      --config=configs/text_guided.py:row=SALICON_pretrained \\
      --workdir=runs/text_guided/SALICON_pretrained/seed0
    salflax train \\
      --config=configs/text_guided.py:row=non_salient_3att_none \\
      --config.sjtu.init=runs/text_guided/SALICON_pretrained/seed0 \\
      --workdir=runs/text_guided/non_salient_3att_none/seed0

`bash launch/paper.sh text_guided` trains them all and writes the report. Rows
have the names of salflax/report/papers/reference.csv; those that the paper does
not print are further forms of its three schemes.

`scale=paper` is the published network. `scale=small` is one that two CPU cores
train: images of 192x256, narrow encoders, and a frozen EfficientNet-Lite0; or
a frozen ResNet-50 up to layer3, whose output's 2x2 means stand for the missing
1/32 level.
"""

from configs import common

LEVELS = ('1/8', '1/16', '1/32')
FIRST = 'SALICON_pretrained'
# What trains beside the text's parameters (Table IV): decoder convolutions
# counted from the map, the last of them with its normalisation.
TRAIN = ('none', 'last2conv', 'last4conv', 'all_decoder')
_SCHEME1 = dict(condition='non_salient', attention=1, train='last2conv')
_SCHEME2 = dict(_SCHEME1, attention=3)
_VSRN = dict(kind='vsrn')
ROWS = {
  # Tables I and II: without a sentence, scored on free viewing and on SJTU-TIS.
  FIRST: {},
  # Table III.
  'finetuned_pure': dict(_SCHEME1, condition='pure'),
  'finetuned_salient': dict(_SCHEME1, condition='salient'),
  'finetuned_all': dict(_SCHEME1, condition='all'),
  # Table IV; its first row is Table III's non_salient.
  'non_salient_1att_last2conv': _SCHEME1,
  'non_salient_3att_none': dict(_SCHEME1, attention=3, train='none'),
  'non_salient_3att_last2conv': dict(_SCHEME1, attention=3),
  'non_salient_3att_last4conv': dict(_SCHEME1, attention=3, train='last4conv'),
  'non_salient_3att_all_decoder': dict(
    _SCHEME1, attention=3, train='all_decoder'
  ),
  # Table V.
  'non_salient_scheme2_transencoder': dict(_SCHEME2, fusion='te_cross'),
  # Table VI.
  'non_salient_scheme3_contrastive': dict(_SCHEME1, contrast=_VSRN),
  # Not printed: the other forms of the schemes.
  'non_salient_gate': dict(_SCHEME1, fusion='gate'),
  'non_salient_full': dict(_SCHEME1, fusion='full'),
  'non_salient_lowrank': dict(_SCHEME1, fusion='lowrank'),
  'non_salient_bilinear': dict(_SCHEME1, fusion='bilinear'),
  'non_salient_te_bilinear': dict(_SCHEME2, fusion='te_bilinear'),
  'non_salient_te_prepend': dict(_SCHEME2, fusion='te_prepend'),
  'non_salient_contrastive_only': dict(
    _SCHEME1, attention=0, contrast=_VSRN, train='all_decoder'
  ),
  # As released: a ViT without weights looks at the masked image; at `small`,
  # the network's own backbone does.
  'non_salient_contrastive_order': dict(_SCHEME1, contrast=dict(kind='order')),
  # The paper's other base model, in its released code: the sentence gates the
  # attention of SAM. It trains its own first stage in the same run.
  'non_salient_sam_text': dict(
    _SCHEME1, attention=0, train='all_decoder', network='sam'
  ),
  'all_conditions': dict(
    _SCHEME1, condition='', attention=3, train='all_decoder'
  ),
}


def _paper(config):
  """ResNet-50 v1.5 and TranSalNet as published; Adam at 1e-5, batch 8."""
  config.model = common.transalnet()
  free = dict(
    data='salicon2017',
    epochs=40.0,
    schedule='staircase(every=3)',
    patience=5,
  )
  tuned = dict(epochs=10.0, schedule='staircase(every=5)')
  return 'imagenet', dict(optimizer='adam', lr=1e-5, batch_size=8), free, tuned


def _small(config, backbone):
  """What two CPU cores train in minutes, on stored features."""
  record, pixels = common.small_backbone(backbone)
  config.model = dict(
    name='transalnet',
    size=(192, 256),
    backbone=record,
    levels=LEVELS,
    widths=(64, 192, 192),
    depth=2,
    head_dim=64,
    mlp_ratio=2,
    decoder_widths=(64, 32),
    out_stride=4,
    bn='train',
    dropout=0.1,
  )
  recipe = dict(
    optimizer='adamw(decay=0.05)',
    schedule='cosine(warmup=0.1)',
    clip=1.0,
    batch_size=16,
  )
  free = dict(
    data='folder:freeview+osie',
    lr=7e-4,
    epochs=6.0,
    freeze=('backbone/.*',),
  )
  return pixels, recipe, free, dict(lr=5e-4, epochs=12.0)


def _sam(config, scale):
  """SAM in TranSalNet's place; at `small`, the narrow form of SAM-ResNet."""
  small = scale == 'small'
  backbone = dict(name='vgg16', dilated=True, weights='vgg16.safetensors')
  level = 'conv5_3'
  if small:
    backbone = config.model.backbone.to_dict()
    level = '1/8'  # SAM's cells; EfficientNet has no dilated form
    if backbone['name'] != 'efficientnet_lite':
      backbone.update(dilated=True)
      level = 'layer3'
  config.model = dict(
    name='sam',
    size=(192, 256) if small else (240, 320),
    backbone=backbone,
    levels=(level,),
    width=64 if small else 512,
    priors=8 if small else 16,
    output='sigmoid' if small else 'relu',
  )


def _frozen(model, train):
  """Writes the pattern of what keeps its bits: all but the named parts."""
  fine = [n for n in range(1, 7) if 2 ** (6 - n) >= model['out_stride']]
  convs = [*fine, 7]
  parts = ['fusion_[0-9]+', 'contrast/(?!vision/).+']
  if train == 'all_decoder':
    parts += ['encoder_[0-9]+', 'decoder']
  elif train != 'none':
    number = int(train.removeprefix('last').removesuffix('conv'))
    parts += [f'decoder/conv{n}' for n in convs[-number:]]
    # The one normalisation that the released code defines among them.
    parts.append(f'decoder/batchnorm{convs[-2]}')
  return f'(?!({"|".join(parts)})/).*'


def _transalnet_text(row, options):
  """Lists attributes of TranSalNet in the second stage."""
  attention = row['attention']
  fusion = options.fusion or row.get('fusion', 'token')
  # Statistics of what is frozen stay; the released code lets them move during
  # the first epoch.
  still = options.freeze_bn_stats and row['train'] != 'all_decoder'
  # Small backbones are frozen in any case, and so few images of one condition
  # (about 170) are learned by heart without more dropout.
  small = options.scale == 'small'
  return dict(
    **(dict(dropout=0.3) if small else dict(backbone=dict(bn='frozen'))),
    fuse=LEVELS[len(LEVELS) - attention :],
    fusion=fusion,
    place='encoder' if fusion.startswith('te_') else 'backbone',
    bn='frozen' if still else 'train',
  )


def _tune(config, row, options, rows, recipe):
  """Sets the second stage of a row: fine-tuning on SJTU-TIS."""
  sam = row.get('network') == 'sam'
  model = dict(gate=64) if sam else _transalnet_text(row, options)
  if sam or row['attention'] or row.get('contrast'):
    model['text'] = common.text_encoder(options.text)
  extra = {}
  if contrast := row.get('contrast'):
    small = options.scale == 'small'
    if contrast['kind'] == 'order' and not small:
      contrast = dict(contrast, vision=dict(name='vit'))
    extra['contrast'] = common.contrast(stride=2 if small else 1, **contrast)
  frozen = ('backbone/.*', 'text/.*')
  if not sam:
    frozen = (_frozen(config.model, row['train']),)
  config.sjtu = common.stage(
    data='sjtu_tis',
    conditions=(row['condition'],) if row['condition'] else (),
    init='@free' if sam else options.init or '@free',
    freeze=frozen,
    model=model,
    **rows,
    **recipe,
    **extra,
  )


def get_config(arg=''):
  """Makes the config.

  Args:
    arg: options: row= one of ROWS; scale=paper|small, small with
      backbone=lite0|resnet50_v1|resnet50; init=folder of the run of
      SALICON_pretrained to start from, '' trains it first in the same run, as
      a row with a network of its own does in any case; free=data of that first
      stage; fusion=form of the text's entry, '' is the row's;
      text=weights of the text encoder; loss=of both stages; freeze_bn_stats=0
      lets running statistics of frozen layers move.
  """
  options = common.options(
    arg,
    dict(
      row='non_salient_1att_last2conv',
      scale='paper',
      backbone='lite0',
      init='',
      free='',
      fusion='',
      text='all-MiniLM-L6-v2',
      loss='10*kld + 2*cc + sim + nss',
      freeze_bn_stats=True,
    ),
  )
  common.choice('row', options.row, ROWS)
  common.choice('scale', options.scale, ('paper', 'small'))
  config = common.get_config()
  pixels, recipe, free, tuned = (
    _paper(config)
    if options.scale == 'paper'
    else _small(config, options.backbone)
  )
  sam = ROWS[options.row].get('network') == 'sam'
  if sam:
    _sam(config, options.scale)
    pixels = pixels if options.scale == 'small' else 'caffe_vgg'
  # Without a sentence the network is the plain one.
  config.model.update(text=dict(name='none'), **({} if sam else dict(fuse=())))
  height, width = config.model['size']
  frame = f'resize_pad({height}, {width})'
  rows = dict(
    pp=f'{frame}|flip(0.5)|rasterize|normalize("{pixels}")',
    eval_pp=f'{frame}|rasterize|normalize("{pixels}")',
    loss=options.loss,
  )
  if options.row == FIRST or sam or not options.init:
    data = options.free or free['data']
    free['data'] = data
    # Images that both data sets show.
    free['exclude'] = 'salicon_in_sjtu_tis' if 'salicon' in data else ''
    config.stages += ('free',)
    config.free = common.stage(**{**rows, **recipe, **free})
  if options.row != FIRST:
    config.stages += ('sjtu',)
    _tune(config, ROWS[options.row], options, rows, {**recipe, **tuned})
  return config
