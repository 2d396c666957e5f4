import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'golden'
FILES = sorted(path.stem for path in GOLDEN.glob('*.npz'))


@pytest.fixture(scope='module')
def check_golden():
  from tools import check_golden

  return check_golden


@pytest.fixture
def altered(tmp_path):
  """Returns a function that copies a golden file with other arrays or descriptions."""

  def write(name, arrays=(), drop=(), **description):
    with np.load(GOLDEN / f'{name}.npz') as file:
      kept = {key: file[key] for key in file.files if key not in drop}
    np.savez(tmp_path / f'{name}.npz', **kept | dict(arrays))
    text = json.loads((GOLDEN / f'{name}.json').read_text()) | description
    (tmp_path / f'{name}.json').write_text(json.dumps(text))
    return str(tmp_path / f'{name}.npz')

  return write


def golden(name, key):
  with np.load(GOLDEN / f'{name}.npz') as file:
    return file[key]


@pytest.mark.parametrize('name', FILES)
def test_golden_file_is_within_tolerance(check_golden, name, capsys):
  assert check_golden.main([str(GOLDEN / f'{name}.npz')]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
  ('name', 'count', 'number', 'other'),
  [
    ('bit_hyperrule', 37, '0.00297', '0.00298'),
    ('deit_lr_schedule', 2, '0.000505,', '0.000505002,'),
    ('noisy_student_lr', 15, '0.172295004', '0.172295304'),
  ],
)
def test_a_description_alone(
  check_golden, tmp_path, capsys, name, count, number, other
):
  path = GOLDEN / f'{name}.json'
  text = path.read_text()
  assert number in text
  assert check_golden.main([str(path)]) == 0
  assert f'{count} of {count} within tolerance' in capsys.readouterr().out
  changed = tmp_path / 'changed.json'
  changed.write_text(text.replace(number, other))
  assert check_golden.main([str(changed)]) == 1
  assert 'TOO LARGE' in capsys.readouterr().out


@pytest.fixture
def only(check_golden, monkeypatch):
  """Makes these functions the only checks, of files whose "reference" is "a stub"."""

  def declare(*functions):
    stubs = [check_golden.Check(function, 'a stub') for function in functions]
    monkeypatch.setattr(check_golden, 'declared', lambda: stubs)

  return declare


def too_large(printed):
  return {line.split()[0] for line in printed.splitlines() if 'TOO LARGE' in line}


def test_each_changed_number_is_noticed(check_golden, only, tmp_path, capsys):
  arrays = {
    f'{kind}/{dtype}': np.arange(6, dtype=dtype).reshape(2, 3)
    for kind in ('output', 'loss', 'grad', 'converted')
    for dtype in ('float32', 'int32')
  }
  tolerance = check_golden.Tolerance(absolute=1e-6, relative=1e-6)

  def ours(description, given):
    return {
      name: (x.astype(jnp.result_type(float)), tolerance)
      if x.dtype == np.float32
      else (x, check_golden.EXACT)
      for name, x in arrays.items()
    }

  only(ours)
  path = tmp_path / 'stub.npz'
  path.with_suffix('.json').write_text(json.dumps({'reference': 'a stub'}))
  np.savez(path, **arrays)
  assert check_golden.main([str(path)]) == 0
  assert '8 of 8 within tolerance' in capsys.readouterr().out
  for name, x in arrays.items():
    for error in [1e-5, -1e-5, np.nan] if x.dtype == np.float32 else [1]:
      changed = x.copy()
      changed[1, 2] += error
      np.savez(path, **arrays | {name: changed})
      assert check_golden.main([str(path)]) == 1
      assert too_large(capsys.readouterr().out) == {name}


def test_a_changed_number_of_a_file_is_noticed(check_golden, altered, capsys):
  changed = golden('posemb_resize', 'output/posemb_1').copy()
  changed[0, 0, 0] += 2e-6
  path = altered('posemb_resize', {'output/posemb_1': changed})
  assert check_golden.main([path]) == 1
  assert too_large(capsys.readouterr().out) == {'output/posemb_1'}


def test_two_checks_of_one_file(check_golden, only, altered, capsys):
  only(test_missing_files, test_a_wrong_shape_is_noticed)
  assert check_golden.main([altered('posemb_resize', reference='a stub')]) == 2
  message = capsys.readouterr().err
  assert f'{__name__}.test_missing_files and {__name__}.test_a_wrong' in message
  assert message.count('\n') == 1


def test_the_check_with_most_fields_wins(check_golden, monkeypatch):
  checks = [
    check_golden.Check(test_missing_files, 'one', fields=fields)
    for fields in (('a',), ('a', 'b'), ('a', 'b', 'c'), ('b',))
  ]
  monkeypatch.setattr(check_golden, 'declared', lambda: checks)
  description = check_golden.Fields(a=1, b=2)
  assert check_golden.check_of(description, alone=False) is checks[1]
  for other, alone in (description, True), (check_golden.Fields(c=3), False):
    with pytest.raises(ValueError, match="lacks 'reference'"):
      check_golden.check_of(other, alone)


@pytest.mark.parametrize('words', ['Check(print)', "Check(print, 'words'), print"])
def test_half_a_check_is_named(check_golden, words, tmp_path, capsys, monkeypatch):
  text = f'from tools.golden.common import Check\nCHECKS = ({words},)'
  (tmp_path / 'half.py').write_text(text)
  monkeypatch.setattr(check_golden.checks, '__path__', [str(tmp_path)])
  assert check_golden.main([str(GOLDEN / 'posemb_resize.npz')]) == 2
  assert 'CHECKS of tools.golden.half is not a tuple' in capsys.readouterr().err
  monkeypatch.delitem(sys.modules, 'tools.golden.half')


@pytest.fixture
def cancelling(check_golden, only, tmp_path):
  """Checks a file of one product whose terms cancel to a thousandth of their size.

  Errors are added to the golden value, to our value, and only to our float32 value;
  their unit is the effect of one rounding. The function returns the exit status.
  """

  def check(of_file=0.0, of_ours=0.0, of_float32=0.0, relative=1e-7):
    a_N = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    b_N = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    b_N -= a_N * np.float32((a_N @ b_N - 0.03) / (a_N @ a_N))
    exact = a_N.astype(float) @ b_N.astype(float)
    # The effect of independent roundings of each number by up to 2^-23.
    rounding = 2**-24 * float(np.sqrt(2 * ((a_N * b_N) ** 2).sum()))

    def product(description, arrays):
      a_N, b_N = (jnp.asarray(arrays[f'input/{name}']) for name in 'ab')
      assert a_N.dtype == b_N.dtype
      error = of_ours + (of_float32 if a_N.dtype == jnp.float32 else 0.0)
      product = (a_N * b_N).sum() + error * rounding
      return {'output/product': (product, check_golden.Tolerance(relative=relative))}

    only(product)
    path = tmp_path / 'cancelling.npz'
    golden = np.float32(exact + of_file * rounding)
    np.savez(path, **{'input/a': a_N, 'input/b': b_N, 'output/product': golden})
    path.with_suffix('.json').write_text(json.dumps({'reference': 'a stub'}))
    return check_golden.main([str(path)])

  return check


def test_float64_tells_rounding_from_mistakes(cancelling, capsys):
  assert cancelling(of_file=2, of_float32=-2) == 0
  line = next(x for x in capsys.readouterr().out.splitlines() if 'product ' in x)
  assert 'ok in float64: error of the file' in line and 'of our float32' in line


@pytest.mark.parametrize(
  'errors',
  [
    dict(of_file=40),
    dict(of_file=-40),
    dict(of_file=np.nan),
    dict(of_ours=40),
    dict(of_float32=40),
    dict(of_float32=np.nan),
    dict(of_file=40, of_float32=30),
    dict(of_file=2, of_float32=-2, relative=0.0),  # the tolerance is zero
  ],
)
def test_float64_excuses_no_mistake(cancelling, errors, capsys):
  assert cancelling(**errors) == 1
  output = capsys.readouterr().out
  assert 'TOO LARGE' in output and 'ok in float64' not in output


def test_a_check_that_ignores_float64_does_not_pass(
  check_golden, cancelling, capsys, monkeypatch
):
  enable_x64 = check_golden.golden_float64.jax.enable_x64
  monkeypatch.setattr(
    check_golden.golden_float64.jax, 'enable_x64', lambda on: enable_x64(False)
  )
  assert cancelling(of_file=2, of_float32=-2) == 1
  assert 'computed in float32' in capsys.readouterr().out


def test_neighbors_are_one_rounding_away(check_golden):
  x_N = np.float32([0.0, 1.0, -3e-5, 7e8])
  arrays = {'input/x': x_N, 'input/ids': np.arange(3), 'input/y': np.float64([0.1])}
  moved = check_golden.golden_float64.neighbors(arrays, seed=0)
  steps = np.abs(moved['input/x'] - x_N)
  assert moved['input/x'].dtype == np.float32
  assert steps[0] == 0 and (steps[1:] > 0).all()
  assert (steps <= np.spacing(np.abs(x_N))).all()
  for name in ('input/ids', 'input/y'):
    np.testing.assert_array_equal(moved[name], arrays[name])


def test_an_output_without_counterpart_is_noticed(check_golden, altered, capsys):
  path = altered('posemb_resize', {'output/posemb_9': np.zeros(3)})
  assert check_golden.main([path]) == 1
  assert 'no counterpart' in capsys.readouterr().out


def test_a_wrong_shape_is_noticed(check_golden, altered, capsys):
  wrong = golden('posemb_resize', 'output/posemb_0')[:, :-1]
  assert check_golden.main([altered('posemb_resize', {'output/posemb_0': wrong})]) == 1
  assert 'ours has shape 1x50x5' in capsys.readouterr().out


def config_of(name, **changes):
  return json.loads((GOLDEN / f'{name}.json').read_text())['config'] | changes


@pytest.mark.parametrize(
  'description, drop, words',
  [
    (dict(reference='someone/else'), [], "the reference 'someone/else'"),
    ({}, ['param/head/bias'], 'missing head/bias'),
    (dict(config=config_of('vit_gap_norep', classifier='x')), [], "classifier 'x'"),
    (dict(config=config_of('vit_gap_norep', num_layers=3)), [], 'encoder/block_2'),
    (dict(config=config_of('vit_gap_norep', mlp_dim=73)), [], 'shape'),
    (dict(config={}), [], "lacks 'num_classes'"),
    ({}, ['input/image'], "lacks 'input/image'"),
    ({}, ['output/loss_softmax_xent'], 'does not name their loss'),
  ],
)
def test_a_file_that_cannot_be_checked(
  check_golden, altered, description, drop, words, capsys
):
  path = altered('vit_gap_norep', drop=drop, **description)
  assert check_golden.main([path]) == 2
  message = capsys.readouterr().err
  assert path in message and words in message
  assert message.count('\n') == 1


def test_missing_files(check_golden, altered, tmp_path, capsys):
  path = pathlib.Path(altered('posemb_resize'))
  path.with_suffix('.json').unlink()
  good = str(GOLDEN / 'posemb_resize.npz')
  assert check_golden.main([str(tmp_path / 'nothing.npz'), good, str(path)]) == 2
  output = capsys.readouterr()
  assert '3 of 3 within tolerance' in output.out
  assert 'no such .npz file' in output.err and 'posemb_resize.json' in output.err


def test_an_optimizer_with_a_schedule_for_each_group(check_golden, tmp_path, capsys):
  steps, lr, decay, rng = 4, 0.1, 0.01, np.random.default_rng(0)
  shapes = {'embed/kernel': (3, 2), 'head/bias': (2,), 'head/kernel': (2, 2)}
  params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
  linear = optax.linear_schedule(1.0, 0.0, steps)
  cosine = optax.warmup_cosine_decay_schedule(0.0, 0.5, 1, steps)
  rates = {'embed/kernel': None, 'head/bias': linear, 'head/kernel': cosine}
  arrays = {f'input/p0/{name}': x for name, x in params.items()}
  moving = {name: x for name, x in params.items() if rates[name]}
  adam, clip = optax.scale_by_adam(), optax.clip_by_global_norm(1.0)
  state = adam.init(moving)
  for step in range(steps):
    grads = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    arrays |= {f'input/g{step}/{name}': x for name, x in grads.items()}
    # A frozen parameter does not move or decay, and its gradient does not count.
    own, _ = clip.update({name: grads[name] for name in moving}, clip.init(moving))
    updates, state = adam.update(own, state)
    for name, update in updates.items():
      update = lr * update + decay * params[name] * name.endswith('kernel')
      params[name] = params[name] - rates[name](step) * update
    arrays |= {f'output/0/step{step}/{name}': x for name, x in params.items()}
  share_GS = np.array([[f(n) for n in range(steps)] for f in (linear, cosine)])
  arrays['output/0/schedule'] = share_GS.astype(np.float32)
  path = tmp_path / 'groups.npz'
  np.savez(path, **arrays)
  case = dict(optax_name='scale_by_adam', lr=lr, wd=decay, grad_clip_norm=1.0)
  case['schedule'] = [
    ['.*embed.*', None],
    ['nothing', {'decay_type': 'cosine'}],
    ['.*/bias', {'decay_type': 'linear'}],
    ['.*', {'decay_type': 'cosine', 'warmup_steps': 1, 'mult': 0.5}],
  ]

  def check(**changes):
    config = dict(steps=steps, cases=[case | changes])
    text = dict(reference='big_vision optax.make', config=config)
    path.with_suffix('.json').write_text(json.dumps(text))
    return check_golden.main([str(path)])

  assert check() == 0, capsys.readouterr().out
  assert '13 of 13 within tolerance' in capsys.readouterr().out
  assert check(schedule=case['schedule'][2:]) == 1
  assert 'TOO LARGE' in capsys.readouterr().out
  assert check(schedule=case['schedule'][:3]) == 2
  assert 'no pattern of `rate` matches the parameter head/kernel' in (
    capsys.readouterr().err
  )
  assert check(lr_mults=[['.*', 2.0]]) == 2
  assert 'lr_mults is not one of optax_name' in capsys.readouterr().err


def test_positions_of_a_detr_follow_its_description():
  from tools.golden import detr

  with open(GOLDEN / 'detr_tiny.json') as file:
    description = json.load(file)
  rows, columns = np.random.default_rng(0).normal(size=(2, 50, 16))
  params = {'pos_rows': jnp.float32(rows), 'pos_columns': jnp.float32(columns)}
  valid_Bhw = np.arange(3)[None, None] < np.array([2, 3])[:, None, None]
  valid_Bhw = jnp.asarray(np.broadcast_to(valid_Bhw, (2, 4, 3)))
  model = detr.model_of(description | {'position_embedding': 'learned'})
  got_BhwD = detr.positions_of(model, params, valid_Bhw)
  for i in np.ndindex(2, 4, 3):  # as in facebookresearch/detr
    np.testing.assert_allclose(
      got_BhwD[i], np.concatenate([columns[i[2]], rows[i[1]]]), rtol=1e-6
    )
  sine_BhwD = detr.positions_of(detr.model_of(description), {}, valid_Bhw)
  assert sine_BhwD.shape == got_BhwD.shape and not np.allclose(sine_BhwD, got_BhwD)
