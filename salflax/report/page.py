"""One page of a whole report: a file that needs no network and no scripts."""

import base64
import io
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from salflax.report import tables
from salflax.report.found import Extra, Found, Section
from salflax.report.paper import Paper

WIDTH = 1200  # pixels of the widest picture


def data_uri(path: str | os.PathLike, *, width: int = WIDTH) -> str:
  """Returns a picture as a data: URI, as a smaller one if it is wider."""
  with Image.open(path) as image:
    shown = image.convert('RGB')
  if shown.width > width:
    height = max(1, round(shown.height * width / shown.width))
    shown = shown.resize((width, height), Image.Resampling.LANCZOS)
  # A drawing has few colours; a photograph would be large as PNG.
  drawing = shown.getcolors(4096) is not None
  kind, options = ('png', {}) if drawing else ('jpeg', {'quality': 82})
  out = io.BytesIO()
  shown.save(out, kind, **options)
  return f'data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}'


def runs_of(found: Sequence[Found]) -> dict[str, Mapping[str, Any]]:
  """Returns the files of each run by its folder, once each."""
  runs: dict[str, dict[str, Any]] = {}
  for f in found:
    if f.row.place:
      runs.setdefault(f.row.place.folder, {}).update(f.files)
  return {folder: shown for folder, shown in runs.items() if shown}


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


def _section(s: Section, forest: pathlib.Path | None) -> dict[str, Any]:
  import markupsafe

  def element(table):
    return markupsafe.Markup(table.html())  # which has escaped its cells

  return {
    'key': s.table.key,
    'title': s.table.title,
    'notes': s.notes,
    'forest': data_uri(forest) if forest else '',
    'main': element(s.main),
    'more': [(t.title, element(t)) for t in s.more],
    'sentences': [(f.row.label, f.sentences) for f in s.found if f.sentences],
  }


def _figures(paper: Paper, runs: Mapping[str, Mapping[str, Any]]):
  """Yields the figures that the paper has, and who can show them."""
  for figure in paper.figures:
    shown = []
    for folder in figure.folders:
      path = runs.get(folder, {}).get(figure.file)
      image = data_uri(path) if path else ''
      shown.append((folder, image, paper.command(folder)))
    yield {'key': figure.key, 'title': figure.title, 'shown': shown}


def _extra(extra: Extra) -> dict[str, Any]:
  import markupsafe

  return {
    'key': extra.key,
    'title': extra.title,
    'notes': extra.notes,
    'tables': [markupsafe.Markup(t.html()) for t in extra.tables],
    'figures': [(name, data_uri(p)) for name, p in extra.figures.items()],
  }


def html(
  paper: Paper,
  sections: Sequence[Section],
  forests: Mapping[str, pathlib.Path],
  extras: Sequence[Extra] = (),
) -> str:
  """Returns the page.

  Args:
    paper: as declared.
    sections: its tables.
    forests: plots, by the key of their table.
    extras: what belongs to all of them.
  """
  import jinja2

  runs = runs_of([f for s in sections for f in s.found])
  page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  page.filters['code'] = _code
  template = pathlib.Path(__file__).with_name('page.html')
  return page.from_string(template.read_text(encoding='utf-8')).render(
    title=f'{tables.PAPERS[paper.source]}: printed, and ours',
    note=paper.note,
    headline=paper.headline,
    sections=[_section(s, forests.get(s.table.key)) for s in sections],
    extras=[_extra(extra) for extra in extras],
    figures=list(_figures(paper, runs)),
    runs=[
      (
        folder,
        [(n, data_uri(p)) for n, p in shown.items() if n.endswith('.png')],
      )
      for folder, shown in runs.items()
    ],
  )
