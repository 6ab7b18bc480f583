"""What one request and all requests together may ask of the server."""

from typing import NamedTuple

from starlette.exceptions import HTTPException


class Refusal(HTTPException):
  """A request that is answered with an error.

  Args:
    status_code: HTTP status.
    detail: what was found and what is allowed.
  """


class Limits(NamedTuple):
  """Limits of requests.

  Attributes:
    file_bytes: bytes of an image file, and of all else in a request.
    pixels: pixels of an image, read from its header.
    text_length: letters of a sentence.
    texts: sentences in a request.
    areas: areas in a request.
    upload_seconds: time in which a request must have arrived.
    seconds: time for its answer, from then on.
    queue: requests under way; further ones are answered 503.
    per_client: the same for one address; further ones are answered 429.
    held_pixels: pixels of images and maps that are in memory at once, of some
      12 bytes each; requests wait until theirs fit.
  """

  file_bytes: int = 16_000_000
  pixels: int = 25_000_000
  text_length: int = 500
  texts: int = 8
  areas: int = 50
  upload_seconds: float = 30
  seconds: float = 60
  queue: int = 64
  per_client: int = 16
  held_pixels: int = 100_000_000


DEFAULTS = Limits()
