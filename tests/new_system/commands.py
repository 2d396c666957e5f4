"""Commands of a user of the new system, one after another in one process."""

import importlib
import json
import pathlib

import jax
import numpy as np
from battery import cases

import big_vision_like
from big_vision_like.weights import files

SHAPES = {
  'stem.weight': (6, 3),
  'stem.bias': (6,),
  'fc.weight': (2, 6),
  'fc.bias': (2,),
}


def call(tool: str, *words: str) -> None:
  """Runs a program as its command line does; it must succeed."""
  print(f'== {tool}', flush=True)
  status = importlib.import_module(tool).main([*words])
  assert not status, (tool, status)


def computed(theirs: dict[str, np.ndarray], image_BHWC: np.ndarray) -> np.ndarray:
  """Returns the logits that somebody's code computes."""
  mean_BC = image_BHWC.mean(axis=(1, 2))
  hidden_BD = jax.nn.gelu(mean_BC @ theirs['stem.weight'].T + theirs['stem.bias'])
  return np.asarray(hidden_BD) @ theirs['fc.weight'].T + theirs['fc.bias']


def main() -> None:
  """Prepares data, trains, reports, converts, compares."""
  assert 'averager' in cases()
  call('tools.prepare_data', 'greys')
  call('big_vision_like.train', '--config=configs/averager/small.py', '--workdir=run')
  call('tools.report', 'run')
  call('tools.smoke', 'configs/averager/small.py')
  call('tools.paper_tables', '2611.00001', '--runs', 'run', '--out=tables')

  rng = np.random.default_rng(0)
  theirs = {name: rng.normal(size=s).astype('float32') for name, s in SHAPES.items()}
  files.write(pathlib.Path('somebody.safetensors'), theirs)
  image_BHWC = rng.uniform(-1, 1, (2, 16, 16, 3)).astype('float32')
  logits_BK = computed(theirs, image_BHWC)

  arrays = {f'param/{name}': x for name, x in theirs.items()}
  arrays |= {'input/image': image_BHWC, 'output/logits': logits_BK}
  np.savez('golden.npz', **arrays)
  about = dict(reference='somebody averager.py', classes=2, width=6)
  pathlib.Path('golden.json').write_text(json.dumps(about))
  call('tools.check_golden', 'golden.npz')

  model, variables, _ = big_vision_like.load('somebody.safetensors')
  found = model.apply(variables, image_BHWC)['logits']
  np.testing.assert_allclose(found, logits_BK, atol=1e-5)
  call('tools.convert_weights', 'somebody.safetensors', 'again.safetensors')
  again = files.read(pathlib.Path('again.safetensors'))
  assert all(np.array_equal(again[name], theirs[name]) for name in theirs)


if __name__ == '__main__':
  main()
