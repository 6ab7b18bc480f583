"""A paper's tables beside what our runs found, as one page and as text.

    python -m salflax.cli.report --runs=runs/text_guided
    python -m salflax.cli.report --runs=runs/text_guided --docs=docs/results

Reads only what training and evaluation wrote; what is not there is a dash and
the command that makes it. Writes index.html (one file, pictures and all),
tables.md and tables.tex. --docs writes the tables and plots that hold no
pictures of a data set.
"""

import pathlib
import shlex
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


def _docs(paper, sections, folder, runs_folder):
  """Writes what may be published with the code: no path of this machine."""
  from salflax import files
  from salflax.report import found, page

  drawn = list(_forests(paper, sections, folder).values())
  runs = page.runs_of([f for s in sections for f in s.found])
  drawn += _curves(paper, runs, folder)
  shown = ''.join(f'\n![{p.stem}]({p.name})\n' for p in drawn)
  text = found.markdown(paper, sections) + '\n## Plots\n' + shown
  if where := _where(paper, runs_folder):
    text = text.replace(where, '')
  text = text.replace(f'{runs_folder}/', '')
  files.write_text(folder / f'{paper.name}.md', text)
  return folder / f'{paper.name}.md'


def execute(options: Any) -> None:
  """Writes the report, and says where."""
  from salflax import files, findings, spec
  from salflax.report import found, page, paper

  about = spec.lookup('paper', paper.PAPERS, options.paper)
  folder = pathlib.Path(options.runs or _usual(about))
  if options.runs and not folder.is_dir():
    raise ValueError(f'--runs={folder}: there is no such folder.')
  about = about._replace(options=_made_with(folder) + _where(about, folder))
  runs = findings.Runs(about, folder)
  sections = [
    found.section(about, t, [runs.find(row, t) for row in t.rows])
    for t in about.tables
  ]
  out = pathlib.Path(options.out or folder / 'report')
  with tempfile.TemporaryDirectory() as temporary:
    drawn = _forests(about, sections, pathlib.Path(temporary))
    html = page.html(about, sections, drawn)
  files.write_text(out / 'tables.md', found.markdown(about, sections))
  files.write_text(out / 'tables.tex', found.latex(sections))
  files.write_text(out / 'index.html', html)
  rows = [f for s in sections for f in s.found]
  broken = [n for f in rows for n in f.notes if ' is broken ' in n]
  cli.say(*dict.fromkeys(broken))
  print(f'{sum(bool(f.seeds) for f in rows)} of {len(rows)} rows have a run.')
  print(f'Written to {out}: index.html, tables.md, tables.tex')
  if options.docs:
    print(
      f'Written {_docs(about, sections, pathlib.Path(options.docs), folder)}'
    )


def run() -> None:
  """The command line."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
