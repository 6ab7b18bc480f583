"""Tables and figures of the loss-function study, and the runs that repeat them.

Rows go by the paper's own names; `SIG-MSE_l0.25` has lambda .25, `W-BCE_w0.9`
has w .9, R is the centre-bias regularisation. Tables 3 and 4 call MLNET-MSE
W-MSE, KLD+CC+NSS+R LC1, and the sum of all with R LC2.
"""

from salflax.report.paper import (
  Claim,
  Figure,
  Gallery,
  Paper,
  Place,
  Row,
  Study,
  Table,
)

# Folder by printed name, in groups as printed.
PIXEL = {
  'MSE': 'mse',
  'EAD': 'ead',
  'AE': 'ae',
  'MLNET-MSE': 'mlnet_mse',
  **{f'SIG-MSE_l0.{n}': f'sig_mse_{n}' for n in (25, 55, 75)},
}
DISTRIBUTION = {
  'BCE': 'bce',
  **{f'W-BCE_w0.{n}': f'wbce_{n}0' for n in (9, 8, 7, 6, 5, 4)},
  'Focal': 'focal',
  'KLD': 'kld',
  'Bhat': 'bhat',
  'NLL': 'nll',
}
METRIC = {'CC': 'cc', 'NSS': 'nss'}
PERCEPTUAL = {'DF': 'df', 'GM': 'gm'}
COMBINATION = {
  'SIG-MSE+R': 'sig_mse_r',
  'KLD+CC+NSS': 'lc1',
  'KLD+CC+NSS+DF+GM': 'lc1_df_gm',
  'KLD+CC+NSS+R': 'lc1_r',
  'KLD+CC+NSS+DF+GM+SIG-MSE+R': 'lc2_r',
}
SINGLE = {**PIXEL, **DISTRIBUTION, **METRIC, **PERCEPTUAL}
_PRINTED = {**SINGLE, **COMBINATION}
# Equations as they stand in the paper, where the standard form is another.
_AS_PRINTED = {
  'KLD, equation 5 as printed, of densities': 'kld_printed',
  'Focal, equation 9 as printed': 'focal_printed',
  'NLL, equation 10 as printed': 'nll_printed',
  'KLD+CC+NSS, equations as printed': 'lc1_printed',
  'all with R, DF and GM at weight 1 as printed': 'lc2_r_printed',
}
_OTHERS = ('Itti', 'Rare2012', 'GBVS', 'AWS', 'Sam-ResNet', 'SalGan')
_OTHERS += ('Sam-VGG', 'ShallowNet', 'DeepConvNet')
_TRIED = {'W-MSE': 'mlnet_mse', 'LC1': 'lc1_r', 'LC2': 'lc2_r'}


def _row(label, folder, *, test='test', printed=None, against=None):
  place = Place(folder, test)
  return Row(
    label, place, 'pure', label if printed is None else printed, against
  )


def _elsewhere(data):
  test, first = f'{data.lower()}-all', Place('mlnet_mse', f'{data.lower()}-all')
  return [
    _row(f'{data} {name}', folder, test=test, against=first)
    for name, folder in _TRIED.items()
  ]


def _without(*folders):
  return tuple(f for f in _PRINTED.values() if f not in folders)


_CLAIMS = (
  Claim(
    'Combinations beat single losses (section 4.3): the mean of all '
    'combinations, above that of all single losses',
    tuple(COMBINATION.values()),
    tuple(SINGLE.values()),
  ),
  Claim(
    'Combinations beat single losses: the best of each side',
    tuple(COMBINATION.values()),
    tuple(SINGLE.values()),
    best=True,
  ),
  Claim(
    'KLD+CC+NSS beats each of its parts: above the best of them',
    ('lc1',),
    ('kld', 'cc', 'nss'),
    best=True,
  ),
  Claim(
    'Perceptual losses alone are weak (section 4.3): the mean of all other '
    'single losses, above that of DF and GM',
    tuple(f for f in SINGLE.values() if f not in PERCEPTUAL.values()),
    tuple(PERCEPTUAL.values()),
  ),
  Claim(
    'Perceptual losses help in a sum (section 4.3, SIM, AUC-B and KL): '
    'KLD+CC+NSS+DF+GM above KLD+CC+NSS',
    ('lc1_df_gm',),
    ('lc1',),
  ),
  Claim(
    'The centre-bias regularisation helps: KLD+CC+NSS+R above KLD+CC+NSS',
    ('lc1_r',),
    ('lc1',),
  ),
  Claim(
    'The sum of all (LC2) is the best: above the best of all others',
    ('lc2_r',),
    _without('lc2_r'),
    best=True,
  ),
  Claim('LC2 above LC1', ('lc2_r',), ('lc1_r',)),
  Claim('LC2 above MSE (section 4.3: by 14 % in CC)', ('lc2_r',), ('mse',)),
)

PAPER = Paper(
  source='bruckert2021',
  name='loss_study',
  protocol='mit',
  metrics={
    'CC': 'mit/cc',
    'SIM': 'mit/sim',
    'AUC_J': 'mit/auc_judd',
    'AUC_B': 'mit/auc_borji',
    'NSS': 'mit/nss',
    'EMD': 'mit/emd',
    'KL': 'mit/kl',
  },
  told=False,
  curves=(),
  note=(
    'The paper prints one run of each loss, without intervals; it trains on '
    '500 pictures of MIT1003 that it does not list, and has no code that is '
    'published.'
  ),
  tables=(
    Table(
      '1',
      'Other models on MIT1003, and the network trained with MSE',
      (
        *(Row(name, None, 'pure', name) for name in _OTHERS),
        _row('Our model', 'mse'),
      ),
      data='mit1003',
      note=(
        "The printed row of the paper's own model has NSS 2.04, where its MSE "
        'row of Table 2 has 2.0580.'
      ),
    ),
    Table(
      '2',
      'One network, one loss a row',
      (
        *(_row(label, folder) for label, folder in _PRINTED.items()),
        *(_row(label, f, printed='') for label, f in _AS_PRINTED.items()),
      ),
      against=Place('mse'),
      data='mit1003',
      note=(
        'As functions W-BCE with w = .5 is half of BCE, so that their two rows '
        'differ by the length of the steps and by chance alone.'
      ),
    ),
    Table(
      '3',
      'Another data set than the one that was trained on',
      (*_elsewhere('CAT2000'), *_elsewhere('FiWi')),
      elsewhere='*-all',
      note=(
        'As in the paper (section 4.4), the models are those of Table 2, which '
        'saw no picture of these data sets.'
      ),
    ),
    Table(
      '4',
      'Another network: SAM-VGG',
      tuple(
        _row(f'MIT_SAM-VGG {name}', f'sam_{folder}')
        for name, folder in _TRIED.items()
      ),
      against=Place('sam_mlnet_mse'),
      data='mit1003',
    ),
  ),
  study=Study(
    '2',
    _CLAIMS,
    chance=('bce', 'wbce_50'),
    chance_note='BCE and W-BCE with w = .5, which are one function',
  ),
  figures=(
    Figure(
      '2',
      'Mean of the training maps, and its marginals',
      ('mse',),
      'evaluate/test/centre_bias.png',
    ),
  ),
  galleries=(
    Gallery('3', 'What each loss predicts', '2'),
    Gallery(
      '4',
      'Good with the sum of all, bad with one loss (SAM-VGG)',
      '4',
      good='sam_lc2_r',
      bad='sam_mlnet_mse',
    ),
  ),
)
