"""Serves a page, and a JSON API, that predict where people look.

    salflax serve
    salflax serve --run=runs/tsn --port=8080

Open the address that is printed: drop an image, type sentences, compare their
maps, draw areas. Nothing that is sent is kept. The server answers this machine
alone; --host=0.0.0.0 opens it to others, who need no password.

/api/predict is the API, /openapi.json describes it, /healthz and /metrics are
for operators. SIGTERM finishes what has begun, then exits with 0.
"""

import functools
import pathlib
from typing import Any

from absl import flags

from salflax import cli

_COUNT = functools.partial(flags.DEFINE_integer, lower_bound=1)
_SIZE = functools.partial(flags.DEFINE_float, lower_bound=0.001)
# Pillow refuses more by itself.
_PIXELS = functools.partial(_SIZE, upper_bound=89)


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  text = flags.DEFINE_string
  client = 'Requests of one address under way; others are answered 429.'
  cli.define(
    values,
    (text, 'run', None, 'Folder of a run; by default the released model.'),
    (text, 'stage', '', 'Stage of the run; by default the last.'),
    (text, 'host', '127.0.0.1', 'Address to listen on; 0.0.0.0 for all.'),
    (flags.DEFINE_integer, 'port', 8000, 'Port; 0 for a free one.', 0, 65535),
    (_COUNT, 'batch_size', 8, 'Images that go through the network at once.'),
    (_SIZE, 'max_mb', 16.0, 'Size of an image file, in 1e6 bytes.'),
    (_PIXELS, 'max_megapixels', 25.0, 'Size of an image, in 1e6 pixels.'),
    (_COUNT, 'max_text', 500, 'Letters of a sentence.'),
    (_COUNT, 'max_texts', 8, 'Sentences in a request.'),
    (_SIZE, 'max_seconds', 60.0, 'Time for an answer.'),
    (_COUNT, 'max_queue', 64, 'Requests under way; others are answered 503.'),
    (_COUNT, 'max_per_client', 16, client),
  )


def execute(options: Any) -> int:
  """Serves until it is asked to stop."""
  cli.keep_programs()
  from salflax.predict.predictor import Predictor

  try:
    from salflax.serve import app, limits, server
  except ModuleNotFoundError as e:
    raise ImportError(f"{e}: pip install 'salflax[serve]'") from e

  listening = server.listen(options.host, options.port)
  with listening:
    if options.run:
      predictor = Predictor.load(options.run, stage=options.stage)
    else:
      predictor = Predictor.load()
    pixels = round(options.max_megapixels * 1e6)
    model = pathlib.Path(options.run or 'salflax-lite').resolve().name
    application = app.make(
      predictor,
      model=model,
      batch_size=options.batch_size,
      limits=limits.Limits(
        file_bytes=round(options.max_mb * 1e6),
        pixels=pixels,
        held_pixels=max(limits.DEFAULTS.held_pixels, 4 * pixels),
        text_length=options.max_text,
        texts=options.max_texts,
        seconds=options.max_seconds,
        queue=options.max_queue,
        per_client=options.max_per_client,
      ),
    )
    address = server.url(listening)
    server.run(application, listening, ready=lambda: print(address, flush=True))
  return cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
