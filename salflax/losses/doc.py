"""Prints docs/losses.md: `python -m salflax.losses.doc > docs/losses.md`."""

import inspect
from collections.abc import Mapping

from salflax.losses import LOSSES, PRESETS, SIMILARITIES, Loss

_HEAD = """\
# Losses

Made from the tables in `salflax/losses/__init__.py` by
`python -m salflax.losses.doc > docs/losses.md`.

A loss takes `pred` and `target`, both [B, H, W], and returns one number a
picture, [B]. P is the prediction, S the saliency map (blurred fixations), F the
fixation map, n the number of pixels, log the natural logarithm. **Lower is
always better**: `cc` is 1 - CC, `sim` is 1 - SIM, `nss` is -NSS. A loss is
logged as `loss/cc` and never stands for a score; those come from
`salflax.metrics`.

A config names a weighted sum, `'10*kld + 2*cc + sim(minmax=False)'`, or one of
the presets below. There is no minus: every term is minimised.
"""

_SIMILARITIES = """\
## Not losses

Printed as losses, but they grow with agreement: minimised, they would drive the
prediction away from the truth. They are values without gradient, and a spec
that names one is an error.
"""

_NOTES = """\
* **Scale.** Losses that ignore nothing read P as it is, which then has to be in
  [0, 1], as from a sigmoid; they scale S to a maximum of 1. All others
  normalise both maps for themselves. The column *ignores* says what may be done
  to P without changing the value.
* **At P = S** stands the value where P is the target scaled to a maximum of 1,
  if no other P has less.
* **Plain and printed.** A plain name is the standard form. `_printed` is the
  equation as that paper prints it, `_released` what a published program
  computes, where they differ from it. `kld_printed` is the reverse divergence;
  `kld_printed_raw` also leaves out the sums that make densities, and has its
  least value at P = s / e; `nll_printed` has no density either and is least at
  P = 1 everywhere; `focal_printed` has 1 - P^gamma in place of (1 - P)^gamma
  and sums; `nss_printed` divides by all pixels, not by the fixated ones, which
  makes it next to nothing beside other terms. They are there to be compared
  with.
* **Sums.** `bce_sum`, `focal_printed` and whatever is given `sum=True` grow
  with the size of the map, and so do their gradients.
* **wbce(w=0.5)** is half of `bce`, exactly.
* **P of exactly 0 or 1.** In `bce`, its kin and `nll_printed` a logarithm goes
  on as its tangent below `eps`: the price is finite and the gradient, at most
  1 / eps, still points the right way. A clipped logarithm has none there.
* **df, gm** look at both maps through VGG-16, grey as a picture of three equal
  channels, after each of its five poolings: 1472 features. A stage names the
  weights, `perceptual=dict(weights='timm/vgg16.tv_in1k')`, and how they expect
  pixels, `normalize='imagenet'`; without them it is refused. The paper does not
  say how it fed maps to VGG, and their sizes hang on it, by orders of magnitude
  between `normalize='caffe_vgg'` and `'unit'`. `lc2` has both at weight 1: look
  at the terms before training with it. On OSIE, with `'unit'` and ImageNet's
  weights, `gm` begins at 980 and stays at 490 after 400 pictures, beside 10 for
  all of `lc1`. `relative=True` divides each pooling's term by what a map
  without features would get, which makes both about 2 at the start whatever
  VGG's scale. `shrink=2` shows VGG means of 2 x 2 pixels, at a quarter of the
  cost. The maps that VGG sees are at least 32 x 32. A letterbox is black in
  both maps and cells of nothing else are left out, but near its border VGG sees
  it.
* **center_bias** compares with batch['center'], the mean of the training maps,
  each scaled to a maximum of 1, laid into the box of each picture. A training
  stage computes it from its training rows when its loss asks for it.
* **Padding.** `where` marks the pixels that count. `make_loss` derives it from
  the batch's `box`, so that the border of a letterbox weighs zero in every sum,
  mean, minimum, maximum and deviation: the value is that of the cropped maps.
* **Batch mean.** Each term is averaged over the rows whose `mask` is True and
  that have ground truth for it: a picture without fixations has `nss` 0, one
  whose saliency map is all zero has `kld` 0, and both are left out.
* **Limiting maps.** Values and gradients are finite for flat, zero and
  one-hot maps. As in the metrics, a flat prediction has CC 0 and NSS 0, and a
  prediction of zeros is read as the uniform density.
* **Conventions.** `sim` and `nss` default to what the models here were
  published with, `minmax=True` and `ddof=1`, which are the MIT benchmark's too.
  `sim(minmax=False)` and `nss(ddof=0)` are the forms of pysaliency.
* **Precision.** bfloat16 maps are lifted to float32 first.
* **kld, eps.** A pixel predicted as exactly 0 has a gradient of the order of
  s / eps. That is harmless behind a sigmoid; behind a ReLU, `kld(eps=1e-7)` is
  milder.
* **Constants.** The additive constant b in the text-guided paper's eq. 5 has no
  gradient and so no effect on training: it is left out. So are the constants by
  which 1 - CC and 1 - SIM differ from -CC and -SIM.
* **paper1_released** reproduces that paper's published code, in which `cc`,
  `nss`, `sim` and `mse` carry no gradient and the divergence is given P where
  it expects log P. It is for comparison; nothing should be trained with it.
"""


def _options(loss: Loss) -> str:
  parameters = inspect.signature(loss.fn).parameters
  found = [
    f'{name}={p.default!r}'
    for name, p in parameters.items()
    if name not in ('pred', 'target', 'where', loss.needs)
  ]
  return f'`{", ".join(found)}`' if found else '–'


def _table(losses: Mapping[str, Loss]) -> list[str]:
  lines = [
    '| name | target | formula | options | range | at P = S | ignores '
    '| reference |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for name, loss in losses.items():
    minimum = '–' if loss.minimum is None else loss.minimum
    minimum = minimum if isinstance(minimum, str) else f'{minimum:g}'
    cells = [
      f'`{name}`',
      loss.target,
      loss.formula.replace('|', r'\|'),
      _options(loss),
      loss.range,
      minimum,
      loss.ignores or '–',
      loss.reference,
    ]
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def render() -> str:
  """Returns the text of docs/losses.md."""
  lines = [_HEAD, *_table(LOSSES), '', _SIMILARITIES, *_table(SIMILARITIES)]
  lines += ['', '## Presets', '', '| name | sum |', '|---|---|']
  lines += [f'| `{name}` | `{text}` |' for name, text in PRESETS.items()]
  lines += ['', '## Notes', '', _NOTES]
  return '\n'.join(lines)


if __name__ == '__main__':
  print(render(), end='')
