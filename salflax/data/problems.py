"""Names what is wrong in a raw folder.

Nothing is repaired in silence: a sample that cannot be trusted is dropped with
a reason from `REASONS`, and the rest goes on.
"""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from salflax.core import spec

REASONS = (
  'unreadable picture',
  'unreadable map',
  'unreadable fixations',
  'missing picture',
  'missing map',
  'missing fixations',
  'sizes disagree',
  'empty map',
  'no fixations',
  'fixation outside the picture',
  'not a fixation picture',
  'unknown suffix',
  'unknown condition',
  'unknown file',
  'text without picture',
  'picture without text',
  'empty text',
  'text in a pure condition',
  'duplicate id',
  'duplicate text',
  'unreadable text row',
)


class Problem(NamedTuple):
  """Something found in the raw folder that is not used.

  Attributes:
    name: the sample, file or row.
    reason: one of `REASONS`.
    detail: what was found.
  """

  name: str
  reason: str
  detail: str


class Dropped(Exception):
  """Says why one sample cannot be used."""

  def __init__(self, reason: str, detail: str):
    super().__init__(f'{reason}: {detail}')
    self.reason, self.detail = reason, detail


class Report:
  """What a raw folder held and what was not used, with the reason.

  Attributes:
    found: counts of what was found, by kind.
    problems: every `Problem`, in the order met.
  """

  def __init__(self, found: Mapping = (), problems: Iterable[Problem] = ()):
    """Starts with counts and problems, e.g. of a stored report."""
    self.found: dict[str, int] = dict(found)
    self.problems: list[Problem] = list(problems)

  def drop(self, name: str, reason: str, detail: str) -> None:
    """Adds a problem; `reason` must be one of `REASONS`."""
    if reason not in REASONS:
      raise spec.unknown('reason', reason, REASONS)
    self.problems.append(Problem(name, reason, detail))

  def counts(self) -> dict[str, int]:
    """Returns how many problems there are of each reason."""
    return dict(collections.Counter(p.reason for p in self.problems))

  def text(self, *, limit: int = 5) -> str:
    """Returns lines to print: the first `limit` problems of each reason."""
    lines = [f'found: {n} {kind}' for kind, n in sorted(self.found.items())]
    for reason, count in sorted(self.counts().items()):
      lines.append(f'not used, {reason}: {count}')
      same = [p for p in self.problems if p.reason == reason]
      lines += [f'  {p.name}: {p.detail}' for p in same[:limit]]
      if count > limit:
        lines.append(f'  and {count - limit} more')
    return '\n'.join(lines)

  def save(self, folder: pathlib.Path, **extra) -> None:
    """Writes report.json and report.csv into `folder`."""
    problems = sorted(self.problems)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(Problem._fields)
    writer.writerows(problems)
    (folder / 'report.csv').write_text(table.getvalue(), encoding='utf-8')
    record = dict(
      extra,
      found=dict(self.found),
      not_used=self.counts(),
      problems=[p._asdict() for p in problems],
    )
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / 'report.json').write_text(text + '\n', encoding='utf-8')
