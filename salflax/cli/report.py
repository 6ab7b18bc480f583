"""A paper's tables beside our runs, as one page and as text.

    salflax report --runs=runs/text_guided
    salflax report --runs=runs/text_guided --docs=docs/results

Reads only what training and evaluation wrote; what is not there is a dash and
the command that makes it. Figures with images of a data set are drawn where
that is prepared. Writes index.html (one file, images and all), tables.md and
tables.tex. --docs writes the tables and the plots that hold no images of a data
set.
"""

import functools
import pathlib
import shlex
import shutil
import tempfile
from typing import Any

from absl import flags

from salflax import cli

# Of runs in a bucket, what a report does not read.
_UNREAD = ('cache', 'checkpoints', 'maps', 'report', 'tensorboard')


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the options; not on import, as commands share their names."""
  text, own = flags.DEFINE_string, 'by default <runs>/report.'
  runs = (
    'Folder of the runs, <runs>/<setting>/seed<k>; runs/<paper> by default.'
  )
  docs = 'Folder for one Markdown file and plots without images of a data set.'
  where = (
    'Where prepared data sets are, for the figures that show their images.'
  )
  cli.define(
    values,
    (text, 'runs', None, runs),
    (text, 'paper', 'text_guided', 'Whose tables.'),
    (text, 'out', None, f'Folder of the report; {own}'),
    (text, 'docs', None, docs),
    (text, 'data_dir', '', where),
  )


def _curves(paper, runs, folder):
  """Draws the curves of each run's stages; returns their files."""
  from salflax.report import plots
  from salflax.report.runs import read_metrics

  drawn = []
  for setting, logs in runs.items():
    for path in (p for n, p in logs.items() if n.endswith('metrics.jsonl')):
      series, stage = read_metrics(path), path.parent.name
      if names := [n for n in paper.curves if n in series]:
        out = folder / f'{paper.name}_curves_{setting}_{stage}.png'
        plots.curves(series, out, names=names, title=f'{setting}: {stage}')
        drawn.append(out)
  return drawn


def _usual(paper):
  return pathlib.Path('runs', paper.name)


def _where(paper, folder):
  """Writes the option that names the folder of the runs, if it is needed."""
  if folder == _usual(paper):
    return ''
  return f' --runs={shlex.quote(str(folder))}'


def _paper_options(folder):
  """Reads the options that launch/paper.sh had for these runs."""
  path = folder / 'options.txt'
  if not path.is_file():
    return ''
  return f' {path.read_text(encoding="utf-8", errors="replace").strip()}'


def _docs(paper, folder, sections, extras, drawn, out):
  """Writes what may be published with the code: no path of this machine."""
  from salflax.core import files
  from salflax.report import page
  from salflax.report import sections as sections_lib

  runs = page.runs_of([r for s in sections for r in s.results])
  plots = {path.name: path for path in drawn.values()}
  curves = _curves(paper, runs, out)
  studied = {p.name: p for extra in extras for p in extra.figures.values()}
  for figure in paper.figures:
    path = runs.get(figure.folders[0], {}).get(figure.file)
    # The one figure of a run without images of a data set.
    if path and path.name == 'centre_bias.png':
      studied[f'{paper.name}_figure_{figure.key}.png'] = path
  for name, path in (plots | studied).items():
    with files.replacing(out / name) as temporary:
      shutil.copyfile(path, temporary)
  names = [*plots, *(p.name for p in curves), *studied]
  links = ''.join(f'\n![{pathlib.Path(n).stem}]({n})\n' for n in names)
  text = sections_lib.markdown(paper, sections, extras)
  text += '\n## Plots\n' + links
  if where := _where(paper, folder):
    text = text.replace(where, '')
  files.write_text(out / f'{paper.name}.md', text.replace(f'{folder}/', ''))
  return out / f'{paper.name}.md'


def _load(data, split, *, folder):
  """Loads the rows of a split, for the figures with images."""
  from salflax.config import resolve

  return resolve.load_rows(data, split, resolve.data_dir(folder))


def execute(options: Any) -> None:
  """Writes the report, and prints where."""
  from salflax.core import files, paths, spec
  from salflax.report import figures, gallery, page, papers, study
  from salflax.report import sections as sections_lib
  from salflax.report.results import Runs

  paper = spec.lookup('paper', papers.PAPERS, options.paper)
  home = paths.path(options.runs or _usual(paper))
  if options.runs and not home.is_dir():
    raise ValueError(f'--runs={home}: there is no such folder.')
  folder = files.local_copy(home, skip=_UNREAD)
  suffix = _paper_options(folder) + _where(paper, home)
  paper = paper._replace(options=suffix)
  runs = Runs(paper, folder)
  sections = []
  for table in paper.tables:
    rows = (*table.rows, *runs.elsewhere(table))
    results = [runs.find(row, table) for row in rows]
    sections.append(sections_lib.section(paper, table, results))
  load = functools.partial(_load, folder=options.data_dir)
  out = paths.path(options.out or home / 'report')
  # Of runs in a bucket, a copy is read: it is not what a page names.
  write = lambda name, text: files.write_text(
    out / name, text.replace(str(folder), str(home))
  )
  with tempfile.TemporaryDirectory() as temporary:
    where, drawn, docs = pathlib.Path(temporary), {}, None
    for s in sections:
      path = where / f'{paper.name}_table_{s.table.key}.png'
      if figures.forest(paper, s.results, path):
        drawn[s.table.key] = path
    studied = study.sections(paper, runs, where)
    images = gallery.extras(paper, runs, load, where)
    html = page.html(paper, sections, drawn, [*studied, *images])
    if options.docs:
      docs = pathlib.Path(options.docs)
      docs = _docs(paper, folder, sections, studied, drawn, docs)
  text = sections_lib.markdown(paper, sections, studied)
  write('tables.md', text)
  write('tables.tex', sections_lib.latex(sections, studied))
  write('index.html', html)
  results = [r for s in sections for r in s.results]
  broken = [n for r in results for n in r.notes if ' is broken ' in n]
  cli.say(*dict.fromkeys(broken), *(n for e in images for n in e.notes))
  scored = sum(bool(r.seeds) for r in results)
  print(f'{scored} of {len(results)} rows have a run.')
  print(f'Written to {out}: index.html, tables.md, tables.tex')
  if docs:
    print(f'Written {docs}')


if __name__ == '__main__':
  cli.run(define_flags, execute)
