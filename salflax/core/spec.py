"""Spec strings: `'flip(0.5)|normalize("imagenet")'`, `'10*kld + 2*cc'`.

Names and arguments are checked against a table when the string is bound, so a
misspelt option stops a run before anything is built.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Call(NamedTuple):
  """A parsed `name(args, key=value)`."""

  name: str
  args: tuple[Any, ...]
  kwargs: dict[str, Any]


class Term(NamedTuple):
  """One summand of a weighted sum: `weight * fn`, written as `name`."""

  weight: float
  name: str
  entry: Any
  kwargs: dict[str, Any]


def unknown(kind: str, name: str, allowed: Iterable[str]) -> ValueError:
  """Returns an error that names what was found, what is allowed, the nearest.

  Args:
    kind: what the name stands for, e.g. 'loss'.
    name: what was found.
    allowed: the names that exist.
  """
  allowed = sorted(str(a) for a in allowed)
  near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return ValueError(
    f'Unknown {kind} {name!r}.{hint} Allowed: {", ".join(allowed)}.'
  )


def lookup(kind: str, table: Mapping[str, Any], name: str) -> Any:
  """Returns `table[name]`, or raises an error naming the nearest entry."""
  if name not in table:
    raise unknown(kind, name, table)
  return table[name]


def _call(node: ast.expr, text: str) -> Call:
  if isinstance(node, ast.Name):
    return Call(node.id, (), {})
  if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
    raise ValueError(
      f'Cannot read {ast.unparse(node)!r} in {text!r}: expected a name or a '
      "call such as 'flip(0.5)'."
    )
  try:
    args = tuple(ast.literal_eval(a) for a in node.args)
    kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
  except ValueError as e:
    raise ValueError(
      f'Arguments must be literals in {ast.unparse(node)!r} of {text!r}.'
    ) from e
  if any(k.arg is None for k in node.keywords):
    raise ValueError(f'** is not allowed in {text!r}.')
  return Call(node.func.id, args, kwargs)


def _expression(text: str) -> ast.expr:
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'Expected a spec string, found {text!r}.')
  try:
    return ast.parse(text.strip(), mode='eval').body
  except SyntaxError as e:
    raise ValueError(f'Cannot read the spec {text!r}: {e.msg}.') from e


def parse(text: str) -> Call:
  """Returns the name and arguments of `'flip(0.5)'`."""
  return _call(_expression(text), text)


def check_call(fn: Callable, call: Call, *, takes: int) -> None:
  """Raises ValueError where `fn` cannot take the arguments of `call`.

  Args:
    fn: the function, whose first `takes` arguments come at run time.
    call: name and arguments as written.
    takes: number of leading positional arguments that come later.
  """
  signature = inspect.signature(fn)
  try:
    signature.bind(*([None] * takes), *call.args, **call.kwargs)
  except TypeError as e:
    options = [p for p in list(signature.parameters)[takes:]]
    for key in call.kwargs:
      if key not in options:
        raise unknown(f'argument of {call.name}()', key, options) from e
    raise ValueError(
      f'{call.name}: {e}. Its options are: {", ".join(options) or "none"}.'
    ) from e


def _fn(entry: Any) -> Callable:
  return getattr(entry, 'fn', entry)


def bind(
  table: Mapping[str, Any], text: str, *, takes: int, kind: str = 'name'
) -> Callable:
  """Returns `table[name]` with its options filled in.

  Args:
    table: functions, or records with an attribute `fn`.
    text: `'name'` or `'name(option=value)'`.
    takes: number of leading positional arguments left open.
    kind: what the table holds, for the error message.
  """
  call = parse(text)
  fn = _fn(lookup(kind, table, call.name))
  check_call(fn, call, takes=takes)
  if not call.args and not call.kwargs:
    return fn

  @functools.wraps(fn)
  def bound(*leading):
    return fn(*leading, *call.args, **call.kwargs)

  return bound


def split_chain(text: str) -> list[str]:
  """Returns the parts of `'a|b(2)'`, as written, left to right."""

  def walk(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
      return walk(node.left) + walk(node.right)
    return [ast.unparse(node)]

  return walk(_expression(text))


def chain(
  table: Mapping[str, Any], text: str, *, takes: int, kind: str = 'op'
) -> Callable:
  """Returns the ops of `'a|b(2)'` as one function, applied left to right.

  The first argument is what flows through; the other `takes - 1` are handed to
  every op.
  """
  ops = [bind(table, t, takes=takes, kind=kind) for t in split_chain(text)]

  def apply(x, *rest):
    for op in ops:
      x = op(x, *rest)
    return x

  return apply


def weighted_sum(
  table: Mapping[str, Any], text: str, *, takes: int, kind: str = 'loss'
) -> list[Term]:
  """Returns the terms of `'10*kld + cc(eps=1e-6)'`.

  Raises:
    ValueError: for an unknown name or option, a sign other than +, a weight
      that is not a positive number, or the same term twice.
  """

  def walk(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
      return walk(node.left) + walk(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
      left, right = node.left, node.right
      if isinstance(right, ast.Constant):
        left, right = right, left
      # By type: True is an int, too.
      if isinstance(left, ast.Constant) and type(left.value) in (int, float):
        return [(float(left.value), right)]
    if isinstance(node, ast.Name | ast.Call):
      return [(1.0, node)]
    raise ValueError(
      f'{text!r} is not a sum of weighted {kind} terms: cannot read '
      f"{ast.unparse(node)!r}. Write '10*a + b'; every term is minimised, so "
      'there is no minus.'
    )

  terms = []
  for weight, node in walk(_expression(text)):
    if not 0 < weight < math.inf:
      raise ValueError(
        f'Weights are positive numbers; found {weight:g} for '
        f'{ast.unparse(node)!r} in {text!r}.'
      )
    call = _call(node, text)
    entry = lookup(kind, table, call.name)
    check_call(_fn(entry), call, takes=takes)
    if call.args:
      raise ValueError(f'Options of {call.name} must be named, in {text!r}.')
    terms.append(Term(weight, ast.unparse(node), entry, call.kwargs))
  names = [t.name for t in terms]
  if twice := {n for n in names if names.count(n) > 1}:
    raise ValueError(f'{text!r} has the same term twice: {sorted(twice)}.')
  return terms


def build(table: Mapping[str, Any], node: Mapping, *, kind: str) -> Any:
  """Returns `table[name](**kwargs)` for `{'name': name, **kwargs}`."""
  kwargs = dict(node)
  if 'name' not in kwargs:
    raise ValueError(f"A {kind} needs a 'name'; found keys {sorted(kwargs)}.")
  call = Call(kwargs.pop('name'), (), kwargs)
  fn = lookup(kind, table, call.name)
  check_call(fn, call, takes=0)
  return fn(**kwargs)


def attributes(module: type, given: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns `given`, or raises ValueError for what `module` does not have.

  Args:
    module: a class of networks.
    given: values of its attributes.
  """
  fields = {f.name for f in dataclasses.fields(module)} - {'parent', 'name'}
  for key in given:
    if key not in fields:
      raise unknown(f'attribute of {module.__name__}', key, fields)
  return given
