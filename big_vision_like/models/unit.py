"""UniT, arXiv:2102.10772: tasks on images, on texts and on both, with one decoder.

Extends `detr`. The encoder of DETR reads an image, BERT (`layers.bert`) reads a text,
and a decoder attends to both encodings with queries that belong to the task. A `UniT`
is the model of one task; a `MultiTask` shares all parameters but queries and head among
the models of several tasks.

Axes: B batch, H W image, h w the backbone's last map, I its features, N = h * w, S the
token of the task and N cells, T tokens of the text, K of them for the decoder, M tokens
of the memory, Q queries, D width (of the image encoder or the decoder), E width of the
text, L layers of the decoder, C classes, A attributes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError
from big_vision_like.layers import bert as bert_layers
from big_vision_like.layers import transformer
from big_vision_like.models import detr
from big_vision_like.ops import masks, positions, precision

_MATRIX = nn.initializers.xavier_uniform()
# Parameters that belong to a task, for `MultiTask.own`; the rest is shared.
OWN = ('queries', 'head/.*')
OWN_DECODER = ('decoder/.*', *OWN)
# The published tasks with their rows in tables of task tokens; 2 and 4 are not used.
ROWS = {
  'detection_coco': 0,
  'detection_visual_genome': 1,
  'vqa2': 3,
  'glue_qnli': 5,
  'glue_mnli_mismatched': 6,
  'glue_sst2': 7,
  'glue_qqp': 8,
  'visual_entailment': 9,
}
# Those whose decoder sees all tokens of the text, not only the first.
WHOLE_TEXTS = ('vqa2',)


class Objects(nn.Module):
  """The head of detection: the outputs of DETR, and attributes of objects.

  `num_classes` excludes the final "no object" class.
  """

  num_classes: int
  num_attributes: int = 0
  width: int = 768
  dtype: str = 'float32'

  tiny = dict(width=32)

  def setup(self) -> None:
    self.class_head = detr.dense(self.num_classes + 1, self.dtype)
    self.box_head = detr.BoxHead(self.width, self.dtype)
    if self.num_attributes:
      self.attribute_head = Attributes(
        self.num_classes + 1, self.num_attributes, self.dtype
      )

  def __call__(self, x_LBQD: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    logits_LBQC = precision.at_least_float32(self.class_head(x_LBQD))
    boxes_LBQ4 = nn.sigmoid(precision.at_least_float32(self.box_head(x_LBQD)))
    outputs = {
      'logits': logits_LBQC[-1],
      'boxes': boxes_LBQ4[-1],
      'layer_logits': logits_LBQC,
      'layer_boxes': boxes_LBQ4,
    }
    # Attributes belong to a class: in training that of the matched object, here the
    # most likely one except "no object".
    if self.num_attributes and not train:
      label_BQ = logits_LBQC[-1, ..., :-1].argmax(axis=-1)
      outputs['attributes'] = self.attributes(x_LBQD[-1], label_BQ)
    return outputs

  def attributes(self, x_BQD: jax.Array, label_BQ: jax.Array) -> jax.Array:
    """Returns logits of attributes (B, Q, A) of objects of given classes."""
    return self.attribute_head(x_BQD, label_BQ)


class Attributes(nn.Module):
  """Logits of attributes of objects, given their classes: (..., A), float32.

  As in the published code, the only ReLU follows the last layer.
  """

  num_classes: int
  num_attributes: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BQD: jax.Array, label_BQ: jax.Array) -> jax.Array:
    table = nn.Embed(
      self.num_classes,
      256,
      embedding_init=nn.initializers.normal(1.0),
      dtype=self.dtype,
      name='classes',
    )
    x_BQD = jnp.concatenate([x_BQD, table(label_BQ).astype(x_BQD.dtype)], axis=-1)
    x_BQD = detr.dense(512, self.dtype, name='fc1')(x_BQD)
    logits_BQA = detr.dense(self.num_attributes, self.dtype, name='fc2')(x_BQD)
    return nn.relu(precision.at_least_float32(logits_BQA))


class Labels(nn.Module):
  """The head of classification: `logits` (B, C) from the first query of the last layer.

  Dropout, the transform of BERT's heads, and a linear layer. As published, they start
  as PyTorch's layers do.
  """

  num_classes: int
  dropout: float = 0.1
  dtype: str = 'float32'

  tiny = dict(num_classes=50)

  @nn.compact
  def __call__(self, x_LBQD: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_LBQD[-1, :, 0])
    x_BD = detr.dense(x_BD.shape[-1], self.dtype, name='transform')(x_BD)
    x_BD = transformer.gelu_exact(x_BD)
    x_BD = nn.LayerNorm(epsilon=bert_layers.EPSILON, dtype=self.dtype, name='norm')(
      x_BD
    )
    logits_BC = detr.dense(self.num_classes, self.dtype, name='labels')(x_BD)
    return {'logits': precision.at_least_float32(logits_BC)}


class UniT(nn.Module):
  """The model of one task, of images, texts or both.

  With a `backbone`, a module that returns maps by name such as `resnet.ResNet`, it
  takes normalized images (B, H, W, 3) and `size` (B, 2), the height and width of the
  pictures at their top left. With `text`, a `bert.Bert`, it takes `tokens`,
  `token_types` and `token_mask` (B, T), after those of images. `head` is `Objects` or
  `Labels`.

  Returns the outputs of the head, `layer_features` (L, B, Q, D), `features` (B, Q, D)
  and `memory` (B, M, D), to which the queries attend: cells of the image and tokens of
  the text.

  `task` is the row of the task's token in tables of `num_tasks` rows; None adds no
  token. With `first_token_only`, the decoder sees the first token of the text only.
  `residual` adds the inputs of the image encoder to its outputs. With
  `project=False`, both have the width of the decoder and are not projected, as in DETR.
  """

  head: nn.Module
  num_queries: int
  backbone: nn.Module | None = None
  text: nn.Module | None = None
  task: int | None = None
  first_token_only: bool = False
  num_tasks: int = 256
  width: int = 256
  decoder_width: int = 768
  encoder_depth: int = 6
  decoder_depth: int = 6
  num_heads: int = 8
  mlp_dim: int = 2048
  dropout: float = 0.1
  norm: str = 'post'
  residual: bool = True
  project: bool = True
  scan: bool = False
  remat: str = 'none'
  dtype: str = 'float32'

  sharding_rules = transformer.SHARDING_RULES
  tiny = dict(
    width=32,
    decoder_width=32,
    encoder_depth=2,
    decoder_depth=2,
    num_heads=2,
    mlp_dim=64,
  )

  @property
  def num_classes(self) -> int:
    """The number of classes of the head."""
    return self.head.num_classes

  @property
  def num_attributes(self) -> int:
    """The number of attributes that the head predicts; 0 if it predicts none."""
    return getattr(self.head, 'num_attributes', 0)

  def setup(self) -> None:
    if self.backbone is None and self.text is None:
      raise UserError('a UniT needs a backbone for images, a text encoder, or both')
    if self.task is not None and not 0 <= self.task < self.num_tasks:
      raise UserError(
        f'task={self.task} is not a row of the table of num_tasks={self.num_tasks}'
      )
    if not self.project and self.width != self.decoder_width:
      raise UserError(
        f'project=False needs equal widths, not width={self.width} and'
        f' decoder_width={self.decoder_width}'
      )
    stack = detr.stack_args(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      norm=self.norm,
    )
    if self.backbone is not None:
      self.input_proj = nn.Conv(
        self.width, (1, 1), kernel_init=detr.MATRIX, dtype=self.dtype
      )
      self.encoder = transformer.Stack(
        depth=self.encoder_depth, final_norm=self.norm == 'pre', **stack
      )
      if self.project:
        self.image_proj, self.image_position_proj = (
          nn.Dense(self.decoder_width, kernel_init=_MATRIX, dtype=self.dtype)
          for _ in range(2)
        )
      if self.task is not None:
        self.image_task = self._table(self.width, _MATRIX)
    if self.text is not None:
      self.text_proj, self.text_position_proj = (
        detr.dense(self.decoder_width, self.dtype) for _ in range(2)
      )
      if self.task is not None:
        self.text_task = self._table(self.text.width, nn.initializers.normal(1.0))
    self.queries = self.param(
      'queries',
      nn.initializers.normal(1.0),
      (self.num_queries, self.decoder_width),
    )
    self.decoder = transformer.Stack(depth=self.decoder_depth, every=True, **stack)

  def _table(self, width: int, init: nn.initializers.Initializer) -> nn.Embed:
    return nn.Embed(self.num_tasks, width, embedding_init=init, dtype=self.dtype)

  def __call__(self, *inputs: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    parts = []
    if self.backbone is not None:
      parts.append(self.see(*inputs[:2], train=train))
      inputs = inputs[2:]
    if self.text is not None:
      parts.append(self.read(*inputs, train=train))
    x_BMD, position_BMD, mask_BM = (
      jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True)
    )
    x_BQD = jnp.zeros((len(x_BMD), *self.queries.shape), x_BMD.dtype)
    context = transformer.Context(
      position_BND=self.queries[None],
      memory_BMD=x_BMD,
      memory_mask=masks.padding(mask_BM),
      memory_position_BMD=position_BMD,
    )
    x_LBQD = self.decoder(x_BQD, train, context)
    return self.head(x_LBQD, train) | {
      'layer_features': x_LBQD,
      'features': x_LBQD[-1],
      'memory': x_BMD,
    }

  def attributes(self, x_BQD: jax.Array, label_BQ: jax.Array) -> jax.Array:
    """Returns logits of attributes (B, Q, A) of features, for objects of classes."""
    return self.head.attributes(x_BQD, label_BQ)

  def see(
    self, image_BHWC: jax.Array, size_B2: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encodes images: returns cells (B, N, D), their positions and their mask."""
    map_BhwI = detr.last_map(self.backbone(image_BHWC, train))
    valid_Bhw = detr.valid_cells(size_B2, image_BHWC.shape[1:3], map_BhwI.shape[1:3])
    mask_BN = valid_Bhw.reshape(len(valid_Bhw), -1)
    position_BhwD = positions.masked_sine2d(valid_Bhw, self.width)
    position_BND = position_BhwD.reshape(*mask_BN.shape, -1).astype(self.dtype)
    input_BND = self.input_proj(map_BhwI).reshape(*mask_BN.shape, -1)
    read = input_BND, mask_BN, position_BND
    if self.task is not None:
      read = self._with_task(*read)
    x_BSD, mask_BS, position_BSD = read
    context = transformer.Context(
      mask=masks.padding(mask_BS), position_BND=position_BSD
    )
    x_BND = self.encoder(x_BSD, train, context)[:, -mask_BN.shape[1] :]
    if self.residual:
      x_BND = input_BND + x_BND
    if not self.project:
      return x_BND, position_BND, mask_BN
    return self.image_proj(x_BND), self.image_position_proj(position_BND), mask_BN

  def _with_task(
    self, x_BND: jax.Array, mask_BN: jax.Array, position_BND: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns cells after the token of the task, which has no position."""
    front = [(0, 0), (1, 0)]
    return (
      jnp.concatenate([self._token(self.image_task, x_BND), x_BND], axis=1),
      jnp.pad(mask_BN, front, constant_values=True),
      jnp.pad(position_BND, [*front, (0, 0)]),
    )

  def read(
    self,
    tokens_BT: jax.Array,
    token_types_BT: jax.Array,
    token_mask_BT: jax.Array,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encodes texts: returns tokens (B, K, D), their positions and their mask."""
    task_B1E = None
    if self.task is not None:
      shape = (len(tokens_BT), 1, self.text.width)
      task_B1E = self._token(self.text_task, jnp.zeros(shape, self.dtype))
    outputs = self.text(tokens_BT, token_types_BT, token_mask_BT, train, task_B1E)
    table = self.text.variables['params']['embeddings']['position']['embedding']
    count = 1 if self.first_token_only else tokens_BT.shape[1]
    x_BKD = self.text_proj(outputs['text'][:, :count])
    position_1KD = self.text_position_proj(jnp.asarray(table)[None, :count])
    position_BKD = jnp.broadcast_to(position_1KD, x_BKD.shape)
    return x_BKD, position_BKD, token_mask_BT[:, :count].astype(bool)

  def _token(self, table: nn.Embed, x_BND: jax.Array) -> jax.Array:
    """Returns the token of the task for each example, (B, 1, D)."""
    return table(jnp.full((len(x_BND), 1), self.task))


@dataclasses.dataclass(frozen=True)
class UniTs:
  """The models of several tasks with common variables, for prediction.

  In each collection, variables are {'shared': ..., task: its own}, as in a `MultiTask`.
  """

  tasks: Mapping[str, UniT]
  separate: bool = False

  @property
  def num_classes(self) -> int:
    """The number of classes of the first task of detection; 0 without one."""
    heads = (model.head for model in self.tasks.values())
    return next((x.num_classes for x in heads if isinstance(x, Objects)), 0)

  def init(self, key: jax.Array, inputs: Mapping[str, tuple[Any, ...]]) -> Any:
    """Returns initial variables; `inputs` are those of each task."""
    own = {'queries', 'head'} | ({'decoder'} if self.separate else set())
    found: dict[str, dict[str, Any]] = {}
    for name, model in self.tasks.items():
      for kind, tree in model.init(key, *inputs[name]).items():
        for part, variables in tree.items():
          place = found.setdefault(kind, {})
          place.setdefault(name if part in own else 'shared', {})[part] = variables
    return found

  def apply(
    self, variables: Any, *inputs: Any, task: str | None = None, **options: Any
  ) -> Any:
    """Returns the outputs of a task, by default of the first with as many inputs.

    A task takes images and their sizes, or tokens, their types and their mask, or
    all five.
    """
    if task is None:
      fitting = [n for n, model in self.tasks.items() if _takes(model) == len(inputs)]
      if not fitting:
        raise UserError(
          f'no task of {", ".join(self.tasks)} takes {len(inputs)} arrays'
        )
      task = fitting[0]
    if task not in self.tasks:
      raise UserError(f'there is no task {task!r}: choose from {", ".join(self.tasks)}')
    own = {
      kind: {**tree.get('shared', {}), **tree.get(task, {})}
      for kind, tree in variables.items()
    }
    return self.tasks[task].apply(own, *inputs, **options)


def _takes(model: UniT) -> int:
  """Returns the number of arrays that the model of a task takes."""
  return 2 * (model.backbone is not None) + 3 * (model.text is not None)
