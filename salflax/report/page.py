"""One page of a whole report: a file that needs no network and no scripts."""

import base64
import io
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from salflax.report.papers.paper import Paper
from salflax.report.results import Result
from salflax.report.sections import Extra, Section

WIDTH = 1200  # pixels of the widest image


def data_uri(path: str | os.PathLike, *, width: int = WIDTH) -> str:
  """Embeds an image as a data: URI, as a smaller one if it is wider."""
  with Image.open(path) as file:
    image = file.convert('RGB')
  if image.width > width:
    height = max(1, round(image.height * width / image.width))
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  # A drawing has few colours; a photograph would be large as PNG.
  drawing = image.getcolors(4096) is not None
  kind, options = ('png', {}) if drawing else ('jpeg', {'quality': 82})
  out = io.BytesIO()
  image.save(out, kind, **options)
  return f'data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}'


def runs_of(results: Sequence[Result]) -> dict[str, Mapping[str, Any]]:
  """Lists the files of each run by its folder, once each."""
  runs: dict[str, dict[str, Any]] = {}
  for result in results:
    if result.files:
      runs.setdefault(result.row.place.folder, {}).update(result.files)
  return runs


def _image(path: pathlib.Path | None) -> str:
  """Embeds an image; one that cannot be read is '' and named on the page."""
  try:
    return data_uri(path) if path else ''
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
    return ''


def _code(text: str) -> Any:
  """Sets what stands between backquotes as code; escapes all of it."""
  import markupsafe

  parts = re.split(r'`([^`]*)`', text)
  marked = [
    markupsafe.Markup('<code>{}</code>').format(part)
    if k % 2
    else markupsafe.escape(part)
    for k, part in enumerate(parts)
  ]
  return markupsafe.Markup('').join(marked)


def render(template: str, **values: Any) -> str:
  """Fills a template of this folder.

  Args:
    template: its file.
    **values: what it uses; all of it is there, and escaped in .html.
  """
  import jinja2

  folder = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
  page = jinja2.Environment(
    autoescape=jinja2.select_autoescape(),
    undefined=jinja2.StrictUndefined,
    loader=folder,
  )
  page.filters['code'] = _code
  page.filters['image'] = _image
  return page.get_template(template).render(values)


def html(
  paper: Paper,
  sections: Sequence[Section],
  forests: Mapping[str, pathlib.Path],
  extras: Sequence[Extra] = (),
) -> str:
  """Writes the page.

  Args:
    paper: paper as declared.
    sections: its tables.
    forests: plots, by the key of their table.
    extras: what belongs to all of them.
  """
  return render(
    'page.html',
    paper=paper,
    sections=sections,
    forests=forests,
    extras=extras,
    runs=runs_of([r for s in sections for r in s.results]),
  )
