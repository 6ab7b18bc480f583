"""Tables and figures of the loss-function study, and the runs that repeat them.

Rows go by the paper's own names; `SIG-MSE_l0.25` has lambda .25, `W-BCE_w0.9`
has w .9, R is the centre-bias regularisation. Tables 3 and 4 call MLNET-MSE
W-MSE, KLD+CC+NSS+R LC1, and the sum of all with R LC2.
"""

from salflax.report.papers.paper import (
  Claim,
  Figure,
  Gallery,
  Paper,
  Place,
  Study,
  Table,
  rows,
)

_LOSSES = rows('loss_study', '2')
_SUMS = ('sig_mse_r', 'lc1', 'lc1_df_gm', 'lc1_r', 'lc2_r')
_PERCEPTUAL = ('df', 'gm')
_SINGLE = tuple(
  row.place.folder
  for row in _LOSSES
  if row.printed and row.place.folder not in _SUMS
)

_OTHERS = tuple(f for f in _SINGLE if f not in _PERCEPTUAL)
_BUT_ALL = tuple(f for f in (*_SINGLE, *_SUMS) if f != 'lc2_r')
_PARTS = ('kld', 'cc', 'nss')

_MEANS = (
  'Combinations beat single losses (section 4.3): the mean of all '
  'combinations, above that of all single losses'
)
_WEAK = (
  'Perceptual losses alone are weak (section 4.3): the mean of all other '
  'single losses, above that of DF and GM'
)
_HELP = (
  'Perceptual losses help in a sum (section 4.3, SIM, AUC-B and KL): '
  'KLD+CC+NSS+DF+GM above KLD+CC+NSS'
)
_BEST = 'Combinations beat single losses: the best of each side'
_EACH = 'KLD+CC+NSS beats each of its parts: above the best of them'
_PRIOR = 'The centre-bias regularisation helps: KLD+CC+NSS+R above KLD+CC+NSS'
_ALL = 'The sum of all (LC2) is the best: above the best of all others'

_CLAIMS = (
  Claim(_MEANS, _SUMS, _SINGLE),
  Claim(_BEST, _SUMS, _SINGLE, best=True),
  Claim(_EACH, ('lc1',), _PARTS, best=True),
  Claim(_WEAK, _OTHERS, _PERCEPTUAL),
  Claim(_HELP, ('lc1_df_gm',), ('lc1',)),
  Claim(_PRIOR, ('lc1_r',), ('lc1',)),
  Claim(_ALL, ('lc2_r',), _BUT_ALL, best=True),
  Claim('LC2 above LC1', ('lc2_r',), ('lc1_r',)),
  Claim('LC2 above MSE (section 4.3: by 14 % in CC)', ('lc2_r',), ('mse',)),
)


def _table(key, title, *notes, data='mit1003', **options):
  lines = rows('loss_study', key)
  return Table(key, title, lines, notes=notes, data=data, **options)


PAPER = Paper(
  title='Bruckert et al., The Quest For The Loss Function',
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
  reads_text=False,
  curves=(),
  note=(
    'The paper prints one run of each loss, without intervals; it trains on '
    '500 images of MIT1003 that it does not list, and has no code that is '
    'published.'
  ),
  tables=(
    _table(
      '1',
      'Other models on MIT1003, and the network trained with MSE',
      "The printed row of the paper's own model has NSS 2.04, where its MSE "
      'row of Table 2 has 2.0580.',
    ),
    _table(
      '2',
      'One network, one loss a row',
      'As functions W-BCE with w = .5 is half of BCE, so that their two rows '
      'differ by the length of the steps and by chance alone.',
      against=Place('mse'),
    ),
    _table(
      '3',
      'Another data set than the one that was trained on',
      'As in the paper (section 4.4), the models are those of Table 2, which '
      'saw no image of these data sets.',
      data='',
      elsewhere='*-all',
    ),
    _table('4', 'Another network: SAM-VGG', against=Place('sam_mlnet_mse')),
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
