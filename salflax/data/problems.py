"""Names what is wrong in a raw folder.

Nothing is repaired in silence: a sample that cannot be trusted is left out with
its reason, one of those in docs/data.md, and the rest goes on.
"""

import collections
import csv
import io
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from salflax.core import files


class Problem(NamedTuple):
  """Something in the raw folder that is not used.

  Attributes:
    name: sample, file or row.
    reason: what is wrong, in a few words: see docs/data.md.
    detail: what is there in place of what was expected.
  """

  name: str
  reason: str
  detail: str


class Dropped(ValueError):
  """Says why one sample, map or fixation image cannot be used."""

  def __init__(self, reason: str, detail: str):
    super().__init__(f'{reason}: {detail}')
    self.reason, self.detail = reason, detail


def printable(text: str) -> str:
  """Escapes control characters and bytes of names that are not UTF-8."""
  escape = lambda match: match[0].encode('unicode_escape').decode()
  return re.sub('[\x00-\x1f\x7f-\x9f\ud800-\udfff]', escape, text)


class Report:
  """What a raw folder holds and what of it is not used, with the reason.

  Attributes:
    counts: number of images, texts and other parts, by kind.
    problems: every `Problem`, in the order met.
  """

  def __init__(self, counts: Mapping = (), problems: Iterable[Problem] = ()):
    """Starts with counts and problems, e.g. of a stored report."""
    self.counts: dict[str, int] = dict(counts)
    self.problems: list[Problem] = list(problems)

  def drop(self, name: str, reason: str, detail: str) -> None:
    """Adds a problem, as text that may be printed."""
    self.problems.append(Problem(printable(name), reason, printable(detail)))

  def reasons(self) -> dict[str, int]:
    """Counts the problems of each reason."""
    return dict(collections.Counter(p.reason for p in self.problems))

  def text(self, *, limit: int = 5) -> str:
    """Lists the first `limit` problems of each reason, a line each."""
    lines = [f'{kind}: {n}' for kind, n in sorted(self.counts.items())]
    for reason, count in sorted(self.reasons().items()):
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
    writer.writerows([Problem._fields, *problems])
    files.write_text(folder / 'report.csv', table.getvalue())
    record = dict(
      extra,
      counts=self.counts,
      not_used=self.reasons(),
      problems=[p._asdict() for p in problems],
    )
    files.write_json(folder / 'report.json', record)
