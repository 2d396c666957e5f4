"""Adversarial training of a generator and a discriminator, as in arXiv:1912.04958.

Both have an optimizer of their own. Regularization runs at some steps only: R1
(arXiv:1801.04406) of the discriminator, and the path length of the generator. Such a
step makes a second update, with the gradient of the penalty times the number of steps
it stands for; counts of operations weigh it by that number (`ops.branches`).

Axes: B batch, K components, L layers, Z W widths of latents and styles, H W C images.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like import optim
from big_vision_like.errors import UserError, shape_text
from big_vision_like.ops import branches, images
from big_vision_like.tasks import task
from big_vision_like.tasks.task import Arrays, Frozen, Loss, Network, State

GENERATOR, DISCRIMINATOR = 'generator', 'discriminator'
# The entry of `State.mutable` with the last values of each penalty.
LAST = 'regularization'


def generator_loss(fake_B: jax.Array) -> jax.Array:
  """Returns -log of the probability that generated images are real (non-saturating)."""
  return jax.nn.softplus(-fake_B)


def discriminator_loss(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
  """Returns the logistic loss of real and generated images, summed in pairs."""
  return jax.nn.softplus(-real_B) + jax.nn.softplus(fake_B)


def gradient_square(
  logits: Callable[[jax.Array], jax.Array], image_BHWC: jax.Array
) -> jax.Array:
  """Returns the squared norm of each image's gradient of the sum of logits: (B,)."""
  slope_BHWC = jax.grad(lambda image: logits(image).sum())(image_BHWC)
  return jnp.square(slope_BHWC).sum(axis=(1, 2, 3))


def lazy_adam(
  rate: float, every: int, b1: float = 0.0, b2: float = 0.99, eps: float = 1e-8
) -> optim.Optimizer:
  """Returns Adam for a network that is regularized at every `every`-th step.

  Its two updates in such a step would advance moments and parameters by more than one
  step, so rate and betas are adapted to `every` / (`every` + 1) of a step
  (arXiv:1912.04958, appendix B).
  """
  share = every / (every + 1)
  return optim.adamw(rate=rate * share, b1=b1**share, b2=b2**share, eps=eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(task.Task):
  """A generator of images from latents, and a discriminator.

  The generator has the methods `styles`, `for_layers` and `synthesize` of
  `gansformer.Generator`. `r1` is gamma: the penalty is gamma / 2 times the squared
  gradient at real images, every `r1_every` steps. `path_length` weighs the squared
  deviation of path lengths from their running average, every `path_every` steps for
  half of a batch. With probability `mixing`, layers after a random one take the styles
  of other latents. `ema` averages the generator's parameters, which predictions use;
  its other variables are copied.
  """

  predicts = 'images'

  generator: nn.Module
  discriminator: nn.Module
  generator_optimizer: optim.Optimizer
  discriminator_optimizer: optim.Optimizer
  ema: optim.Ema
  r1: float = 10.0
  r1_every: int = 16
  path_length: float = 0.0
  path_every: int = 4
  path_decay: float = 0.01
  mixing: float = 0.9
  accumulate: int = 1

  def networks(self) -> Mapping[str, Network]:
    def latents(batch: Arrays) -> tuple[jax.Array, ...]:
      return (self.latents(jax.random.key(0), len(batch['image'])),)

    def real(batch: Arrays) -> tuple[jax.Array, ...]:
      return (images.normalize(batch['image']),)

    return {
      GENERATOR: Network(self.generator, latents, lambda state: state.ema[GENERATOR]),
      DISCRIMINATOR: Network(
        self.discriminator,
        real,
        lambda state: {'params': state.params[DISCRIMINATOR]},
        images.Normalization(),
      ),
    }

  def optimizers(self) -> Mapping[str, optim.Optimizer]:
    return {
      GENERATOR: self.generator_optimizer,
      DISCRIMINATOR: self.discriminator_optimizer,
    }

  @property
  def images(self) -> images.Normalization:
    return images.Normalization()

  def check(self, batch: Mapping[str, np.ndarray]) -> None:
    side, channels = self.generator.resolution, self.generator.channels
    shape = batch['image'].shape[1:]
    if shape != (side, side, channels):
      raise UserError(
        f'images have shape {shape_text(shape)}, but the generator makes'
        f' {shape_text((side, side, channels))}: pad images of another aspect to a'
        ' square and resize them in train_data.transforms, or set resolution and'
        ' channels of both networks'
      )

  def latents(self, key: jax.Array, rows: int) -> jax.Array:
    """Returns Gaussian latents (B, K, Z) for this number of images."""
    shape = rows, self.generator.num_latents, self.generator.latent_width
    return jax.random.normal(key, shape)

  def prepare(self, batch: Arrays, key: jax.Array, frozen: Frozen = None) -> Arrays:
    """Returns real images in [-1, 1]."""
    del key, frozen
    return {'image': images.normalize(batch['image'])}

  def init(self, key: jax.Array, batch: Arrays) -> State:
    keys = dict(zip(self.networks(), jax.random.split(key), strict=True))
    params, mutable = {}, {}
    for name, network in self.networks().items():
      variables = network.module.init(keys[name], *network.inputs(batch))
      params[name] = variables.pop('params')
      mutable[name] = variables
    optimizers = self.optimizers().items()
    state = State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state={name: own.init(params[name]) for name, own in optimizers},
      mutable={GENERATOR: mutable[GENERATOR], LAST: self._no_penalties()},
    )
    return self.with_first_average(state)

  def with_first_average(self, state: State) -> State:
    own = state.mutable[GENERATOR]
    average = self.ema.init({'params': state.params[GENERATOR]})
    return state.replace(ema={GENERATOR: {**jax.tree.map(jnp.copy, own), **average}})

  def _no_penalties(self) -> Arrays:
    names = []
    if self.path_length:
      names += ['path_length', 'path_mean', 'gradient_norm_path_length']
    if self.r1:
      names += ['r1', 'gradient_norm_r1']
    return {name: jnp.zeros(()) for name in names}

  def train_step(
    self, state: State, batch: Arrays, key: jax.Array
  ) -> tuple[State, Arrays]:
    keys = jax.random.split(key, 5)
    prepared = self.prepare(batch, keys[0])
    state, scalars = self._updated(
      GENERATOR, self._generator_loss, state, prepared, keys[1]
    )
    if self.path_length:
      state = self._regularized('path_length', state, prepared, keys[2])
    # The discriminator sees images of the generator after its update.
    state, more = self._updated(
      DISCRIMINATOR, self._discriminator_loss, state, prepared, keys[3]
    )
    if self.r1:
      state = self._regularized('r1', state, prepared, keys[4])
    scalars |= more
    scalars['loss'] = scalars['loss_generator'] + scalars['loss_discriminator']
    scalars['rate'] = self.generator_optimizer.rate_at(state.step)
    average = self.ema.update(
      {'params': state.ema[GENERATOR]['params']},
      {'params': state.params[GENERATOR]},
      state.step,
      len(prepared['image']),
    )
    own = state.mutable[GENERATOR]
    state = state.replace(step=state.step + 1, ema={GENERATOR: {**own, **average}})
    return state, {**scalars, **state.mutable[LAST]}

  def _updated(
    self,
    name: str,
    loss: Callable[..., Loss],
    state: State,
    prepared: Arrays,
    key: jax.Array,
  ) -> tuple[State, Arrays]:
    """Returns the state after one update of a network, and scalars."""
    optimizer, own = self.optimizers()[name], state.params[name]

    def of_own(params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
      every = {**state.params, name: optimizer.freeze(params)}
      return loss(every, mutable, batch, key)

    grads, mutable, scalars = task.gradients(
      of_own, state.replace(params=own), prepared, key, self.accumulate
    )
    scalars[f'loss_{name}'] = scalars.pop('loss')
    scalars[f'gradient_norm_{name}'] = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state[name], own)
    after = optax.apply_updates(own, updates)
    state = state.replace(
      params={**state.params, name: after},
      opt_state={**state.opt_state, name: opt_state},
      mutable=mutable,
    )
    return state, scalars

  def _regularized(
    self, penalty: str, state: State, prepared: Arrays, key: jax.Array
  ) -> State:
    """Returns the state, updated by a penalty if this step is one of those."""
    name, steps, loss = {
      'r1': (DISCRIMINATOR, self.r1_every, self._r1_loss),
      'path_length': (GENERATOR, self.path_every, self._path_loss),
    }[penalty]

    def update(state: State) -> State:
      state, scalars = self._updated(name, loss, state, prepared, key)
      norm = scalars[f'gradient_norm_{name}'] / steps
      found = {penalty: scalars[penalty], f'gradient_norm_{penalty}': norm}
      last = {**state.mutable[LAST], **found}
      return state.replace(mutable={**state.mutable, LAST: last})

    return branches.every(steps, state.step, update, lambda state: state, state)

  def _fakes(
    self, params: Any, mutable: Any, rows: int, key: jax.Array
  ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array], Any]:
    """Returns styles (B, K, L, W), images as a function of them, mutable variables."""
    keys = jax.random.split(key, 6)
    variables = {'params': params[GENERATOR], **mutable[GENERATOR]}
    module = self.generator

    def styles(key: jax.Array, dropout: jax.Array) -> tuple[jax.Array, Any]:
      return module.apply(
        variables,
        self.latents(key, rows),
        train=True,
        rngs={'dropout': dropout},
        method='styles',
        mutable=['batch_stats'],
      )

    w_BKW, changed = styles(keys[0], keys[1])
    w_BKLW = module.for_layers(w_BKW)
    if self.mixing:
      other_BKW, _ = styles(keys[2], keys[3])
      swapped_B1L1 = self._swapped(keys[4], rows, w_BKLW.shape[2])
      w_BKLW = jnp.where(swapped_B1L1, other_BKW[:, :, None], w_BKLW)

    def synthesize(w_BKLW: jax.Array) -> jax.Array:
      rngs = dict(zip(('noise', 'dropout'), jax.random.split(keys[5]), strict=True))
      outputs = module.apply(
        variables, w_BKLW, 'random', True, rngs=rngs, method='synthesize'
      )
      return outputs['image']

    own = {**mutable[GENERATOR], **changed}
    return w_BKLW, synthesize, {**mutable, GENERATOR: own}

  def _swapped(self, key: jax.Array, rows: int, layers: int) -> jax.Array:
    """Returns which layers take other styles, (B, 1, L, 1), after a random one."""
    keys = jax.random.split(key)
    first_B = jax.random.randint(keys[0], (rows,), 1, layers)
    mixed_B = jax.random.bernoulli(keys[1], self.mixing, (rows,))
    first_B = jnp.where(mixed_B, first_B, layers)
    swapped_BL = jnp.arange(layers)[None] >= first_B[:, None]
    return swapped_BL[:, None, :, None]

  def _judge(self, params: Any, key: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from images to logits."""

    def logits(image_BHWC: jax.Array) -> jax.Array:
      return self.discriminator.apply(
        {'params': params[DISCRIMINATOR]}, image_BHWC, True, rngs={'dropout': key}
      )['logit']

    return logits

  def _generator_loss(
    self, params: Any, mutable: Any, batch: Arrays, key: jax.Array
  ) -> Loss:
    keys = jax.random.split(key)
    w_BKLW, synthesize, mutable = self._fakes(
      params, mutable, len(batch['image']), keys[0]
    )
    fake_B = self._judge(params, keys[1])(synthesize(w_BKLW))
    return generator_loss(fake_B).mean(), (mutable, {})

  def _discriminator_loss(
    self, params: Any, mutable: Any, batch: Arrays, key: jax.Array
  ) -> Loss:
    keys = jax.random.split(key, 3)
    real_BHWC = batch['image']
    rows = len(real_BHWC)
    w_BKLW, synthesize, mutable = self._fakes(params, mutable, rows, keys[0])
    fake_BHWC = jax.lax.stop_gradient(synthesize(w_BKLW))
    fake_B = self._judge(params, keys[1])(fake_BHWC)
    real_B = self._judge(params, keys[2])(real_BHWC)
    scalars = {'logit_real': real_B.mean(), 'logit_fake': fake_B.mean()}
    return discriminator_loss(real_B, fake_B).mean(), (mutable, scalars)

  def _r1_loss(self, params: Any, mutable: Any, batch: Arrays, key: jax.Array) -> Loss:
    square_B = gradient_square(self._judge(params, key), batch['image'])
    loss = self.r1_every * self.r1 / 2 * square_B.mean()
    return loss, (mutable, {'r1': square_B.mean()})

  def _path_loss(
    self, params: Any, mutable: Any, batch: Arrays, key: jax.Array
  ) -> Loss:
    """Penalizes unequal lengths |J^T y| of steps in the image for steps in style."""
    keys = jax.random.split(key)
    rows, side = max(1, len(batch['image']) // 2), self.generator.resolution
    w_BKLW, synthesize, after = self._fakes(params, mutable, rows, keys[0])

    def projected(w_BKLW: jax.Array) -> jax.Array:
      image_BHWC = synthesize(w_BKLW)
      y_BHWC = jax.random.normal(keys[1], image_BHWC.shape) / side
      return (image_BHWC * y_BHWC).sum()

    slope_BKLW = jax.grad(projected)(w_BKLW)
    square_BKL = jnp.square(slope_BKLW).sum(axis=-1)
    # The root of 0 has no gradient.
    length_B = jnp.sqrt(square_BKL.mean(axis=(1, 2)) + 1e-12)
    before = mutable[LAST]['path_mean']
    mean = before + self.path_decay * (length_B.mean() - before)
    penalty = jnp.square(length_B - mean).mean()
    last = {**after[LAST], 'path_mean': jax.lax.stop_gradient(mean)}
    loss = self.path_every * self.path_length * penalty
    scalars = {'path_length': length_B.mean()}
    return loss, ({**mutable, LAST: last}, scalars)

  def generate(self, state: State, batch: Arrays, key: jax.Array) -> Arrays:
    """Draws as many images as the batch has, in [-1, 1], without truncation.

    Returns `image` (B, H, W, C) and, if the generator attends to components,
    `attention` of its last layer (B, k, h, w).
    """
    return self.truncated(state, batch, key, psi=1.0)

  def truncated(
    self, state: State, batch: Arrays, key: jax.Array, psi: float = 0.7
  ) -> Arrays:
    """Draws images whose styles are moved towards the average, which psi=0 reaches."""
    keys = jax.random.split(key)
    outputs = self.generator.apply(
      state.ema[GENERATOR],
      self.latents(keys[0], len(batch['image'])),
      noise='random',
      psi=psi,
      rngs={'noise': keys[1]},
    )
    found = {'image': jnp.clip(outputs['image'], -1.0, 1.0)}
    if 'attention' in outputs:
      found['attention'] = outputs['attention']
    return found
