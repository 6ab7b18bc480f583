"""Every row of the tables of Bruckert et al., The Quest For The Loss Function.

    salflax train --config=configs/loss_study.py:row=lc2_r \\
        --workdir=runs/loss_study/lc2_r/seed0

One network, one data set, one budget; only the loss differs. The names of rows
are explained in salflax/report/papers/loss_study.toml; `loss=` tries any other
sum in the row's place. `bash launch/paper.sh loss_study` trains them all and
writes the report.

`scale=paper` is the published network and recipe, where it says. `scale=small`
is what two CPU cores train in minutes: the same network, with images of
120x160 and Adam, which makes up for the scales of the losses.
"""

import re

from configs import common

# The network ends in a ReLU, and in a sigmoid for losses on distributions
# (section 3.1), hence for the sums with one, too.
_PIXEL = dict(output='relu')
_DENSITY = dict(output='sigmoid')
_LC1 = '10*kld + 2*cc + nss'
# At weight 1 the Gram matrices of VGG's plain features are worth hundreds, LC1
# about ten: the sum would be GM with a little noise.
_DFGM = (
  'df(shrink={shrink}, relative=True) + gm(shrink={shrink}, relative=True)'
)
_R = 'sig_mse(lam=0.55) + center_bias'
FIRST = 'mse'
ROWS = {
  # Table 2: on pixels.
  FIRST: dict(_PIXEL, loss='mse'),
  'ead': dict(_PIXEL, loss='ead'),
  'ae': dict(_PIXEL, loss='ae'),
  'mlnet_mse': dict(_PIXEL, loss='mlnet_mse'),
  'sig_mse_25': dict(_PIXEL, loss='sig_mse(lam=0.25)'),
  'sig_mse_55': dict(_PIXEL, loss='sig_mse(lam=0.55)'),
  'sig_mse_75': dict(_PIXEL, loss='sig_mse(lam=0.75)'),
  # On distributions.
  'bce': dict(_DENSITY, loss='bce'),
  **{
    f'wbce_{w}0': dict(_DENSITY, loss=f'wbce(w=0.{w})')
    for w in (9, 8, 7, 6, 5, 4)
  },
  'focal': dict(_DENSITY, loss='focal'),
  'kld': dict(_DENSITY, loss='kld'),
  'bhat': dict(_DENSITY, loss='bhat'),
  'nll': dict(_DENSITY, loss='nll'),
  # Metrics of saliency.
  'cc': dict(_PIXEL, loss='cc'),
  'nss': dict(_PIXEL, loss='nss'),
  # Perceptual.
  'df': dict(_PIXEL, loss='df(shrink={shrink})'),
  'gm': dict(_PIXEL, loss='gm(shrink={shrink})'),
  # Combinations.
  'sig_mse_r': dict(_PIXEL, loss=_R),
  'lc1': dict(_DENSITY, loss=_LC1),
  'lc1_df_gm': dict(_DENSITY, loss=f'{_LC1} + {_DFGM}'),
  'lc1_r': dict(_DENSITY, loss=f'{_LC1} + center_bias'),
  'lc2_r': dict(_DENSITY, loss=f'{_LC1} + {_DFGM} + {_R}'),
  # Table 4: another network.
  'sam_mlnet_mse': dict(_PIXEL, loss='mlnet_mse', network='sam'),
  'sam_lc1_r': dict(_DENSITY, loss=f'{_LC1} + center_bias', network='sam'),
  'sam_lc2_r': dict(_DENSITY, loss=f'{_LC1} + {_DFGM} + {_R}', network='sam'),
  # Not printed: equations as they stand in the paper, where the standard form
  # is another.
  'kld_printed': dict(_DENSITY, loss='kld_printed'),
  'focal_printed': dict(_DENSITY, loss='focal_printed'),
  'nll_printed': dict(_DENSITY, loss='nll_printed'),
  'lc1_printed': dict(_DENSITY, loss='10*kld_printed_raw + 2*cc + nss_printed'),
  'lc2_r_printed': dict(
    _DENSITY,
    loss=f'{_LC1} + df(shrink={{shrink}}) + gm(shrink={{shrink}}) + {_R}',
  ),
}
# By scale: the perceptual losses see means over so many pixels squared.
_SHRINK = {'paper': 1, 'small': 2}


def _network(network, scale):
  """Writes the record of the network."""
  small = scale == 'small'
  if network == 'aspp':
    return dict(
      name='aspp',
      size=(120, 160) if small else (300, 400),
      backbone=dict(name='vgg16', weights='vgg16.safetensors'),
      # Adam's steps suit values about 1; features reach hundreds.
      feature_scale=0.01 if small else 1.0,
    )
  return dict(
    name='sam',
    size=(120, 160) if small else (240, 320),
    backbone=dict(name='vgg16', dilated=True, weights='vgg16.safetensors'),
    width=64 if small else 512,
    priors=8 if small else 16,
  )


def _output(name, scale):
  """Names the output of a row at a scale."""
  # Human maps are zero nearly everywhere, which kills a ReLU within Adam's
  # first steps: under AE all maps were zero from then on.
  return 'projected_relu' if scale == 'small' and name == 'relu' else name


def _recipe(network, scale):
  """Chooses how a network is trained."""
  if scale == 'small':
    return dict(
      optimizer='adamw(decay=0.01)',
      lr=1e-3,
      schedule='cosine(warmup=0.1)',
      clip=1.0,
      batch_size=8,
      epochs=3.0,
      eval_epochs=1.0,
      freeze=('backbone/.*',),
    )
  if network == 'aspp':
    # Epochs and momentum are not printed.
    return dict(
      optimizer='sgd(momentum=0.9)',
      lr=1e-3,
      batch_size=60,
      epochs=100.0,
      patience=10,
      freeze=('backbone/.*',),
    )
  # SAM's own recipe; its backbone learns, too.
  return dict(
    optimizer='rmsprop', lr=1e-4, batch_size=10, epochs=10.0, patience=3
  )


def get_config(arg=''):
  """Makes the config.

  Args:
    arg: options: row= one of ROWS; scale=paper|small; data= what to train and
      test on; loss= another sum in place of the row's; output= relu,
      projected_relu or sigmoid, '' is the row's; network=aspp|sam, '' is the
      row's; maps= how maps go to the VGG of the perceptual losses.
  """
  options = common.options(
    arg,
    dict(
      row=FIRST,
      scale='paper',
      data='',
      loss='',
      output='',
      network='',
      maps='unit',
    ),
  )
  common.choice('row', options.row, ROWS)
  common.choice('scale', options.scale, ('paper', 'small'))
  row = ROWS[options.row]
  network = options.network or row.get('network', 'aspp')
  common.choice('network', network, ('aspp', 'sam'))
  outputs = ('', 'relu', 'projected_relu', 'sigmoid')
  common.choice('output', options.output, outputs)
  config = common.get_config()
  config.model = dict(
    _network(network, options.scale),
    output=options.output or _output(row['output'], options.scale),
    text=dict(name='none'),
  )
  height, width = config.model['size']
  frame = f'resize_pad({height}, {width})|rasterize|normalize("caffe_vgg")'
  loss = options.loss or row['loss'].format(shrink=_SHRINK[options.scale])
  vgg = dict(weights='@backbone', normalize=options.maps)
  small = options.scale == 'small'
  config.stages = ('study',)
  config.study = common.stage(
    data=options.data or ('osie' if small else 'mit1003'),
    pp=frame,
    eval_pp=frame,
    loss=loss,
    perceptual=vgg if re.search(r'\b(df|gm|lc2)', loss) else {},
    **_recipe(network, options.scale),
  )
  config.evaluate.protocols = 'mit|emd'
  # What every row is held to is the same: once is enough.
  config.evaluate.controls = options.row == FIRST
  config.evaluate.keep_maps = config.evaluate.store = True
  return config
