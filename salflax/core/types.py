"""The words and shapes every module shares.

`B` batch, `H x W` network input, `h x w` the image's own size, `L` tokens,
`N` fixations, `D` width. A batch is a dict with some of these keys:

  image       f32 [B, H, W, 3]   RGB, letterboxed, normalised by the pp string
  tokens      i32 [B, L]         word pieces
  token_mask  bool [B, L]        True for real word pieces
  saliency    f32 [B, H, W] >= 0 ground-truth saliency map (blurred fixations)
  fixations   f32 [B, H, W]      ground-truth fixation map, {0, 1}
  center      f32 [B, H, W]      mean training map, for losses that ask for it
  mask        bool [B]           False for rows that only fill the last batch
  index       i32 [B]            row in the data source
  image_number i32 [B]           equal for rows of the same image
  box         i32 [B, 4]         top, left, height, width of the image inside
                                 the letterbox
  size        i32 [B, 2]         height and width of the image itself

A prediction is f32 [B, H, W] >= 0, of any scale: every loss and metric
normalises for itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Batch = Mapping[str, Any]
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GroundTruth:
  """What people did on one image, at the image's own size.

  Attributes:
    saliency: f64 [h, w] >= 0, the blurred fixations, any scale.
    fixations: i64 [N, 2], (row, column) of every fixation, repeats kept.
    other_fixations: i64 [M, 2], fixations of other images rescaled to this
      one's size: the negatives of shuffled AUC.
    baseline: f64 [h, w], centre-bias density that sums to 1: for information
      gain.
  """

  saliency: np.ndarray | None = None
  fixations: np.ndarray | None = None
  other_fixations: np.ndarray | None = None
  baseline: np.ndarray | None = None
