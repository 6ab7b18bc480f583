"""Exports a model to StableHLO or ONNX, to run it without salflax.

    salflax export
    salflax export --run=runs/tsn --format=stablehlo,onnx --out=tsn

Without --run it is the model that ships with salflax. The folder has programs
for images, sentences and maps, the tokenizer, and export.json, which says how
images and sentences become their inputs. docs/export.md shows programs that use
it. For ONNX:

    pip install 'salflax[export]' && pip install --no-deps jax2onnx
"""

import os
import pathlib
from typing import Any

from absl import flags

from salflax import cli

FORMATS = ('stablehlo', 'onnx')


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  text, several = flags.DEFINE_string, flags.DEFINE_list
  run = 'Folder of a run or a released model, or a name on the Hub.'
  out = 'Folder to write; an earlier export is replaced where it is named.'
  kinds = f'Some of {", ".join(FORMATS)}.'
  cli.define(
    values,
    (text, 'run', '', run),
    (text, 'stage', '', 'Stage of the run; by default the last.'),
    (text, 'out', 'export', out),
    (several, 'format', [FORMATS[0]], kinds),
  )


def execute(options: Any) -> int:
  """Writes the export."""
  cli.need_disk('--out', options.out)
  cli.keep_programs()
  from salflax.predict import export
  from salflax.predict.predictor import Predictor

  replace = bool(options['out'].present)
  with cli.checking_options():
    export.check(options.out, options.format, replace=replace)
  network = Predictor.load(options.run, stage=options.stage).network
  origin = os.path.basename(os.path.normpath(options.run or 'salflax-lite'))
  about = {'name': origin, 'stage': network.stage.name}
  export.write(
    options.out,
    network,
    formats=options.format,
    about=about,
    replace=replace,
  )
  for path in sorted(pathlib.Path(options.out).iterdir()):
    if path.is_file():
      print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')
  return cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
