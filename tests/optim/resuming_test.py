import jax
import numpy as np
import tiny_config

from big_vision_like import optim, train
from big_vision_like.spec import epochs, spec


def test_an_interrupted_run_with_rmsprop_ends_bit_equal(data_dir, tmp_path, capsys):
  config = tiny_config.get_config()
  config.update(total_steps=6, checkpoint_every=2, log_every=1, evals={})
  config.task.model.update(depth=1, width=4, mlp_dim=4, dropout=0.0, drop_path=0.0)
  config.task.augment = None
  config.task.optimizer = spec(
    optim.rmsprop_tf,
    rate=spec(
      optim.exponential_staircase,
      peak_value=0.01,
      warmup_steps=epochs(0.05),
      decay_steps=epochs(0.053),
    ),
    l2=1e-3,
    l2_rules=spec(optim.decay_weights, exempt=['cls']),
  )
  config.task.ema = spec(optim.Ema, decay=0.99, warmup=True, first_step=1)
  whole = train.train(config, tmp_path / 'whole')
  train.train(config, tmp_path / 'halves', drill=3)
  assert 'stopped' in capsys.readouterr().out
  halves = train.train(config, tmp_path / 'halves')
  assert 'resumed at step 3' in capsys.readouterr().out
  assert int(halves.step) == 6
  assert jax.tree.structure(whole) == jax.tree.structure(halves)
  jax.tree.map(np.testing.assert_array_equal, whole, halves)
