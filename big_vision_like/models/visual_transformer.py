"""Visual Transformers, arXiv:2006.03677: modules of visual tokens after a ResNet.

Modules replace the last stage of a ResNet, including its stride. Each module pools its
map to a few tokens, relates the tokens to each other and writes them back to the map.
The tokens of the last module are averaged and classified. There are no position
embeddings, so images may have any size.

No official code exists. `Projections()` follows the equations, with one head and
without biases; `GROUPED` gives the paper's number of parameters (see
`layers.visual_tokens`).

Axes: B batch, H W image, h w feature map, I channels of the image, C channels or
classes, E channels of the map that is written, L tokens, D width of tokens.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.layers import convolution, visual_tokens
from big_vision_like.layers.visual_tokens import Projections
from big_vision_like.ops import precision

TOKENIZERS = ('filter', 'pooling', 'clustering')
PROJECTORS = ('between', 'all', 'none')

# Numbers of modules, and channels of the maps they write (None: as in their input).
SIZES = {'R18': (2, 512), 'R34': (3, 512), 'R50': (3, None), 'R101': (3, None)}


def variant(name: str) -> dict[str, int | None]:
  """Returns arguments of `VisualTransformer` for a size such as 'R18'.

  `resnet.trunk` has the arguments of the backbone, and `projections` is chosen
  separately. R50 and R101 are not verified: their numbers of parameters differ from the
  paper's.
  """
  if name not in SIZES:
    raise UserError(f'no Visual Transformer {name!r}: choose from {", ".join(SIZES)}')
  depth, map_width = SIZES[name]
  return dict(depth=depth, map_width=map_width)


class VisualTransformer(nn.Module):
  """A Visual Transformer from images (B, H, W, I) to a dict of named arrays.

  `tokens` (B, L, D) are the tokens of the last module and `features` (B, D) their mean.
  `map` (B, h, w, E) is the last map that was written, or the backbone's map if none
  was. With `num_classes` > 0 there are also `logits` (B, C), float32.

  `backbone` is a module that returns maps named `stage1`, `stage2` and so on, such as a
  `resnet.ResNet` of three stages or `Convolutions`; the last map is read. The first of
  `depth` modules makes tokens by `tokenizer`: 'filter', 'pooling' (to a square) or
  'clustering'. With `recurrent`, the other modules make their filters from the tokens
  of the previous module; otherwise they use `tokenizer` too. `mixing` is one of
  `visual_tokens.MIXINGS`. `projectors` are 'between' modules, after 'all' of them, or
  'none' (tables 3 to 7). Maps are written with `map_width` channels, by default as many
  as are read.

  In training, `drop_path` is the rate at which examples skip branches of modules, and
  `dropout` is the dropout rate of the features before the head.
  """

  backbone: nn.Module
  num_classes: int = 0
  depth: int = 2
  num_tokens: int = 16
  width: int = 1024
  map_width: int | None = None
  projections: Projections = Projections()
  tokenizer: str = 'filter'
  recurrent: bool = True
  mixing: str = 'transformer'
  projectors: str = 'between'
  dropout: float = 0.0
  drop_path: float = 0.0
  dtype: str = 'float32'

  tiny = dict(depth=2, num_tokens=16, width=32, map_width=32)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    self.check()
    maps = self.backbone(image_BHWI, train)
    stages = sorted(name for name in maps if name.startswith('stage'))
    x_BhwE, tokens_BLD = maps[stages[-1]].astype(self.dtype), None
    for number in range(1, self.depth + 1):
      again = self.recurrent and number > 1
      last = number == self.depth
      x_BhwE, tokens_BLD = Module(
        tokenizer='recurrent' if again else self.tokenizer,
        num_tokens=self.num_tokens,
        width=self.width,
        map_width=self.map_width,
        projections=self.projections,
        mixing=self.mixing,
        projects=self.projectors == 'all'
        or (self.projectors == 'between' and not last),
        drop_path=self.drop_path,
        dtype=self.dtype,
        name=f'module{number}',
      )(x_BhwE, tokens_BLD, train)
    features_BD = self.projections.normed(tokens_BLD).mean(axis=1)
    outputs = {'features': features_BD, 'tokens': tokens_BLD, 'map': x_BhwE}
    if self.num_classes:
      y_BD = nn.Dropout(self.dropout, deterministic=not train)(features_BD)
      logits_BC = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(y_BD)
      outputs['logits'] = precision.at_least_float32(logits_BC)
    return outputs

  def check(self) -> None:
    """Raises a `UserError` for invalid arguments."""
    check_one_of(TOKENIZERS, tokenizer=self.tokenizer)
    check_one_of(visual_tokens.MIXINGS, mixing=self.mixing)
    check_one_of(PROJECTORS, projectors=self.projectors)
    if min(self.depth, self.num_tokens) < 1:
      raise UserError(
        f'depth={self.depth} and num_tokens={self.num_tokens}: a Visual Transformer'
        ' needs at least 1 module and 1 token'
      )


class Module(nn.Module):
  """A tokenizer, a mixing layer and, with `projects`, a projector.

  Returns the map, unchanged without a projector, and the tokens.
  """

  tokenizer: str
  num_tokens: int
  width: int
  map_width: int | None = None
  projections: Projections = Projections()
  mixing: str = 'transformer'
  projects: bool = True
  drop_path: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x_BhwC: jax.Array, tokens_BLD: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    common = dict(projections=self.projections, dtype=self.dtype)
    tokens_BLD = visual_tokens.Tokenizer(
      self.tokenizer, self.num_tokens, self.width, **common, name='tokenizer'
    )(x_BhwC, tokens_BLD)
    common |= dict(drop_path=self.drop_path)
    mixing = visual_tokens.MIXINGS[self.mixing]
    tokens_BLD = mixing(**common, name='mixing')(tokens_BLD, train)
    if not self.projects:
      return x_BhwC, tokens_BLD
    channels = self.map_width or x_BhwC.shape[-1]
    projector = visual_tokens.Projector(channels, **common, name='projector')
    return projector(x_BhwC, tokens_BLD, train), tokens_BLD


class Pyramid(nn.Module):
  """A feature pyramid that relates its levels by visual tokens (section 3.5, VT-FPN).

  Takes maps (B, h, w, C) by name, of any sizes. Filters pool each map to `num_tokens`
  tokens, one transformer relates the tokens of all levels, and each map reads its own
  tokens. Returns maps with the same names and shapes, and the tokens (B, L, D) of all
  levels.
  """

  num_tokens: int = 8
  width: int = 1024
  projections: Projections = Projections()
  dtype: str = 'float32'

  tiny = dict(width=32)

  @nn.compact
  def __call__(
    self, maps: Mapping[str, jax.Array], train: bool = False
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    common = dict(projections=self.projections, dtype=self.dtype)
    found = [
      visual_tokens.Tokenizer(
        'filter', self.num_tokens, self.width, **common, name=f'tokenizer_{name}'
      )(x_BhwC)
      for name, x_BhwC in maps.items()
    ]
    mixing = visual_tokens.TokenTransformer(**common, name='mixing')
    tokens_BLD = mixing(jnp.concatenate(found, axis=1), train)
    written = {}
    for (name, x_BhwC), own_BMD in zip(
      maps.items(), jnp.split(tokens_BLD, len(maps), axis=1), strict=True
    ):
      projector = visual_tokens.Projector(
        x_BhwC.shape[-1], **common, name=f'projector_{name}'
      )
      written[name] = projector(x_BhwC, own_BMD, train)
    return written, tokens_BLD


class Convolutions(nn.Module):
  """A backbone of 3x3 convolutions with batch norm and ReLU, for small images.

  Returns maps named `stage1`, `stage2` and so on, and `features` (B, D), the mean of
  the last map. With `num_classes` > 0 it is a classifier without tokens, and there are
  also `logits` (B, C), float32.
  """

  channels: Sequence[int] = (16, 32, 32)
  strides: Sequence[int] = (1, 2, 1)
  num_classes: int = 0
  dtype: str = 'float32'

  tiny = dict(channels=16)

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    if len(self.channels) != len(self.strides) or not self.channels:
      raise UserError(
        f'channels={tuple(self.channels)} and strides={tuple(self.strides)} must'
        ' have the same length, at least 1'
      )
    outputs, x_BhwC = {}, image_BHWI
    sizes = zip(self.channels, self.strides, strict=True)
    for number, (channels, stride) in enumerate(sizes, start=1):
      conv = convolution.ConvNorm(
        channels, 3, stride, dtype=self.dtype, name=f'conv{number}'
      )
      x_BhwC = conv(x_BhwC, train)
      outputs[f'stage{number}'] = x_BhwC
    features_BD = x_BhwC.mean(axis=(1, 2))
    outputs['features'] = features_BD
    if self.num_classes:
      head = nn.Dense(self.num_classes, dtype=self.dtype, name='head')
      outputs['logits'] = precision.at_least_float32(head(features_BD))
    return outputs
