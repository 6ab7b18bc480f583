"""Conditions on the attention of areas, such as 'text2.cta<0.08'."""

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from salflax.core import spec
from salflax.data import tables

OPERATORS = {
  '<': operator.lt,
  '<=': operator.le,
  '>': operator.gt,
  '>=': operator.ge,
}


class Condition(NamedTuple):
  """What the share of an area must not be.

  Attributes:
    views: names of the views that it is about.
    area: name of the area.
    operator: one of `OPERATORS`.
    number: share that the area's is compared with.
  """

  views: Sequence[str]
  area: str
  operator: str
  number: float


def parse(
  text: str, areas: Mapping[str, Sequence[str]], *, implied: Sequence[str] = ()
) -> Condition:
  """Reads `<area><operator><number>`, perhaps of one view: 'text2.cta<0.08'.

  Args:
    text: the condition; 'image1.cta<0.08' is about every sentence of image 1,
      'cta<0.08' about every view that has the area.
    areas: names of the areas by name of the view, 'image1.text2' or a part.
    implied: views that only a condition that names them is about.

  Raises:
    ValueError: the condition cannot be read, its number is no share, or no such
      area is there; says which is nearest.
  """
  match = re.fullmatch(r'(.+?)(<=|>=|<|>)([^<>=]+)', text.strip(), re.DOTALL)
  number = tables.number(match[3].strip()) if match else None
  if number is None:
    raise ValueError(
      f'Cannot read the condition {text!r}: it is <area><operator><number>, '
      f'such as cta<0.08; operators are {", ".join(OPERATORS)}.'
    )
  if not 0 <= number <= 1:
    raise ValueError(f'{text!r}: expected a share from 0 to 1; 8 % is 0.08.')
  name, views, named = match[1].strip(), list(areas), False
  every = {area for names in areas.values() for area in names}
  parts = {part for view in areas for part in view.split('.')}
  while name not in every:
    first, point, rest = name.partition('.')
    if not point:
      raise spec.unknown('area', name, every)
    if first not in parts:
      raise spec.unknown('view or area', first, {*parts, *every})
    views = [view for view in views if first in view.split('.')]
    name, named = rest.strip(), True
  views = [
    view
    for view in views
    if name in areas[view] and (named or view not in implied)
  ]
  if not views:
    raise ValueError(f'The condition {text!r} is about no view.')
  return Condition(views, name, match[2], number)


def failures(
  conditions: Sequence[Condition], comparison: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Lists where conditions hold: view, area, operator, number and share.

  Args:
    conditions: see `parse`.
    comparison: see `compare.compare`.
  """
  shares = {
    (view['name'], row['name']): row['share']
    for view in comparison['views']
    for row in view['areas']
  }
  return [
    {'view': view, 'area': c.area, 'operator': c.operator, 'number': c.number}
    | {'share': shares[view, c.area]}
    for c in conditions
    for view in c.views
    if OPERATORS[c.operator](shares[view, c.area], c.number)
  ]
