"""The same as predict_onnx.py for StableHLO: with jax, without salflax.

pip install jax numpy pillow tokenizers
python predict_stablehlo.py export --check
"""

import sys

import jax
import jax.export
from predict_onnx import main

TOLERANCE = 1e-5


class StableHloPrograms:
  """The programs of an export: name and {input: array} -> {output: array}."""

  def __init__(self, folder, programs):
    self.calls = {}
    for name, program in programs.items():
      data = (folder / program['files']['stablehlo']).read_bytes()
      self.calls[name] = jax.jit(jax.export.deserialize(bytearray(data)).call)
    self.inputs = {name: [*p['inputs']] for name, p in programs.items()}

  def __call__(self, name, inputs):
    return self.calls[name]({k: inputs[k] for k in self.inputs[name]})


if __name__ == '__main__':
  sys.exit(main(StableHloPrograms, TOLERANCE, sys.argv))
