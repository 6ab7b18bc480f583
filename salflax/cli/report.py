"""A paper's tables beside what our runs found, as one page and as text.

    salflax report --runs=runs/text_guided
    salflax report --runs=runs/text_guided --docs=docs/results

Reads only what training and evaluation wrote; what is not there is a dash and
the command that makes it. Figures with pictures of a data set are drawn where
that is prepared. Writes index.html (one file, pictures and all), tables.md and
tables.tex. --docs writes the tables and plots that hold no
pictures of a data set.
"""

import functools
import pathlib
import shlex
import shutil
import tempfile
from typing import Any

from absl import flags

from salflax import cli


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the options; not on import, as commands share their names."""
  text = flags.DEFINE_string
  text(
    'runs',
    None,
    'Folder of the runs, <runs>/<setting>/seed<k>; by default runs/<paper>.',
    flag_values=values,
  )
  text('paper', 'text_guided', 'Whose tables.', flag_values=values)
  text(
    'out',
    None,
    'Folder of the report; by default <runs>/report.',
    flag_values=values,
  )
  text(
    'docs',
    None,
    'Folder for one Markdown file and plots without pictures of a data set.',
    flag_values=values,
  )
  text(
    'data_dir',
    '',
    'Where prepared data sets are, for the figures that show their pictures.',
    flag_values=values,
  )


def _forests(paper, sections, folder):
  from salflax.report import figures

  drawn = {}
  for s in sections:
    path = folder / f'{paper.name}_table_{s.table.key}.png'
    if figures.forest(paper, s.table, s.found, path):
      drawn[s.table.key] = path
  return drawn


def _curves(paper, runs, folder):
  """Draws the curves of each run's stages; returns their files."""
  from salflax.report import plots

  drawn = []
  for setting, shown in runs.items():
    for name, path in shown.items():
      if not name.endswith('metrics.jsonl'):
        continue
      series = plots.read_metrics(path)
      if names := [n for n in paper.curves if n in series]:
        stage = path.parent.name
        out = folder / f'{paper.name}_curves_{setting}_{stage}.png'
        plots.curves(series, out, names=names, title=f'{setting}: {stage}')
        drawn.append(out)
  return drawn


def _usual(paper):
  return pathlib.Path('runs', paper.name)


def _where(paper, folder):
  """Returns the option that names the folder of the runs, where it must."""
  if folder == _usual(paper):
    return ''
  return f' --runs={shlex.quote(str(folder))}'


def _made_with(folder):
  """Returns the options that launch/paper.sh was given for these runs."""
  path = folder / 'options.txt'
  return f' {path.read_text().strip()}' if path.is_file() else ''


def _copied(source, out):
  """Copies a file, all or nothing; returns where it is."""
  from salflax.core import files

  with files.replacing(out) as temporary:
    shutil.copyfile(source, temporary)
  return out


def _without_pictures(paper, runs):
  """Returns by figure the files of runs with no picture of a data set."""
  shown = {
    figure.key: runs.get(figure.folders[0], {}).get(figure.file)
    for figure in paper.figures
  }
  return {k: p for k, p in shown.items() if p and p.name == 'centre_bias.png'}


def _docs(paper, known, sections, said, drawn, folder):
  """Writes what may be published with the code: no path of this machine."""
  from salflax.core import files
  from salflax.report import found, page

  runs = page.runs_of([f for s in sections for f in s.found])
  studied = [p for extra in said for p in extra.figures.values()]
  plots = [_copied(p, folder / p.name) for p in drawn.values()]
  plots += _curves(paper, runs, folder)
  plots += [_copied(p, folder / p.name) for p in studied]
  for key, path in _without_pictures(paper, runs).items():
    plots.append(_copied(path, folder / f'{paper.name}_figure_{key}.png'))
  shown = ''.join(f'\n![{p.stem}]({p.name})\n' for p in plots)
  text = found.markdown(paper, sections, said) + '\n## Plots\n' + shown
  if where := _where(paper, known.folder):
    text = text.replace(where, '')
  text = text.replace(f'{known.folder}/', '')
  files.write_text(folder / f'{paper.name}.md', text)
  return folder / f'{paper.name}.md'


def _load(data, split, *, folder):
  """Returns the rows of a split, for the figures with pictures."""
  from salflax.config import resolve

  return resolve.load_rows(data, split, resolve.data_dir(folder))


def execute(options: Any) -> None:
  """Writes the report, and says where."""
  from salflax.core import files, spec
  from salflax.report import findings, found, gallery, page, papers, study

  about = spec.lookup('paper', papers.PAPERS, options.paper)
  folder = pathlib.Path(options.runs or _usual(about))
  if options.runs and not folder.is_dir():
    raise ValueError(f'--runs={folder}: there is no such folder.')
  about = about._replace(options=_made_with(folder) + _where(about, folder))
  runs = findings.Runs(about, folder)
  sections = [
    found.section(
      about, t, [runs.find(row, t) for row in (*t.rows, *runs.elsewhere(t))]
    )
    for t in about.tables
  ]
  load = functools.partial(_load, folder=options.data_dir)
  out = pathlib.Path(options.out or folder / 'report')
  with tempfile.TemporaryDirectory() as temporary:
    where = pathlib.Path(temporary)
    drawn = _forests(about, sections, where)
    said = study.sections(about, runs, where)
    pictures = gallery.sections(about, runs, load, where)
    html = page.html(about, sections, drawn, [*said, *pictures])
    docs = options.docs and _docs(
      about, runs, sections, said, drawn, pathlib.Path(options.docs)
    )
  files.write_text(out / 'tables.md', found.markdown(about, sections, said))
  files.write_text(out / 'tables.tex', found.latex(sections, said))
  files.write_text(out / 'index.html', html)
  rows = [f for s in sections for f in s.found]
  broken = [n for f in rows for n in f.notes if ' is broken ' in n]
  cli.say(*dict.fromkeys(broken), *(n for e in pictures for n in e.notes))
  print(f'{sum(bool(f.seeds) for f in rows)} of {len(rows)} rows have a run.')
  print(f'Written to {out}: index.html, tables.md, tables.tex')
  if docs:
    print(f'Written {docs}')


def run() -> None:
  """The command line."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
