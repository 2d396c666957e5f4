"""Slot Attention, arXiv:2006.15055: unsupervised decomposition of images into objects.

Axes: B batch, H W image, h w feature map, C channels, F features of a map, N tokens, S
slots, D their size, T iterations, P properties, L layers (a picture and its mask).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import transformer
from big_vision_like.ops import attention, positions, precision

# The default of Keras, which the published code uses.
EPSILON = 1e-3
# The softmax runs over the slots, which thus compete, or over the inputs as usual.
OVER = {'slots': 'queries', 'inputs': 'keys'}

Conv = tuple[int, int, int]

# Channels, kernel and stride of convolutions. Tetrominoes and Multi-dSprites are from
# the paper's appendix; the others are also in its code.
VARIANTS = {
  'clevr': dict(
    encoder_convs=4 * ((64, 5, 1),),
    grid=(8, 8),
    decoder_convs=(*(4 * ((64, 5, 2),)), (64, 5, 1)),
  ),
  'tetrominoes': dict(
    encoder_convs=4 * ((32, 5, 1),), grid=(35, 35), decoder_convs=3 * ((32, 5, 1),)
  ),
  'multi_dsprites': dict(
    encoder_convs=4 * ((32, 5, 1),), grid=(64, 64), decoder_convs=3 * ((32, 5, 1),)
  ),
}


def variant(name: str) -> dict[str, Sequence]:
  """Returns the arguments of `AutoEncoder` for a data set of the paper."""
  check_one_of(VARIANTS, variant=name)
  return VARIANTS[name]


# Upper bounds for scaled-down versions of both models, and for their convolutions.
TINY_CONV = (8, 3, 2)
TINY = dict(iterations=2, slot_size=16, hidden=32, encoder_convs=TINY_CONV)


def small_grid(
  arguments: Mapping[str, Any], small_side: Callable[[int], int]
) -> tuple[int, ...]:
  """Returns the grid from which a scaled-down decoder makes small pictures."""
  scale = math.prod(stride for _, _, stride in arguments['decoder_convs'])
  return tuple(small_side(side * scale) // scale for side in arguments['grid'])


class AutoEncoder(nn.Module):
  """An autoencoder of images (B, H, W, C) in [-1, 1] through slots (section 3.1).

  Returns `reconstruction` (B, H, W, C), the sum of `contents` (B, S, H, W, C) weighted
  by `masks` (B, S, H, W), which sum to 1 over slots; `slots` (B, S, D), `iterates` (B,
  T, S, D) and `attention` (B, T, S, h, w).

  `encoder_convs` and `decoder_convs` list (channels, kernel, stride) of convolutions.
  The decoder starts from a `grid` whose size times all strides must be the image size,
  and ends with one more convolution. Each call may override `num_slots` and
  `iterations`. Slots are initialized from samples of the random stream 'slots', or from
  `noise_BSD` if given.
  """

  num_slots: int
  iterations: int = 3
  slot_size: int = 64
  hidden: int = 128
  encoder_convs: Sequence[Conv] = VARIANTS['clevr']['encoder_convs']
  grid: tuple[int, int] = VARIANTS['clevr']['grid']
  decoder_convs: Sequence[Conv] = VARIANTS['clevr']['decoder_convs']
  channels: int = 3
  over: str = 'slots'
  implicit: bool = False
  dtype: str = 'float32'

  tiny = dict(TINY, decoder_convs=TINY_CONV, grid=small_grid)

  def setup(self) -> None:
    self.encoder = Encoder(self.encoder_convs, self.dtype)
    self.attention = SlotAttention(
      self.num_slots,
      self.iterations,
      self.slot_size,
      self.hidden,
      self.over,
      self.implicit,
    )
    self.decoder = Decoder(self.grid, self.decoder_convs, self.channels, self.dtype)

  def __call__(
    self,
    image_BHWC: jax.Array,
    train: bool = False,
    num_slots: int | None = None,
    iterations: int | None = None,
    noise_BSD: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    del train  # slots are random in either case
    made = self.image_shape
    if image_BHWC.shape[1:] != made:
      raise UserError(
        f'images are {image_BHWC.shape[1:]}, but the decoder makes {made} from'
        f' grid={tuple(self.grid)}: resize them, or change task.model.grid'
      )
    x_BhwF = self.encoder(image_BHWC)
    outputs = self.attention(_tokens(x_BhwF), num_slots, iterations, noise_BSD)
    outputs['attention'] = _maps(outputs['attention'], x_BhwF)
    return outputs | self.decode(outputs['slots'])

  def decode(self, slots_BSD: jax.Array) -> dict[str, jax.Array]:
    """Returns `reconstruction`, `masks` and `contents` of any slots (B, S, D)."""
    layers_BSHWL = self.decoder(slots_BSD)
    contents_BSHWC = layers_BSHWL[..., :-1]
    masks_BSHW = jax.nn.softmax(layers_BSHWL[..., -1], axis=1)
    return {
      'reconstruction': (masks_BSHW[..., None] * contents_BSHWC).sum(axis=1),
      'masks': masks_BSHW,
      'contents': contents_BSHWC,
    }

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """The height, width and channels of the images that the decoder makes."""
    height, width = self.grid
    for _, _, stride in self.decoder_convs:
      height, width = height * stride, width * stride
    return height, width, self.channels


class SetClassifier(nn.Module):
  """A network that predicts properties of the objects in images (section 3.2).

  Images are (B, H, W, C) in [-1, 1], of any size, because positions are relative to it.
  Returns `predictions` (B, S, P) in (0, 1), one object per slot in no particular order,
  and `slots`, `iterates` and `attention` as `AutoEncoder`, which documents the shared
  arguments.
  """

  num_slots: int
  num_properties: int
  iterations: int = 3
  slot_size: int = 64
  hidden: int = 128
  encoder_convs: Sequence[Conv] = ((64, 5, 1), (64, 5, 2), (64, 5, 2), (64, 5, 1))
  dtype: str = 'float32'

  tiny = TINY

  @nn.compact
  def __call__(
    self,
    image_BHWC: jax.Array,
    train: bool = False,
    num_slots: int | None = None,
    iterations: int | None = None,
    noise_BSD: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    del train  # slots are random in either case
    x_BhwF = Encoder(self.encoder_convs, self.dtype, name='encoder')(image_BHWC)
    outputs = SlotAttention(
      self.num_slots,
      self.iterations,
      self.slot_size,
      self.hidden,
      name='attention',
    )(_tokens(x_BhwF), num_slots, iterations, noise_BSD)
    outputs['attention'] = _maps(outputs['attention'], x_BhwF)
    x_BSD = _dense(self.slot_size, 'head_fc1')(outputs['slots'])
    logits_BSP = _dense(self.num_properties, 'head_fc2')(nn.relu(x_BSD))
    return outputs | {'predictions': nn.sigmoid(logits_BSP)}


class SlotAttention(nn.Module):
  """Slots that compete for tokens (B, N, F) over several iterations (algorithm 1).

  Returns `slots` (B, S, D); the slots after each iteration, `iterates` (B, T, S, D);
  and the probabilities `attention` (B, T, S, N), which sum to 1 over slots. All slots
  are initialized from one learned Gaussian, so any number of them can be requested.

  With `over='inputs'` the probabilities sum to 1 over inputs and slots do not compete,
  as a control. `implicit` passes gradients through the last iteration only, the first
  term of implicit differentiation at the fixed point (arXiv:2207.00787); the Gaussian
  then keeps its initial parameters.
  """

  num_slots: int
  iterations: int = 3
  size: int = 64
  hidden: int = 128
  over: str = 'slots'
  implicit: bool = False

  @nn.compact
  def __call__(
    self,
    x_BNF: jax.Array,
    num_slots: int | None = None,
    iterations: int | None = None,
    noise_BSD: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    check_one_of(OVER, over=self.over)
    num_slots = self.num_slots if num_slots is None else num_slots
    iterations = self.iterations if iterations is None else iterations
    for name, count in ('num_slots', num_slots), ('iterations', iterations):
      if count < 1:
        raise UserError(f'{name}={count}: there must be at least one')
    x_BNF = _norm('norm_inputs')(precision.at_least_float32(x_BNF))
    # Attention has one head.
    key_BN1D = _dense(self.size, 'key', use_bias=False)(x_BNF)[:, :, None]
    value_BN1D = _dense(self.size, 'value', use_bias=False)(x_BNF)[:, :, None]
    norm_slots, query = _norm('norm_slots'), _dense(self.size, 'query', use_bias=False)
    gru, norm_mlp = GRU(self.size, name='gru'), _norm('norm_mlp')
    mlp = transformer.Mlp(
      self.hidden, dtype=x_BNF.dtype.name, activation='relu', name='mlp'
    )

    slots_BSD = self._start(len(x_BNF), num_slots, noise_BSD)
    iterates, attentions = [], []
    for iteration in range(iterations):
      if self.implicit and iteration == iterations - 1:
        slots_BSD = jax.lax.stop_gradient(slots_BSD)
      query_BS1D = query(norm_slots(slots_BSD))[:, :, None]
      over = OVER[self.over]
      p_B1SN = attention.probabilities(query_BS1D, key_BN1D, over=over)
      # XLA computes the product that `attend` repeats only once.
      y_BS1D = attention.attend(query_BS1D, key_BN1D, value_BN1D, over=over)
      slots_BSD = gru(slots_BSD, y_BS1D[:, :, 0])
      slots_BSD += mlp(norm_mlp(slots_BSD))
      iterates.append(slots_BSD)
      attentions.append(p_B1SN[:, 0])
    return {
      'slots': slots_BSD,
      'iterates': jnp.stack(iterates, axis=1),
      'attention': jnp.stack(attentions, axis=1),
    }

  def _start(
    self, batch: int, num_slots: int, noise_BSD: jax.Array | None
  ) -> jax.Array:
    init, shape = nn.initializers.glorot_uniform(), (1, 1, self.size)
    mu_11D = self.param('mu', init, shape)
    log_sigma_11D = self.param('log_sigma', init, shape)
    shape = batch, num_slots, self.size
    if noise_BSD is None:
      noise_BSD = jax.random.normal(self.make_rng('slots'), shape)
    if noise_BSD.shape != shape:
      raise UserError(f'noise has shape {noise_BSD.shape}, but slots have {shape}')
    return mu_11D + jnp.exp(log_sigma_11D) * noise_BSD


class GRU(nn.Module):
  """A gated recurrent unit that computes the next state (B, S, D) from state and input.

  It follows Keras with `reset_after=True`: the update, reset and candidate gates are
  concatenated in this order, and the recurrent product has its own bias. `nn.GRUCell`
  has a recurrent bias only for the candidate, so its parameter count differs.
  """

  size: int

  @nn.compact
  def __call__(self, state_BSD: jax.Array, x_BSI: jax.Array) -> jax.Array:
    wide = 3 * self.size
    kernel = self.param(
      'kernel', nn.initializers.glorot_uniform(), (x_BSI.shape[-1], wide)
    )
    recurrent_kernel = self.param(
      'recurrent_kernel', nn.initializers.orthogonal(), (self.size, wide)
    )
    bias = self.param('bias', nn.initializers.zeros, (2, wide))
    of_x_BSG = x_BSI @ kernel + bias[0][None, None]
    of_state_BSG = state_BSD @ recurrent_kernel + bias[1][None, None]
    update_x_BSD, reset_x_BSD, x_BSD = jnp.split(of_x_BSG, 3, axis=-1)
    update_BSD, reset_BSD, past_BSD = jnp.split(of_state_BSG, 3, axis=-1)
    update_BSD = nn.sigmoid(update_x_BSD + update_BSD)
    reset_BSD = nn.sigmoid(reset_x_BSD + reset_BSD)
    candidate_BSD = nn.tanh(x_BSD + reset_BSD * past_BSD)
    return update_BSD * state_BSD + (1.0 - update_BSD) * candidate_BSD


class Encoder(nn.Module):
  """Convolutions, positions, and an MLP at each cell: (B, h, w, F), float32."""

  convs: Sequence[Conv]
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, image_BHWC: jax.Array) -> jax.Array:
    x_BhwF = image_BHWC
    for i, (channels, kernel, stride) in enumerate(self.convs):
      conv = nn.Conv(
        channels,
        (kernel, kernel),
        (stride, stride),
        kernel_init=nn.initializers.glorot_uniform(),
        dtype=self.dtype,
        name=f'conv_{i}',
      )
      x_BhwF = nn.relu(conv(x_BhwF))
    x_BhwF = SoftPosition(name='position')(precision.at_least_float32(x_BhwF))
    x_BhwF = _norm('norm')(x_BhwF)
    mlp = transformer.Mlp(
      x_BhwF.shape[-1], dtype=x_BhwF.dtype.name, activation='relu', name='mlp'
    )
    return mlp(_tokens(x_BhwF)).reshape(x_BhwF.shape)


class Decoder(nn.Module):
  """A picture and mask logits from each slot: (B, S, H, W, C + 1), float32.

  This is the spatial broadcast decoder of arXiv:1901.07017: each slot is copied to all
  cells of a grid, positions are added, and transposed convolutions follow.
  """

  grid: tuple[int, int]
  convs: Sequence[Conv]
  channels: int = 3
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, slots_BSD: jax.Array) -> jax.Array:
    batch, num_slots, size = slots_BSD.shape
    x_bhwF = jnp.broadcast_to(
      slots_BSD.reshape(-1, 1, 1, size), (batch * num_slots, *self.grid, size)
    )
    x_bhwF = SoftPosition(name='position')(x_bhwF)
    convs = (*self.convs, (self.channels + 1, 3, 1))
    for i, (channels, kernel, stride) in enumerate(convs):
      if i:
        x_bhwF = nn.relu(x_bhwF)
      x_bhwF = nn.ConvTranspose(
        channels,
        (kernel, kernel),
        (stride, stride),
        transpose_kernel=True,
        kernel_init=nn.initializers.glorot_uniform(),
        dtype=self.dtype,
        name=f'conv_{i}',
      )(x_bhwF)
    x_bhwF = precision.at_least_float32(x_bhwF)
    return x_bhwF.reshape(batch, num_slots, *x_bhwF.shape[1:])


class SoftPosition(nn.Module):
  """A learned linear map of the distances to the four edges (appendix, table 4 on)."""

  @nn.compact
  def __call__(self, x_BhwF: jax.Array) -> jax.Array:
    ramps_1hw4 = positions.ramps(*x_BhwF.shape[1:3])[None]
    return x_BhwF + _dense(x_BhwF.shape[-1], 'dense')(ramps_1hw4)


def _dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
  return nn.Dense(
    features,
    use_bias=use_bias,
    kernel_init=nn.initializers.glorot_uniform(),
    name=name,
  )


def _norm(name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=EPSILON, name=name)


def _tokens(x_BhwF: jax.Array) -> jax.Array:
  return x_BhwF.reshape(len(x_BhwF), -1, x_BhwF.shape[-1])


def _maps(attention_BTSN: jax.Array, x_BhwF: jax.Array) -> jax.Array:
  """Reshapes attention from tokens to maps: (B, T, S, h, w)."""
  return attention_BTSN.reshape(*attention_BTSN.shape[:3], *x_BhwF.shape[1:3])
