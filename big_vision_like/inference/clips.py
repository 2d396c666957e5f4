"""Preprocessing of videos for classification, and of runs that classify clips.

Axes: V views, T frames, H W image, C channels or classes.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.sources import videos
from big_vision_like.data.transforms import video
from big_vision_like.errors import UserError, shape_text
from big_vision_like.inference import loading
from big_vision_like.inference.imagenet_words import in_words
from big_vision_like.inference.preprocessing import Prepare, normalization, softmax
from big_vision_like.ops import images
from big_vision_like.run import provenance

# The transforms that choose frames.
SAMPLING = (video.UniformClips, video.MiddleSegments, video.CoveringClips)
# 30ths of a second between frames of published models, by their number of frames.
STRIDES = {8: 32, 16: 16, 96: 4}
MEAN, STD = (0.45,) * 3, (0.225,) * 3


@dataclasses.dataclass(frozen=True)
class ClipPreprocessing(Prepare):
  """Preprocessing from a video to the views, float32 (V, T, H, W, C), of a model.

  A view has `frames` frames, `stride` 30ths of a second apart from the start of the
  video; with a stride of 0 they are the middles of equal parts of it. There are three
  views, left, centre and right (or top, centre and bottom), of `size`, whose sides are
  equal. Without `crops`, the frames must have this size, and there is one view.
  `bgr` reverses the order of colours.

      views = preprocess('cat.mp4')
      logits = model.apply(variables, views)['logits'].sum(axis=0)
  """

  frames: int
  stride: int
  size: tuple[int, int]
  crops: bool = True
  bgr: bool = False
  mean: tuple[float, ...] = MEAN
  std: tuple[float, ...] = STD
  label_names: tuple[str, ...] = ()
  source: str = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.frames < 1 or self.stride < 0 or len(self.size) != 2 or min(self.size) < 1:
      raise UserError(
        f'frames={self.frames}, stride={self.stride} and size={self.size} are not those'
        ' of a clip'
      )
    if self.crops and self.size[0] != self.size[1]:
      raise UserError(f'size={self.size}: crops of a video are square')

  @property
  def input_shape(self) -> tuple[int, ...]:
    """The shape of the model's input for one view."""
    return self.frames, *self.size, self.channels

  @property
  def transforms(self) -> tuple[grain.transforms.Map, ...]:
    """The transforms, as in a config."""
    choice = video.MiddleSegments(self.frames)
    if self.stride:
      choice = video.UniformClips(self.frames, self.stride)
    return (choice, video.ThreeCrops(self.size[0])) if self.crops else (choice,)

  def replaced(self, nodes: Sequence[mlc.ConfigDict]) -> list[mlc.ConfigDict]:
    """Replaces the transforms that choose, crop and recolour frames.

    Clips that cover the whole video stay.
    """
    ours = [spec.spec(type(x), **dataclasses.asdict(x)) for x in self.transforms]
    covering = [node for node in nodes if spec.symbol(node) is video.CoveringClips]
    ours[:1] = covering or ours[:1]
    if self.bgr:
      ours.append(spec.spec(video.ReversedChannels))
    kinds = (*SAMPLING, video.ThreeCrops, video.ReversedChannels)
    return [*ours, *(node for node in nodes if spec.symbol(node) not in kinds)]

  def sized(self, picture: Any) -> np.ndarray:
    """Returns the views of a video: uint8 (V, T, H, W, C).

    It may be a path of a file or of a folder of frames, the bytes of a file, or frames,
    encoded or uint8 (T, H, W, C).
    """
    example = {'video': picture}
    if isinstance(picture, str | os.PathLike):
      if not os.path.exists(picture):
        raise UserError(f'there is no video {picture}')
      example = {'video': videos.opened(picture), 'file': os.fsencode(picture)}
    for step in self.transforms:
      example = step.map(example)
    views_VTHWC = example['video']
    if not self.crops:
      views_VTHWC = views_VTHWC[None]
    if views_VTHWC.shape[2:4] != tuple(self.size):
      raise UserError(
        f'the frames are {shape_text(views_VTHWC.shape[2:4])}, but the model takes'
        f' {shape_text(self.size)}: resize the video'
      )
    return views_VTHWC

  def normalized(self, views_VTHWC: np.ndarray) -> np.ndarray:
    """Normalizes uint8 views with `mean` and `std`."""
    if self.bgr:
      views_VTHWC = views_VTHWC[..., ::-1]
    return np.asarray(images.normalize(views_VTHWC, self.mean, self.std))

  def __call__(self, picture: Any) -> np.ndarray:
    """Prepares a video, as `sized` takes it: float32 (V, T, H, W, C)."""
    return self.normalized(self.sized(picture))

  def top(self, logits_C: np.ndarray, k: int = 5) -> list[tuple[str, float]]:
    """Returns names and softmax scores of a video's best classes, best first."""
    score_C = softmax(np.asarray(logits_C, np.float64))
    best = np.argsort(-score_C, kind='stable')[:k]
    return [(in_words(self.name(label)), float(score_C[label])) for label in best]

  def with_size(self, size: int | Sequence[int]) -> 'ClipPreprocessing':
    """Returns preprocessing for frames of another size."""
    new = (size, size) if isinstance(size, int) else tuple(size)
    return dataclasses.replace(self, size=new)

  def with_frames(self, frames: int) -> 'ClipPreprocessing':
    """Returns preprocessing to another number of frames.

    It has the stride of published models, or else the same duration.
    """
    if frames == self.frames:
      return self
    stride = self.stride and max(self.stride * self.frames // frames, 1)
    if self.stride == STRIDES.get(self.frames):
      stride = STRIDES.get(frames, stride)
    return dataclasses.replace(self, frames=frames, stride=stride)

  def __str__(self) -> str:
    way = f'{self.stride}/30 s apart' if self.stride else 'from equal parts'
    views = 'three crops of ' if self.crops else ''
    colours = ', BGR' if self.bgr else ''
    return (
      f'{self.frames} frames {way}, {views}{shape_text(self.size)}{colours};'
      f' {self.normalization}'
    )


def of_run(
  run: loading.LoadedRun, image_size: tuple[int, int] | None = None
) -> ClipPreprocessing:
  """Returns the preprocessing that a run of clips uses in evaluation.

  `image_size` is the height and width of frames, if no transform determines it.
  """
  choice, crops, bgr = sampling(run.config)
  size = (spec.held(crops, 'size'),) * 2 if crops else image_size
  size = size or provenance.run_size(run.config, run.workdir)
  if size is None:
    raise UserError(f'{run.workdir} does not record the size of its frames')
  frames = spec.held(choice, 'frames')
  stride = 0
  if spec.symbol(choice) is not video.MiddleSegments:
    stride = spec.held(choice, 'stride')
  mean, std = normalization(run.network, 3)
  return ClipPreprocessing(
    frames=frames,
    stride=stride,
    size=tuple(size),
    crops=crops is not None,
    bgr=bgr,
    mean=mean,
    std=std,
    label_names=loading.trained_names(run, 'label_names'),
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


def chooses_frames(node: Mapping[str, Any]) -> bool:
  """Returns whether the first transform of a recorded input chooses frames."""
  steps = node.get('transforms') or ()
  return bool(steps) and spec.symbol(steps[0]) in SAMPLING


def sampling(
  config: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None, bool]:
  """Returns the recorded transforms of an evaluator that choose and crop frames.

  The last result is whether it reverses the channels of the frames.
  """
  for _, node in spec.calls(config.get('evals', {})):
    steps = {spec.symbol(step): step for step in node.get('transforms') or ()}
    choice = next((step for kind, step in steps.items() if kind in SAMPLING), None)
    if choice is not None:
      return choice, steps.get(video.ThreeCrops), video.ReversedChannels in steps
  known = ', '.join(kind.__name__ for kind in SAMPLING)
  raise UserError(f'no evaluator of the config chooses frames with {known}')


def as_published(name: str, frames: int, side: int, classes: int) -> ClipPreprocessing:
  """Returns the preprocessing of the published code, for weights in a file `name`.

  Models for Something-Something are recognized by `ssv2` in the name or by their 174
  classes; their published training read frames as BGR.
  """
  something = 'ssv2' in name.lower() or classes == 174
  stride = 0 if something else STRIDES.get(frames, max(256 // frames, 1))
  data = ' for Something-Something' if something else ''
  return ClipPreprocessing(
    frames=frames,
    stride=stride,
    size=(side, side),
    bgr=something,
    source=f'as published by facebookresearch/TimeSformer{data}',
  )


def named_frames(name: str) -> int:
  """Returns the frames in a name such as `TimeSformer_divST_96x4_224_K400`, else 8."""
  match = re.search(r'_(\d+)x\d+_', name)
  return int(match[1]) if match else 8


def with_processor(
  own: ClipPreprocessing, metadata: Mapping[str, Any], label_names: Sequence[str]
) -> ClipPreprocessing:
  """Returns preprocessing with the numbers of transformers' JSON files."""
  processor, source = metadata.get('preprocessor_config.json', {}), own.source
  numbers = {
    name: tuple(processor[f'image_{name}'])
    for name in ('mean', 'std')
    if f'image_{name}' in processor
  }
  if numbers:
    source = f'{source}; mean and std of preprocessor_config.json'
  return dataclasses.replace(
    own, label_names=tuple(label_names), source=source, **numbers
  )
