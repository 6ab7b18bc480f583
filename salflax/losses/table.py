"""The table of losses, and the sums of them that have a name."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from salflax.losses import (
  binary,
  distribution,
  location,
  maps,
  perceptual,
  pixel,
)


class Loss(NamedTuple):
  """One line of the table of losses; docs/losses.md prints all but `fn`.

  Attributes:
    fn: `fn(pred, target, *, where=None, **options) -> [B]`.
    target: the key of the batch it compares with, 'saliency', 'fixations' or
      'center'. Fixed here, so that NSS cannot meet a blurred map.
    formula: in plain text; P prediction, S saliency map, F fixation map, B mean
      training map.
    range: the values it can take.
    minimum: its value where the prediction is the target scaled to a maximum
      of 1, in words where it depends on the picture; None where that is not its
      least value.
    ignores: what may be done to the prediction without changing it: 'scale',
      'scale and offset' or '' (nothing).
    reference: where it comes from.
    needs: what it has to be given when it is made: 'vgg', a fixed network, or
      '' (nothing).
  """

  fn: Callable[..., Array]
  target: str
  formula: str
  range: str
  minimum: float | str | None
  ignores: str
  reference: str
  needs: str = ''


_PAPER1 = 'Huang, Text-Guided Saliency Prediction Model, eq. 5'
_RELEASED = 'the same, released code: a value without gradient'
_PAPER2 = 'Bruckert et al. 2021'

LOSSES = {
  'mse': Loss(
    pixel.mse,
    'saliency',
    'mean (P - S / max S)^2',
    '[0, 1] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, eq. 1',
  ),
  'kld': Loss(
    distribution.kld,
    'saliency',
    'sum s log(eps + s / (p + eps)), s = S / sum S, p = P / sum P',
    '[0, -log eps]',
    0.0,
    'scale',
    'MIT saliency benchmark; TranSalNet',
  ),
  'cc': Loss(
    distribution.cc,
    'saliency',
    '1 - cov(P, S) / (std P std S)',
    '[0, 2]',
    0.0,
    'scale and offset',
    f'{_PAPER2}, eq. 12',
  ),
  'sim': Loss(
    distribution.sim,
    'saliency',
    '1 - sum min(s, p), S and P first less their minima (minmax), then '
    'divided by their sums',
    '[0, 1]',
    0.0,
    'scale and offset',
    'MIT saliency benchmark; TranSalNet',
  ),
  'nss': Loss(
    location.nss,
    'fixations',
    '-mean of (P - mean P) / std P over F > 0',
    'unbounded',
    None,
    'scale and offset',
    f'{_PAPER2}, eq. 11, negated and divided by the fixations',
  ),
  'ead': Loss(
    pixel.ead,
    'saliency',
    'mean (exp |P - S / max S| - 1)',
    '[0, e - 1] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, eq. 2',
  ),
  'ae': Loss(
    pixel.ae,
    'saliency',
    'mean |P - S / max S|',
    '[0, 1] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, eq. 3',
  ),
  'mlnet_mse': Loss(
    pixel.mlnet_mse,
    'saliency',
    'mean (P - s)^2 / (alpha - s), s = S / max S',
    '[0, 1 / (alpha - 1)] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, eq. 4; ML-Net',
  ),
  'mlnet_mse_maxnorm': Loss(
    pixel.mlnet_mse_maxnorm,
    'saliency',
    'mlnet_mse of P / max P',
    '[0, 1 / (alpha - 1)]',
    0.0,
    'scale',
    'ML-Net, released code',
  ),
  'sig_mse': Loss(
    pixel.sig_mse,
    'saliency',
    'mean k (P - s)^2 / (1 + exp(-k (s - lam))), s = S / max S',
    '[0, k] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, after eq. 4',
  ),
  'center_bias': Loss(
    pixel.center_bias,
    'center',
    'mean (or sum) of alpha (P - B)^2, B the mean training map',
    '[0, alpha] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, eq. 16, R',
  ),
  'kld_printed': Loss(
    distribution.kld_printed,
    'saliency',
    'sum p log((p + eps) / (s + eps)), s = S / sum S, p = P / sum P: the '
    'reverse direction',
    '[0, -log eps]',
    0.0,
    'scale',
    f'{_PAPER2}, eq. 5, of densities',
  ),
  'kld_printed_raw': Loss(
    distribution.kld_printed_raw,
    'saliency',
    'sum P log((P + eps) / (s + eps)), s = S / max S',
    '[-n / e, -n log eps] for P in [0, 1]; least at P = s / e',
    None,
    '',
    f'{_PAPER2}, eq. 5',
  ),
  'bhat': Loss(
    distribution.bhat,
    'saliency',
    '-log sum sqrt(s p), s = S / sum S, p = P / sum P, both with a share '
    'eps of the uniform density',
    '[0, -log eps]',
    0.0,
    'scale',
    f'Jetley et al. 2016; {_PAPER2}, eq. 6, turned round',
  ),
  'hellinger': Loss(
    distribution.hellinger,
    'saliency',
    'sqrt(1 - sum sqrt(s p)), s and p as in bhat',
    '[0, 1]',
    0.0,
    'scale',
    'Hellinger 1909; bhat is -log(1 - its square)',
  ),
  'bce': Loss(
    binary.bce,
    'saliency',
    '-mean (s log P + (1 - s) log(1 - P)), s = S / max S',
    '[0, 1 - log eps] for P in [0, 1]',
    'mean entropy of s',
    '',
    f'{_PAPER2}, eq. 7, divided by the pixels',
  ),
  'bce_sum': Loss(
    binary.bce_sum,
    'saliency',
    'bce times n pixels',
    '[0, n (1 - log eps)] for P in [0, 1]',
    'entropy of s',
    '',
    f'{_PAPER2}, eq. 7',
  ),
  'wbce': Loss(
    binary.wbce,
    'saliency',
    '-mean (w s log P + (1 - w) (1 - s) log(1 - P)), s = S / max S',
    '[0, 1 - log eps] for P in [0, 1]; least at P = w s / (w s + (1 - w) (1'
    ' - s))',
    None,
    '',
    f'{_PAPER2}, eq. 8',
  ),
  'focal': Loss(
    binary.focal,
    'saliency',
    '-mean ((1 - P)^gamma s log P + P^gamma (1 - s) log(1 - P)), s = S / max S',
    '[0, 1 - log eps] for P in [0, 1]',
    None,
    '',
    'Lin et al. 2017',
  ),
  'focal_printed': Loss(
    binary.focal_printed,
    'saliency',
    '-sum ((1 - P^gamma) s log P + P^gamma (1 - s) log(1 - P)), s = S / max S',
    '[0, n (1 - log eps)] for P in [0, 1]',
    None,
    '',
    f'{_PAPER2}, eq. 9',
  ),
  'nll': Loss(
    location.nll,
    'fixations',
    '-mean of log(p + eps) over F > 0, p = P / sum P',
    '[0, -log eps]',
    None,
    'scale',
    f'DeepGaze II; {_PAPER2}, eq. 10, of a density',
  ),
  'nll_printed': Loss(
    location.nll_printed,
    'fixations',
    '-mean of log P over F > 0',
    '[0, 1 - log eps] for P in [0, 1]; least at P = 1',
    None,
    '',
    f'{_PAPER2}, eq. 10',
  ),
  'nss_printed': Loss(
    location.nss_printed,
    'fixations',
    'nss times the share of pixels with F > 0',
    'unbounded',
    None,
    'scale and offset',
    f'{_PAPER2}, eq. 11, negated',
  ),
  'df': Loss(
    perceptual.df,
    'saliency',
    "sum over VGG-16's poolings of |phi(S / max S) - phi(P)|^2 / (C h w)",
    'at least 0',
    0.0,
    '',
    f'{_PAPER2}, eq. 13',
    'vgg',
  ),
  'gm': Loss(
    perceptual.gm,
    'saliency',
    "sum over VGG-16's poolings of |G(S / max S) - G(P)|^2, "
    'G = psi psi^T / (C h w)',
    'at least 0',
    0.0,
    '',
    f'{_PAPER2}, eqs. 14 and 15',
    'vgg',
  ),
  'kld_released': Loss(
    distribution.kld_released,
    'saliency',
    'mean S (log S - P), S / max S for S',
    '[-1, 0] for P in [0, 1]',
    None,
    '',
    f'{_PAPER1}, released code',
  ),
}
LOSSES |= {
  f'{name}_released': LOSSES[name]._replace(
    fn=maps.detached(LOSSES[name].fn), formula=name, reference=_RELEASED
  )
  for name in ('mse', 'cc', 'sim', 'nss')
}

# Published as losses, but they grow with agreement: a spec that names one is an
# error that says so.
SIMILARITIES = {
  'bhat_printed_sim': Loss(
    distribution.bhat_printed_sim,
    'saliency',
    'sum sqrt(s P), s = S / max S',
    '[0, n] for P in [0, 1]',
    None,
    '',
    f'{_PAPER2}, eq. 6',
  ),
}

# Sums that have a name. The additive constant b of the text-guided model's
# eq. 5 has no gradient, hence no place here; neither have the constants by
# which 1 - CC and 1 - SIM differ from the -CC and -SIM that were published.
PRESETS = {
  'paper1_paper': '10*kld + 3*mse + 2*cc + nss + sim',
  'paper1_released': (
    '10*kld_released + 3*mse_released + 2*cc_released + nss_released'
    ' + sim_released'
  ),
  'transalnet': '10*kld + 2*cc + sim + nss',
  'tranblend': '10*kld + 4*mse + 2*cc + nss + sim',
  'sam': '10*kld(eps=1e-7) + 2*cc + nss(ddof=0)',
  'lc1': '10*kld + 2*cc + nss',
  'lc1_r': '10*kld + 2*cc + nss + center_bias',
  'lc2': '10*kld + 2*cc + nss + df + gm + sig_mse(lam=0.55)',
  'lc2_r': '10*kld + 2*cc + nss + df + gm + sig_mse(lam=0.55) + center_bias',
  'lc1_printed': '10*kld_printed_raw + 2*cc + nss_printed',
}
