"""Spec strings: what they mean, and what their errors say."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salflax.core import spec


def double(x, *, times=2):
  return x * times


def add(x, amount, by=1):
  return x + amount * by


def kld(pred, target, *, eps=1e-7):
  return pred - target + eps


def mse(pred, target, *, times=1):
  return times * (pred - target) ** 2


class Entry:
  fn = staticmethod(kld)


def loud(x, *, up=False):
  return x + up


TABLE = {'double': double, 'add': add, 'kld': Entry, 'mse': mse}


def test_parse_reads_name_and_literals():
  assert spec.parse('flip') == ('flip', (), {})
  assert spec.parse(' f(0.5, "a", (1, 2), k=None) ') == (
    'f',
    (0.5, 'a', (1, 2)),
    {'k': None},
  )


@pytest.mark.parametrize(
  'text, says',
  [
    ('', 'Expected a spec string'),
    (None, 'Expected a spec string'),
    ('f(', 'Cannot read the spec'),
    ('a.b(1)', r"Cannot read 'a\.b\(1\)'"),
    ('1', "Cannot read '1'"),
    ('f(open("x"))', 'must be literals'),
    ('f(**{"a": 1})', r'\*\* is not allowed'),
    ('f(*[1])', 'must be literals'),
    ('f({[]: 1})', 'must be literals'),
    ('f(\0)', 'Cannot read the spec'),
    ('f(a=1, a=2)', 'has an option twice'),
    (f'f({"-" * 9000}1)', 'Cannot read the spec'),
    (f'f({"(" * 900}1{")" * 900})', 'Cannot read the spec'),
  ],
)
def test_parse_says_what_it_cannot_read(text, says):
  with pytest.raises(ValueError, match=says):
    spec.parse(text)


def test_parse_evaluates_nothing(tmp_path):
  with pytest.raises(ValueError):
    spec.parse(f'f(__import__("os").mkdir({str(tmp_path / "x")!r}))')
  assert not list(tmp_path.iterdir())


def test_bind_fills_in_options():
  assert spec.bind(TABLE, 'double', takes=1) is double
  assert spec.bind(TABLE, 'double(times=5)', takes=1)(3) == 15
  assert spec.bind(TABLE, 'add(4, by=10)', takes=1)(2) == 42
  assert spec.bind(TABLE, 'kld(eps=1.0)', takes=2)(3, 1) == 3.0


@pytest.mark.parametrize(
  'text, says',
  [
    ('doubel', "Unknown op 'doubel'. Did you mean 'double'"),
    ('zzz', "Unknown op 'zzz'. Allowed: add, double, kld, loud, mse"),
    ('double(tims=3)', "argument of double.* 'tims'. Did you mean 'times'"),
    ('double(3)', 'double: too many positional.*options are: times'),
    ('add', "add: missing a required argument: 'amount'"),
    ('add(1, amount=2)', "add: multiple values for argument 'amount'"),
    ('loud(up=1)', 'loud: up must be True or False; found 1'),
    ("loud(up='no')", "found 'no'"),
  ],
)
def test_bind_names_what_is_wrong(text, says):
  with pytest.raises(ValueError, match=says):
    spec.bind(TABLE | {'loud': loud}, text, takes=1, kind='op')


@pytest.mark.parametrize(
  ('text', 'by', 'parts'),
  [
    ('mit', ',', ['mit']),
    ('', ',', ['']),
    ('mit, course,', ',', ['mit', 'course', '']),
    ('kl(eps=1e-7, floor=0)', ',', ['kl(eps=1e-7, floor=0)']),
    (
      'mit|kl(eps=1e-7, floor=0), course',
      ',',
      ['mit|kl(eps=1e-7, floor=0)', 'course'],
    ),
    ('a([1, 2], k={3: "x,y"}),b', ',', ['a([1, 2], k={3: "x,y"})', 'b']),
    ("a('it\\'s, so')|b", '|', ["a('it\\'s, so')", 'b']),
    ('1e+3*a(k=1+2)+b', '+', ['1e+3*a(k=1+2)', 'b']),
    (' a |\n b', '|', ['a', 'b']),
  ],
)
def test_split_leaves_brackets_and_quotes_whole(text, by, parts):
  assert spec.split(text, by) == parts


@pytest.mark.parametrize('text', ['a(1, b', 'a"b, c', None, 3])
def test_split_names_what_it_cannot_read(text):
  with pytest.raises(ValueError, match='spec'):
    for part in spec.split(text, ','):
      spec.parse(part)


@pytest.mark.parametrize(
  ('value', 'options'),
  [
    (-1, {}),
    (11, {}),
    (float('nan'), {}),
    (float('inf'), {}),
    ('3', {}),
    (None, {}),
    (True, {}),
    (3j, {}),
    (0, {'above': True}),
    (1.5, {'whole': True}),
  ],
)
def test_numbers_have_a_range(value, options):
  whole = 'whole ' * bool(options.get('whole'))
  least = 'above' if options.get('above') else 'at least'
  message = f'kl: eps must be a {whole}number {least} 0 and at most 10; found '
  with pytest.raises(ValueError) as error:
    spec.check_number('kl: eps', value, 0, 10, **options)
  assert str(error.value) == f'{message}{value!r}.'
  for good in (1, 10):
    spec.check_number('kl: eps', good, 0, 10, **options)


def test_chain_goes_left_to_right():
  assert spec.chain(TABLE, 'add(1)|double(times=3)', takes=1)(2) == 9
  assert spec.chain(TABLE, 'double(times=3)|add(1)', takes=1)(2) == 7
  assert spec.split_chain('add(1) | double|add(2, by=3)') == [
    'add(1)',
    'double',
    'add(2, by=3)',
  ]


def test_chain_hands_the_rest_to_every_op():
  table = {'a': lambda x, rng: x + rng, 'b': lambda x, rng: x * rng}
  assert spec.chain(table, 'a|b', takes=2)(1, 10) == 110


def test_chain_names_an_unknown_op_before_it_runs():
  with pytest.raises(ValueError, match="Did you mean 'double'"):
    spec.chain(TABLE, 'add(1)|dubble', takes=1)


def test_weighted_sum_reads_weights_on_either_side():
  terms = spec.weighted_sum(
    TABLE, '10*kld + mse(times=3) + kld(eps=1e-3)*0.5', takes=2
  )
  assert [(t.weight, t.name, t.kwargs) for t in terms] == [
    (10.0, 'kld', {}),
    (1.0, 'mse(times=3)', {'times': 3}),
    (0.5, 'kld(eps=0.001)', {'eps': 1e-3}),
  ]
  assert terms[0].entry is Entry


@pytest.mark.parametrize(
  'text, says',
  [
    ('10*kll', "Unknown loss 'kll'. Did you mean 'kld'"),
    ('kld(epz=1)', "Unknown argument of kld.* 'epz'. Did you mean 'eps'"),
    ('10*kld - double', 'not a sum of weighted loss'),
    ('-1*kld', 'not a sum of weighted loss'),
    ('kld + kld', 'same term twice'),
    ('kld*double', 'not a sum of weighted loss'),
    ('0*kld', 'positive'),
    ('True*kld', 'not a sum|positive'),
    ('1e999*kld', 'positive'),
    (f'1{"0" * 400}*kld', 'positive'),
    ('kld + + mse', 'Cannot read the spec'),
    ('kld + (mse', 'Cannot read the spec'),
    ('kld +', 'Cannot read the spec'),
    ('3', 'not a sum of weighted loss'),
  ],
)
def test_weighted_sum_takes_positive_sums_only(text, says):
  with pytest.raises(ValueError, match=says):
    spec.weighted_sum(TABLE, text, takes=2)


def test_a_sum_and_a_chain_may_be_long():
  n = 4000
  terms = spec.weighted_sum(
    TABLE, '+'.join(f'kld(eps={i})' for i in range(n)), takes=2
  )
  assert len(terms) == n and terms[-1].kwargs == {'eps': n - 1}
  assert spec.chain(TABLE, '|'.join(['add(1)'] * n), takes=1)(0) == n


def test_weighted_sum_wants_options_named():
  with pytest.raises(ValueError, match='must be named'):
    spec.weighted_sum({'add': add}, 'add(3)', takes=1)


@given(
  st.lists(
    st.tuples(
      st.floats(1e-3, 1e3, allow_nan=False), st.sampled_from(sorted(TABLE))
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda t: t[1],
  )
)
def test_weighted_sum_reads_back_what_was_written(terms):
  text = ' + '.join(f'{w!r}*{n}' for w, n in terms)
  actual = spec.weighted_sum({n: double for n in TABLE}, text, takes=1)
  assert [(t.weight, t.name) for t in actual] == terms


def test_build_calls_with_the_rest_of_the_record():
  table = {'pair': lambda *, a, b=2: (a, b)}
  assert spec.build(table, {'name': 'pair', 'a': 1}, kind='thing') == (1, 2)
  for node, says in (
    ({'a': 1}, "needs a 'name'"),
    ({'name': 'pear', 'a': 1}, "Unknown thing 'pear'. Did you mean 'pair'"),
    ({'name': 'pair', 'a': 1, 'bb': 1}, "'bb'. Did you mean 'b'"),
    ({'name': 'pair'}, "missing a required (keyword-only )?argument: 'a'"),
  ):
    with pytest.raises(ValueError, match=says):
      spec.build(table, node, kind='thing')


def test_what_is_parsed_can_be_pickled():
  call = spec.parse('f(1, k="v")')
  assert pickle.loads(pickle.dumps(call)) == call
