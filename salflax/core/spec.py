"""Spec strings: `'flip(0.5)|normalize("imagenet")'`, `'10*kld + 2*cc'`.

Names and arguments are checked against a table when the string is bound, so a
misspelt option stops a run before anything is built. Every function here raises
ValueError for text that it cannot read.
"""

import ast
import collections
import dataclasses
import difflib
import functools
import inspect
import io
import numbers
import tokenize
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# float32 cannot hold much more.
MAX_WEIGHT = 1e30


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
  """Makes the error for a name that is not in a table.

  Args:
    kind: what the name stands for, e.g. 'loss'.
    name: the name as written.
    allowed: the names that exist; the nearest one is suggested.
  """
  allowed = sorted(str(a) for a in allowed)
  near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return ValueError(
    f'Unknown {kind} {name!r}.{hint} Allowed: '
    f'{", ".join(a or repr(a) for a in allowed)}.'
  )


def some(names: Sequence[str], *, limit: int = 8) -> str:
  """Lists names, and says how many more there are than fit."""
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more


def lookup(kind: str, table: Collection[str], name: str) -> Any:
  """Looks up an entry of a table, or a name in a list of names.

  Raises:
    ValueError: for an unknown name, with the nearest one.
  """
  if name not in table:
    raise unknown(kind, name, table)
  return table[name] if isinstance(table, Mapping) else name


def plain(node: Any) -> Any:
  """Turns records into dicts and lists into tuples, alike from file or JSON."""
  if hasattr(node, 'items'):
    return {key: plain(value) for key, value in node.items()}
  return tuple(map(plain, node)) if isinstance(node, list | tuple) else node


def check_number(
  name: str,
  value: float,
  least: float,
  most: float,
  *,
  above: bool = False,
  whole: bool = False,
) -> None:
  """Checks an option that is a number.

  Args:
    name: function and option, e.g. 'wbce: w'.
    value: the option's value.
    least: least value allowed.
    most: greatest value allowed, finite.
    above: `least` itself is not allowed.
    whole: only integers are allowed.

  Raises:
    ValueError: for another type, NaN, or a value out of range.
  """
  kind = numbers.Integral if whole else numbers.Real
  good = isinstance(value, kind) and not isinstance(value, bool)
  good = good and (value > least if above else value >= least)
  if not (good and value <= most):
    raise ValueError(
      f'{name} must be a {"whole " * whole}number '
      f'{"above" if above else "at least"} {least:g} and at most {most:g}; '
      f'found {value!r}.'
    )


def split(text: str, by: str) -> list[str]:
  """Splits text at an operator that no bracket or quote encloses.

  Args:
    text: e.g. 'mit|kl(eps=1e-7, floor=0), course'.
    by: ',', '|' or '+'.

  Returns:
    The parts without blanks around them; one of them may be empty.
  """
  if not isinstance(text, str):
    raise ValueError(f'Expected a spec string, found {text!r}.')
  # One line, so that a token's column is its place in the text.
  text = text.replace('\n', ' ').replace('\r', ' ').strip()
  parts, depth, start = [], 0, 0
  try:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
      if token.type == tokenize.OP:
        depth += (token.string in '([{') - (token.string in ')]}')
        if token.string == by and not depth:
          parts.append(text[start : token.start[1]].strip())
          start = token.end[1]
  except (tokenize.TokenError, SyntaxError) as e:
    raise ValueError(f'Cannot read the spec {text!r}: {e.args[0]}.') from e
  return [*parts, text[start:].strip()]


def _parts(text, by):
  parts = split(text, by)
  if len(parts) > 1 and '' in parts:
    raise ValueError(f'Cannot read the spec {text!r}: nothing beside a {by!r}.')
  return parts


def _call(node: ast.expr, text: str) -> Call:
  if isinstance(node, ast.Name):
    return Call(node.id, (), {})
  if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
    raise ValueError(
      f'Cannot read {ast.unparse(node)!r} in {text!r}: expected a name or a '
      "call such as 'flip(0.5)'."
    )
  if any(k.arg is None for k in node.keywords):
    raise ValueError(f'** is not allowed in {text!r}.')
  names = [k.arg for k in node.keywords]
  if len(set(names)) < len(names):
    raise ValueError(f'{ast.unparse(node)!r} has an option twice.')
  try:
    args = tuple(ast.literal_eval(a) for a in node.args)
    kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
  except (ValueError, TypeError, RecursionError, MemoryError) as e:
    raise ValueError(
      f'Arguments must be literals in {ast.unparse(node)!r} of {text!r}.'
    ) from e
  return Call(node.func.id, args, kwargs)


def _expression(text: str) -> ast.expr:
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'Expected a spec string, found {text!r}.')
  try:
    return ast.parse(text.strip(), mode='eval').body
  except SyntaxError as e:
    raise ValueError(f'Cannot read the spec {text!r}: {e.msg}.') from e
  except (ValueError, RecursionError, MemoryError) as e:
    short = text if len(text) < 80 else f'{text[:80]}...'
    raise ValueError(f'Cannot read the spec {short!r}: {e}.') from e


def parse(text: str) -> Call:
  """Reads the name and arguments of `'flip(0.5)'`."""
  return _call(_expression(text), text)


def check_call(fn: Callable, call: Call, *, takes: int) -> None:
  """Checks that a function can take the arguments of a call.

  Args:
    fn: the function, whose first `takes` arguments come at run time.
    call: name and arguments as written.
    takes: number of leading positional arguments that come later.

  Raises:
    ValueError: for an argument that `fn` does not have or lacks, and for a
      switch, an option that is True or False by default, with another value.
  """
  signature = inspect.signature(fn)
  try:
    bound = signature.bind(*([None] * takes), *call.args, **call.kwargs)
  except TypeError as e:
    options = list(signature.parameters)[takes:]
    for key in call.kwargs:
      if key not in options:
        raise unknown(f'argument of {call.name}()', key, options) from e
    raise ValueError(
      f'{call.name}: {e}. Its options are: {", ".join(options) or "none"}.'
    ) from e
  for key, value in list(bound.arguments.items())[takes:]:
    switch = isinstance(signature.parameters[key].default, bool)
    if switch and not isinstance(value, bool):
      raise ValueError(
        f'{call.name}: {key} must be True or False; found {value!r}.'
      )


def _fn(entry: Any) -> Callable:
  return getattr(entry, 'fn', entry)


def bind(
  table: Mapping[str, Any], text: str, *, takes: int, kind: str = 'name'
) -> Callable:
  """Binds the options of a table's function.

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
  """Splits `'a|b(2)'` into its parts, each in Python's own spelling."""
  return [ast.unparse(_expression(part)) for part in _parts(text, '|')]


def chain(table: Mapping[str, Any], text: str, *, takes: int) -> Callable:
  """Joins the ops of `'a|b(2)'` into one function, applied left to right.

  The first argument is what flows through; the other `takes - 1` are handed to
  every op.
  """
  ops = [bind(table, t, takes=takes, kind='op') for t in split_chain(text)]

  def apply(x, *rest):
    for op in ops:
      x = op(x, *rest)
    return x

  return apply


def _weighted(text: str) -> tuple[float, ast.expr]:
  """Reads weight and term of `'10*kld'`, the weight being 1 if none stands."""
  node = _expression(text)
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
    left, right = node.left, node.right
    if isinstance(right, ast.Constant):
      left, right = right, left
    # By type: True is an int, too.
    if isinstance(left, ast.Constant) and type(left.value) in (int, float):
      if not 0 < left.value <= MAX_WEIGHT:
        raise ValueError(
          f'Weights are positive numbers up to {MAX_WEIGHT:g}; found '
          f'{ast.unparse(left)} for {ast.unparse(right)!r}.'
        )
      return float(left.value), right
  if isinstance(node, ast.Name | ast.Call):
    return 1.0, node
  raise ValueError(
    f'{text!r} is not a sum of weighted loss terms. Write '
    "'10*a + b'; every term is minimised, so there is no minus."
  )


def weighted_sum(
  table: Mapping[str, Any], text: str, *, takes: int
) -> list[Term]:
  """Reads the terms of `'10*kld + cc(eps=1e-6)'`, however many.

  Raises:
    ValueError: for an unknown name or option, a sign other than +, a weight
      that is not a positive number, or the same term twice.
  """
  terms = []
  for part in _parts(text, '+'):
    weight, node = _weighted(part)
    call = _call(node, part)
    entry = lookup('loss', table, call.name)
    check_call(_fn(entry), call, takes=takes)
    if call.args:
      raise ValueError(f'Options of {call.name} must be named, in {part!r}.')
    terms.append(Term(weight, ast.unparse(node), entry, call.kwargs))
  counts = collections.Counter(t.name for t in terms)
  if twice := sorted(name for name, n in counts.items() if n > 1):
    raise ValueError(f'The sum has the same term twice: {", ".join(twice)}.')
  return terms


def build(table: Mapping[str, Any], node: Mapping, *, kind: str) -> Any:
  """Calls `table[name](**kwargs)` for `{'name': name, **kwargs}`."""
  kwargs = dict(node)
  if 'name' not in kwargs:
    raise ValueError(f"A {kind} needs a 'name'; found keys {sorted(kwargs)}.")
  call = Call(kwargs.pop('name'), (), kwargs)
  fn = lookup(kind, table, call.name)
  check_call(fn, call, takes=0)
  return fn(**kwargs)


def attributes(module: type, values: Mapping[str, Any]) -> Mapping[str, Any]:
  """Checks that a class of networks has the attributes that get values.

  Args:
    module: a class of networks.
    values: values of its attributes, returned as they are.

  Raises:
    ValueError: for another attribute.
  """
  fields = {f.name for f in dataclasses.fields(module)} - {'parent', 'name'}
  for key in values:
    if key not in fields:
      raise unknown(f'attribute of {module.__name__}', key, fields)
  return values
