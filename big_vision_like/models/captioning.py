"""Captions of images, word by word: Show, Attend and Tell, arXiv:1502.03044.

A decoder reads the cells of an image encoder's map. At each word, a recurrent decoder
looks at a weighted sum of the cells (soft attention) or at one of them (hard). Its
parts differ between the authors' code (kelvinxu/arctic-captions) and the widely used
tutorial (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning), see `VARIANTS`.
`TransformerDecoder` reads the same cells. Extends `transformer`.

Axes: B batch, H W image, C channels, h w map, N = h * w cells, D features of a cell, T
words, V vocabulary, E features of a word, U units of the LSTM, G four gates of them, A
width of attention, S one unit or the features that a gate scales; b = B * beams.
"""

from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.models import transformer
from big_vision_like.ops import positions, precision, resampling

ACTIVATIONS = {'relu': nn.relu, 'tanh': jnp.tanh}
POSITIONS = ('none', 'sincos2d')
# The stream of random numbers for locations of hard attention.
LOCATIONS = 'locations'
State = tuple[jax.Array, jax.Array]


def symmetric(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
  """Initializes uniformly in [-0.1, 0.1), as the tutorial does."""
  return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


class Additive(nn.Module):
  """Scores of cells given the LSTM's state: v . act(W a + U h + b) (arXiv:1409.0473).

  Cells are projected once per image, by `layers` layers with tanh after each but the
  first.
  """

  width: int
  activation: str = 'relu'
  layers: int = 1
  state_bias: bool = True
  dtype: str = 'float32'

  def setup(self) -> None:
    check_one_of(ACTIVATIONS, activation=self.activation)
    self.cell = nn.Dense(self.width, dtype=self.dtype)
    self.more = [nn.Dense(self.width, dtype=self.dtype) for _ in range(self.layers - 1)]
    self.state = nn.Dense(self.width, use_bias=self.state_bias, dtype=self.dtype)
    self.score = nn.Dense(1, dtype=self.dtype)

  def keys(self, cells_BND: jax.Array) -> jax.Array:
    """Projects cells, (B, N, A)."""
    keys_BNA = self.cell(cells_BND)
    for layer in self.more:
      keys_BNA = jnp.tanh(layer(keys_BNA))
    return keys_BNA

  def __call__(self, keys_BNA: jax.Array, h_bU: jax.Array) -> jax.Array:
    """Returns the score of each cell for each state, (b, N)."""
    batch, cells, width = keys_BNA.shape
    query_BKA = self.state(h_bU).reshape(batch, -1, width)
    x_BKNA = keys_BNA[:, None] + query_BKA[:, :, None]
    scores_BKN = self.score(ACTIVATIONS[self.activation](x_BKNA))[..., 0]
    return scores_BKN.reshape(-1, cells)


class Gate(nn.Module):
  """A gate between 0 and 1 for the context, from the LSTM's state (section 4.2.1).

  It is one number for all features, or with `vector` one for each.
  """

  vector: bool = False
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, context_bD: jax.Array, h_bU: jax.Array) -> jax.Array:
    count = context_bD.shape[-1] if self.vector else 1
    gate_bS = nn.sigmoid(nn.Dense(count, dtype=self.dtype, name='gate')(h_bU))
    return jnp.broadcast_to(gate_bS, context_bD.shape) * context_bD


class Start(nn.Module):
  """The LSTM's first state from the mean cell: `layers` layers for h and for c.

  All but the last layer are shared, with ReLU and dropout; tanh after the last layer is
  optional.
  """

  layers: int = 1
  tanh: bool = False
  dropout: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, mean_BD: jax.Array, units: int, train: bool = False) -> State:
    for number in range(1, self.layers):
      width = mean_BD.shape[-1]
      mean_BD = nn.relu(nn.Dense(width, dtype=self.dtype, name=f'fc{number}')(mean_BD))
      mean_BD = nn.Dropout(self.dropout, deterministic=not train)(mean_BD)
    c_BU = nn.Dense(units, dtype=self.dtype, name='c')(mean_BD)
    h_BU = nn.Dense(units, dtype=self.dtype, name='h')(mean_BD)
    return (jnp.tanh(c_BU), jnp.tanh(h_BU)) if self.tanh else (c_BU, h_BU)


class LinearOutput(nn.Module):
  """Logits as a linear function of the LSTM's state."""

  vocab_size: int
  dropout: float = 0.5
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    h_BTU: jax.Array,
    word_BTE: jax.Array,
    context_BTD: jax.Array,
    train: bool = False,
  ) -> jax.Array:
    del word_BTE, context_BTD
    h_BTU = nn.Dropout(self.dropout, deterministic=not train)(h_BTU)
    head = nn.Dense(
      self.vocab_size, kernel_init=symmetric, dtype=self.dtype, name='head'
    )
    return head(h_BTU)


class DeepOutput(nn.Module):
  """Logits from the state, the previous word and the context (equation 7).

  They are a linear function of tanh(L_h h + E y + L_z z), with dropout before both.
  """

  vocab_size: int
  dropout: float = 0.5
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    h_BTU: jax.Array,
    word_BTE: jax.Array,
    context_BTD: jax.Array,
    train: bool = False,
  ) -> jax.Array:
    width = word_BTE.shape[-1]
    h_BTU = nn.Dropout(self.dropout, deterministic=not train)(h_BTU)
    x_BTE = nn.Dense(width, dtype=self.dtype, name='state')(h_BTU) + word_BTE
    x_BTE += nn.Dense(width, dtype=self.dtype, name='context')(context_BTD)
    x_BTE = nn.Dropout(self.dropout, deterministic=not train)(jnp.tanh(x_BTE))
    return nn.Dense(self.vocab_size, dtype=self.dtype, name='head')(x_BTE)


OUTPUTS = {'linear': LinearOutput, 'deep': DeepOutput}
GATES = ('scalar', 'vector')
# The published decoders. Sizes of the authors' are those for COCO, where cells have 512
# features; attention is as wide as a cell.
VARIANTS: dict[str, dict[str, Any]] = {
  'tutorial': dict(
    word_width=512, units=512, attention_width=512, gate='vector', output='linear'
  ),
  'authors': dict(
    word_width=512,
    units=1800,
    attention_width=512,
    attention_args=dict(activation='tanh', layers=2, state_bias=False),
    gate='scalar',
    start_args=dict(layers=2, tanh=True),
    output='deep',
  ),
}


def variant(name: str) -> dict[str, Any]:
  """Returns the arguments of `RecurrentDecoder` for 'tutorial' or 'authors'."""
  check_one_of(VARIANTS, decoder=name)
  return dict(VARIANTS[name])


class RecurrentDecoder(nn.Module):
  """An LSTM that attends to the cells of an image at each word.

  `attention_args` and `start_args` are extra arguments of `Additive` and `Start`.
  `gate` is 'scalar' or 'vector' (see `Gate`), `output` is 'linear' or 'deep'. With
  `hard`, the LSTM sees one cell instead of the weighted sum: in training one that is
  drawn by its weight (random numbers `locations`), else the one with the largest
  weight. In training, an image keeps the sum with probability `expected` (section 5.4).
  """

  vocab_size: int
  word_width: int
  units: int
  attention_width: int
  attention_args: Mapping[str, Any] = flax.core.FrozenDict()
  gate: str = 'scalar'
  start_args: Mapping[str, Any] = flax.core.FrozenDict()
  output: str = 'linear'
  dropout: float = 0.5
  hard: bool = False
  expected: float = 0.5
  dtype: str = 'float32'

  tiny = dict(vocab_size=128, word_width=16, units=16, attention_width=16)

  def setup(self) -> None:
    check_one_of(GATES, gate=self.gate)
    check_one_of(OUTPUTS, output=self.output)
    shape = self.vocab_size, self.word_width
    self.embedding = self.param('embedding', symmetric, shape)
    self.attention = Additive(
      self.attention_width, **self.attention_args, dtype=self.dtype
    )
    self.selector = Gate(self.gate == 'vector', dtype=self.dtype)
    start = dict(dropout=self.dropout) | dict(self.start_args)
    self.start = Start(**start, dtype=self.dtype)
    self.out = OUTPUTS[self.output](self.vocab_size, self.dropout, dtype=self.dtype)
    gates = 4 * self.units
    self.of_word = nn.Dense(gates, dtype=self.dtype)
    self.of_context = nn.Dense(gates, use_bias=False, dtype=self.dtype)
    self.of_state = nn.Dense(
      gates,
      use_bias=False,
      kernel_init=nn.initializers.orthogonal(),
      dtype=self.dtype,
    )

  def __call__(
    self, cells_BND: jax.Array, ids_BT: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns named arrays for ids (B, T) that start with BOS and are padded with 0.

    `logits` (B, T, V) predict the next word, and `attention` (B, T, N) holds the
    weights of cells. The weights used, `seen` (B, T, N), differ from them if attention
    is hard; then `drawn` (B,) marks images whose locations were drawn. All are zero for
    padding, which does not change the state.
    """
    cells_BND = cells_BND.astype(self.dtype)
    word_BTE = self.embedding.astype(self.dtype)[ids_BT]
    live_BT = ids_BT != 0
    drawn_B = jnp.zeros(len(ids_BT), bool)
    if self.hard and train:
      drawn_B = jax.random.bernoulli(
        self.make_rng(LOCATIONS), 1.0 - self.expected, drawn_B.shape
      )
    keys_BNA = self.attention.keys(cells_BND)

    def body(
      self: 'RecurrentDecoder',
      state: State,
      gates_BG: jax.Array,
      live_B: jax.Array,
      cells_BND: jax.Array,
      keys_BNA: jax.Array,
      drawn_B: jax.Array,
    ) -> tuple[State, tuple[jax.Array, ...]]:
      new, outputs = self.step(state, gates_BG, cells_BND, keys_BNA, train, drawn_B)
      live_B1 = live_B[:, None]
      new = jax.tree.map(lambda x, old: jnp.where(live_B1, x, old), new, state)
      return new, tuple(jnp.where(live_B1, x, 0) for x in outputs)

    scan = nn.scan(
      body,
      variable_broadcast='params',
      split_rngs={'params': False, LOCATIONS: True},
      in_axes=(1, 1, nn.broadcast, nn.broadcast, nn.broadcast),
      out_axes=1,
    )
    state = self.start(cells_BND.mean(axis=1), self.units, train)
    gates_BTG = self.of_word(word_BTE)
    _, (h_BTU, context_BTD, attention_BTN, seen_BTN) = scan(
      self, state, gates_BTG, live_BT, cells_BND, keys_BNA, drawn_B
    )
    logits_BTV = self.out(h_BTU, word_BTE, context_BTD, train)
    logits_BTV = precision.at_least_float32(logits_BTV)
    outputs = {
      'logits': jnp.where(live_BT[..., None], logits_BTV, 0.0),
      'attention': attention_BTN,
      'seen': seen_BTN,
    }
    return outputs | ({'drawn': drawn_B} if self.hard else {})

  def step(
    self,
    state: State,
    gates_bG: jax.Array,
    cells_BND: jax.Array,
    keys_BNA: jax.Array,
    train: bool = False,
    drawn_b: jax.Array | None = None,
  ) -> tuple[State, tuple[jax.Array, ...]]:
    """Returns the next state, and h, the context, weights of cells and those used.

    `gates_bG` is the part of the gates that depends on the word.
    """
    c_bU, h_bU = state
    scores_bN = precision.at_least_float32(self.attention(keys_BNA, h_bU))
    attention_bN = nn.softmax(scores_bN)
    seen_bN = attention_bN
    if self.hard:
      if train:
        place_b = jax.random.categorical(self.make_rng(LOCATIONS), scores_bN)
      else:
        place_b, drawn_b = scores_bN.argmax(axis=-1), jnp.ones(len(scores_bN), bool)
      one_bN = jax.nn.one_hot(place_b, scores_bN.shape[-1], dtype=scores_bN.dtype)
      seen_bN = jnp.where(drawn_b[:, None], one_bN, attention_bN)
    seen_BKN = seen_bN.reshape(len(cells_BND), -1, seen_bN.shape[-1])
    context_BKD = jnp.einsum('BKN,BND->BKD', seen_BKN.astype(self.dtype), cells_BND)
    context_bD = context_BKD.reshape(len(h_bU), -1)
    context_bD = self.selector(context_bD, h_bU)
    gates_bG = gates_bG + self.of_context(context_bD) + self.of_state(h_bU)
    input_bU, forget_bU, new_bU, output_bU = jnp.split(gates_bG, 4, axis=-1)
    c_bU = nn.sigmoid(forget_bU) * c_bU + nn.sigmoid(input_bU) * jnp.tanh(new_bU)
    h_bU = nn.sigmoid(output_bU) * jnp.tanh(c_bU)
    return (c_bU, h_bU), (h_bU, context_bD, attention_bN, seen_bN)

  def begin(self, cells_BND: jax.Array, beams: int, length: int) -> Any:
    """Stores the first state in `cache`; returns what `next_logits` needs of cells."""
    del length
    cells_BND = cells_BND.astype(self.dtype)
    state = self.start(cells_BND.mean(axis=1), self.units)
    for name, x_BU in zip('ch', state, strict=True):
      self.put_variable('cache', name, jnp.repeat(x_BU, beams, axis=0))
    return cells_BND, self.attention.keys(cells_BND)

  def next_logits(
    self, token_b: jax.Array, index: jax.Array, memory: Any, length: int
  ) -> jax.Array:
    """Returns logits (b, V) of the word after `token_b`, using the cached state."""
    del index, length
    word_bE = self.embedding.astype(self.dtype)[token_b]
    state = tuple(self.get_variable('cache', name) for name in 'ch')
    state, (h_bU, context_bD, *_) = self.step(state, self.of_word(word_bE), *memory)
    for name, x_bU in zip('ch', state, strict=True):
      self.put_variable('cache', name, x_bU)
    logits_b1V = self.out(h_bU[:, None], word_bE[:, None], context_bD[:, None])
    return precision.at_least_float32(logits_b1V)[:, 0]

  @nn.nowrap
  def attention_of(
    self, outputs: Mapping[str, jax.Array], sown: Mapping[str, Any]
  ) -> jax.Array:
    """Returns the weights of cells that the decoder used, (B, T, N)."""
    del sown
    return outputs['seen']


class TransformerDecoder(nn.Module):
  """The decoder of a Transformer that attends to the cells of an image.

  The Transformer's encoder is not used: cells, projected to its width, take the place
  of its output.
  """

  transformer: transformer.Transformer

  @property
  def vocab_size(self) -> int:
    """The number of ids."""
    return self.transformer.vocab_size

  @property
  def sharding_rules(self) -> Any:
    return self.transformer.sharding_rules

  def setup(self) -> None:
    self.project = nn.Dense(self.transformer.width, dtype=self.transformer.dtype)

  def __call__(
    self, cells_BND: jax.Array, ids_BT: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns `logits` (B, T, V) for ids that start with BOS and are padded with 0."""
    memory = self.project(cells_BND)
    features = self.transformer.decode(ids_BT, memory, _present(memory), train=train)
    return {'logits': self.transformer.logits(features)}

  def begin(self, cells_BND: jax.Array, beams: int, length: int) -> jax.Array:
    """Stores keys and values of the cells in `cache`; returns the projected cells."""
    none_b0 = jnp.zeros((len(cells_BND) * beams, 0), jnp.int32)
    memory = self.project(cells_BND)
    self.transformer.decode(none_b0, memory, _present(memory), cache_length=length)
    return memory

  def next_logits(
    self, token_b: jax.Array, index: jax.Array, memory: jax.Array, length: int
  ) -> jax.Array:
    """Returns logits (b, V) of the word after `token_b`, using the cache."""
    return self.transformer.next_logits(
      token_b, index, memory, _present(memory), length
    )

  @nn.nowrap
  def attention_of(
    self, outputs: Mapping[str, jax.Array], sown: Mapping[str, Any]
  ) -> jax.Array:
    """Returns the weights of cells in the last block, the mean of its heads."""
    del outputs
    blocks = sown['transformer']['decoder']
    if 'blocks' in blocks:
      probs_BHTN = blocks['blocks']['cross_attention']['probs'][-1][-1]
    else:
      last = max(blocks, key=lambda name: int(name.rpartition('_')[2]))
      probs_BHTN = blocks[last]['cross_attention']['probs'][-1]
    return precision.at_least_float32(probs_BHTN).mean(axis=1)


def _present(cells_BND: jax.Array) -> jax.Array:
  """Returns ids for the cells, none of which is padding."""
  return jnp.ones(cells_BND.shape[:2], jnp.int32)


class Captioner(nn.Module):
  """An image encoder and a decoder that writes a caption.

  `encoder` is any model of images. `read` names the output that is attended to, a map
  (B, h, w, D) or tokens (B, N, D) of a model with a `grid`, whose other leading tokens
  are left out. `side` resizes it to a square of this side, by adaptive average pooling.
  `posemb='sincos2d'` adds fixed positions to cells, which a decoder needs to read from
  left to right if cells do not show where they are. Returns the decoder's named arrays,
  and `cells` (B, h, w, D) of type `dtype`.
  """

  encoder: nn.Module
  decoder: nn.Module
  read: str = 'tokens'
  side: int | None = None
  posemb: str = 'none'
  dtype: str = 'float32'

  tiny = dict(side=4)

  def __call__(
    self, image_BHWC: jax.Array, ids_BT: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    cells_BhwD = self.encode(image_BHWC, train)
    outputs = self.decoder(flat(cells_BhwD), ids_BT, train)
    return outputs | {'cells': cells_BhwD}

  def encode(self, image_BHWC: jax.Array, train: bool = False) -> jax.Array:
    """Returns the cells of images, (B, h, w, D)."""
    outputs = self.encoder(image_BHWC, train)
    if self.read not in outputs:
      raise UserError(
        f'read={self.read!r} is not an output of the encoder'
        f' {type(self.encoder).__name__}, which returns {", ".join(outputs)}'
      )
    cells = outputs[self.read]
    if cells.ndim == 3:
      height, width = self.encoder.grid(image_BHWC.shape[1:3])
      cells = cells[:, cells.shape[1] - height * width :]
      cells = cells.reshape(len(cells), height, width, -1)
    if cells.ndim != 4:
      raise UserError(
        f'read={self.read!r} of shape {cells.shape} is neither a map nor tokens'
      )
    if self.side is not None:
      cells = resampling.adaptive_average(cells, self.side)
    check_one_of(POSITIONS, posemb=self.posemb)
    if self.posemb == 'sincos2d':
      _, height, width, features = cells.shape
      pos_1ND = positions.sincos2d(height, width, features)
      cells += pos_1ND.reshape(1, height, width, features).astype(cells.dtype)
    return cells.astype(self.dtype)

  @property
  def vocab_size(self) -> int:
    """The number of ids."""
    return self.decoder.vocab_size

  @property
  def num_classes(self) -> int:
    """The number of words, which are the classes of predictions."""
    return self.vocab_size

  @property
  def sharding_rules(self) -> Any:
    return getattr(self.decoder, 'sharding_rules', ())

  @nn.nowrap
  def searching(
    self, variables: Any, image_BHWC: jax.Array, beams: int, length: int
  ) -> tuple[Any, Any]:
    """Returns the step and the cache of a search, see `ops.search`."""
    cells_BhwD = self.apply(variables, image_BHWC, method='encode')
    memory, start = self.apply(
      variables,
      flat(cells_BhwD),
      beams,
      length,
      method=lambda self, *given: self.decoder.begin(*given),
      mutable=['cache'],
    )

    def step(token_b: jax.Array, index: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
      logits_bV, changed = self.apply(
        {**variables, 'cache': cache},
        token_b,
        index,
        memory,
        length,
        method=lambda self, *given: self.decoder.next_logits(*given),
        mutable=['cache'],
      )
      return logits_bV, changed['cache']

    return step, start['cache']

  @nn.nowrap
  def looking(
    self, variables: Any, image_BHWC: jax.Array, ids_BT: jax.Array
  ) -> jax.Array:
    """Returns the attention to the map at each of the words read, (B, T, h, w)."""
    outputs, collected = self.apply(
      variables, image_BHWC, ids_BT, mutable=['intermediates']
    )
    sown = collected.get('intermediates', {}).get('decoder', {})
    attention_BTN = self.decoder.attention_of(outputs, sown)
    return attention_BTN.reshape(*attention_BTN.shape[:2], *outputs['cells'].shape[1:3])


def flat(cells_BhwD: jax.Array) -> jax.Array:
  """Returns a map as a sequence of cells, (B, N, D)."""
  return cells_BhwD.reshape(len(cells_BhwD), -1, cells_BhwD.shape[-1])
