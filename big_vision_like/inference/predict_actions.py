"""Prediction of what actors of a video do, and of what they attend to.

Axes: A actors, T frames, S slices of the feature map, C classes, H W pixels.
"""

from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference.actions import ActorPreprocessing
from big_vision_like.inference.predict import percent
from big_vision_like.inference.preprocessing import softmax
from big_vision_like.models import context_graph
from big_vision_like.viz import actors as drawing

SIDE = 320  # most pixels per side of a frame


class ActionPredictor:
  """A model that names what each actor does, compiled once for each number of actors.

  With `draws`, the pictures show what the first actors attend to over time, and the
  animations, `-actor1` and so on, play it.
  """

  prepares = ActorPreprocessing
  does = 'detect actions'
  option, explained = 'top', 'says how many classes are shown for an actor'
  columns = ('actor', 'class', 'score')
  fields = ('actor', 'label', 'class', 'score')  # of CSV
  undrawn = ''
  draws = False  # set before the first call

  def __init__(
    self, model: Any, variables: Any, preprocess: ActorPreprocessing, top: int = 1
  ):
    if not isinstance(model, context_graph.ActorModel):
      raise UserError(
        f'a {type(model).__name__} has no actors: train a model that starts from these'
        ' weights, as configs/action_detection/daly.py'
      )
    if top < 1:
      raise UserError(f'--top={top} is not positive')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.top = top
    if model.graph is None:
      self.undrawn = 'the baseline attends to nothing'
    self._apply = jax.jit(
      lambda variables, *inputs: model.apply(
        variables, *inputs, mutable=['intermediates']
      )
    )

  def __call__(self, picture: Any) -> tuple[list, list, dict[str, np.ndarray]]:
    """Returns rows of text, the same as plain data, and RGB uint8 pictures.

    Pictures are keyed by the suffix of their file names; those with four axes are
    animations.
    """
    clip = self.preprocess(picture)
    video_THWC = self.preprocess.normalized(clip.video_THWC)
    mask_1A = np.ones((1, len(clip.names)), bool)
    outputs, sown = jax.device_get(
      self._apply(self.variables, video_THWC[None], clip.boxes_AS4[None], mask_1A)
    )
    logits_AC = outputs['logits'][0].astype(np.float64)
    found = []
    for actor, logits_C in zip(clip.names, logits_AC, strict=True):
      score_C = softmax(logits_C)
      for label in np.argsort(-score_C, kind='stable')[: self.top].tolist():
        name = self.preprocess.name(label)
        found.append(
          {'actor': actor, 'label': label, 'class': name}
          | {'score': float(score_C[label])}
        )
    rows = [(one['actor'], one['class'], percent(one['score'])) for one in found]
    if self.undrawn or not self.draws:
      return rows, found, {}
    layers = sown['intermediates']['graph']
    graphs = [layers[f'layer{i + 1}']['logits'][0][0] for i in range(len(layers))]
    attention = np.stack(graphs).swapaxes(1, 2)  # layers, actors, graphs, cells
    row = {
      'video': clip.video_THWC,
      'boxes': clip.boxes_AS4,
      'box_mask': mask_1A[0],
      'logits': logits_AC,
      'attention': np.moveaxis(attention, 1, 0),
    }
    names = {label: self.preprocess.name(label) for label in range(logits_AC.shape[1])}
    pictures = {'': drawing.sheet(row, names)}
    for i, actor in enumerate(clip.names[: drawing.MOST_ACTORS]):
      map_thw = drawing.attention_map(row['attention'][i])
      frames = drawing.overlaid(
        clip.video_THWC, clip.boxes_AS4[i], map_thw, actor, SIDE
      )
      pictures[f'-actor{i + 1}'] = np.stack(frames)
    return rows, found, pictures
