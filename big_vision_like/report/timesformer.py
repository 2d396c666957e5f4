"""Sections of a report on a TimeSformer: attention in space and time, and positions.

Axes: B clips, T frames, H W pixels, C channels, N D positions and their width.
"""

from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.evals.evaluator import MeanEvaluator
from big_vision_like.inference import clip_attention
from big_vision_like.models import timesformer
from big_vision_like.report import images as report_images
from big_vision_like.report import page
from big_vision_like.report.source import Section
from big_vision_like.viz import clips, images, positions

NUM_CLIPS, SIDE = 4, 128
PANEL = 20  # pixels of a cell of similarities


def attention(source: Any) -> tuple[str, str]:
  """Shows where the class token looks in each frame, and the weight of each frame."""
  network = source.restored.network
  model, variables = network.module, source.restored.variables
  name, made = source.spread_of(MeanEvaluator, 'predicts labels')

  def measure(outputs: Any, batch: Any) -> dict[str, jax.Array]:
    del outputs
    video = batch['video']
    if video.ndim == 6:
      video = video[:, video.shape[1] // 2]
    return {'video': video, 'label': batch['label']}

  shown = source.joined(made, measure).values
  video_BTHWC, label_B = shown['video'][:NUM_CLIPS], shown['label'][:NUM_CLIPS]
  names = report_images.class_names(source, made.data, int(label_B.max()) + 1)
  [inputs_BTHWC] = network.inputs({'video': video_BTHWC})
  probs = jax.jit(lambda v, x: clip_attention.collected(model, v, x)[1])(
    variables, inputs_BTHWC
  )
  clip = model.clip(inputs_BTHWC.shape[1:])
  map_BThw, weight_BT = clip_attention.maps(model, jax.device_get(probs), clip)
  content = ''
  for video_THWC, map_Thw, weight_T, label in zip(
    video_BTHWC, map_BThw, weight_BT, label_B.tolist(), strict=True
  ):
    frames_THWC = np.stack([report_images.visible(x_HWC) for x_HWC in video_THWC])
    drawn_THWC = clips.attended(frames_THWC, map_Thw, weight_T, SIDE)
    sheet = page.picture(clips.sheet(drawn_THWC), f'attention on {names[label]}')
    played = page.animation(drawn_THWC, f'{names[label]}, played')
    content += page.heading(names[label]) + page.arranged([sheet, played], 'beside')
  caption = (
    f'Clips of {name}. Top: the frames. Below: the frames brightened where the class'
    ' token of the last block attends, averaged over heads. Blue bars: how much'
    ' attention each frame gets from the others; the grey mark is where all bars would'
    ' end if they were equal. Right: the same, played.'
  )
  return content, caption


def positions_in_time(source: Any) -> tuple[str, str]:
  """Shows the cosine similarity of the positions of all pairs of frames."""
  params = source.restored.params
  if 'time_embedding' not in params:
    raise UserError('the model has no positions in time.')
  [embedding_ND] = np.asarray(params['time_embedding'], np.float32)
  count = len(embedding_ND)
  similarity_NN = positions.position_similarity(embedding_ND, (count, 1))
  coloured_NNC = images.colormap(similarity_NN.reshape(count, count), -1.0, 1.0)
  caption = (
    f'Cosine similarity of the learned positions of {count} frames, from -1 (dark blue)'
    ' to 1 (yellow). Positions that are all zero, as they start in the published'
    ' recipe, have similarity 0.'
  )
  size = PANEL * min(count, 24)
  return page.picture(images.fit(coloured_NNC, size), 'similarity of frames'), caption


OF_MODELS = {
  timesformer.TimeSformer: (
    Section('Attention in space and time', attention, 'below'),
    Section('Positions in time', positions_in_time, 'beside'),
  )
}
