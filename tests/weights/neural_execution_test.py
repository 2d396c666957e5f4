import battery
import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import neural_execution as models
from big_vision_like.weights import neural_execution as names
from big_vision_like.weights import published, tree

SUBROUTINE = models.Subroutine(bits=6, width=8, depth=3, hidden=12)
ENGINE = models.Engine(SUBROUTINE, models.MaskNetwork(filters=5))
NUMBERS = np.zeros((1, 1, 2), np.int32)
INPUTS = NUMBERS, NUMBERS > 0, NUMBERS[0, :, :1]
PARAMS = jax.device_get(battery.variables(ENGINE, *INPUTS)['params'])
END = '/.ATTRIBUTES/VARIABLE_VALUE'


def checkpoint(network='_2', end=END):
  """Returns arrays in the names of an object checkpoint."""
  found = {}
  for name, array in names.written(PARAMS).items():
    kind, _, rest = name.partition('/')
    found[f'{kind}{network}/{rest}{end}'] = array
  return found


def equal(params):
  flat, want = tree.flatten(params), tree.flatten(PARAMS)
  assert flat.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(array, flat[name], err_msg=name)


def test_names_of_the_published_checkpoints():
  arrays = checkpoint()
  for name, shape in {
    'transformer_2/encoder/enc_layers/0/mha/w/kernel': (8, 8),
    'transformer_2/decoder/dec_layers/2/mha2/dense/bias': (8,),
    'transformer_2/encoder/enc_layers/1/ffn/layer-0/kernel': (8, 12),
    'transformer_2/NN/layer-0/kernel': (16, 12),
    'transformer_2/emb/kernel': (6, 8),
    'transformer_2/decoder/dec_layers/1/layernorm3/gamma': (8,),
    'msk_transform_2/CNN/kernel': (3, 2, 5),
  }.items():
    assert arrays[name + END].shape == shape, name


def test_a_file_of_an_engine_is_read(tmp_path):
  file = tmp_path / 'engine.npz'
  np.savez(file, **checkpoint())
  found = published.read(str(file))
  equal(found.params)
  assert found.model.subroutine.bits == 6 and found.model.mask.filters == 5
  assert not found.model.subroutine.positions


def test_of_several_networks_the_selector_is_read(tmp_path):
  arrays = checkpoint()
  for name, array in checkpoint('_1').items():
    if name.startswith('transformer'):
      arrays[name] = array + 1
  arrays = {
    name.replace('ffn/layer-1', 'ffn/layer_with_weights-1'): x
    for name, x in arrays.items()
  }
  slot = f'transformer_2/emb/kernel/.OPTIMIZER_SLOT/optimizer/m{END}'
  arrays[slot] = arrays[f'transformer_2/emb/kernel{END}']
  params, others = names.engine(arrays, 'file')
  equal(params)
  assert others == ['transformer_1']
  file = tmp_path / 'engine.npz'
  np.savez(file, **arrays)
  assert any('transformer_1' in told for told in published.read(str(file)).assumed)


def test_missing_and_unknown_names_are_reported():
  arrays = checkpoint()
  gone = f'transformer_2/NN/layer-1/bias{END}'
  unknown, missing = names.differences(arrays.keys() - {gone})
  assert not unknown and missing == {'NN/1/bias'}
  unknown, _ = names.differences({*arrays, f'transformer_2/tail/kernel{END}'})
  assert unknown == {'tail/kernel'}
  assert names.differences({'a'})[1]
  with pytest.raises(UserError, match='NN/1/bias'):
    names.engine({k: x for k, x in arrays.items() if k != gone}, 'file')


def test_controls_are_not_written():
  table = models.Subroutine(bits=6, width=8, depth=1, hidden=12, numbers='table')
  params = battery.variables(table, *INPUTS[:2])['params']
  with pytest.raises(UserError, match="numbers='bits'"):
    names.to_published(tree.flatten(params))
