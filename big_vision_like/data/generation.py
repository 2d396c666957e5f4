"""Inputs of image generation, as parts of configs (arXiv:2103.01209)."""

import copy
import dataclasses

import ml_collections as mlc

from big_vision_like.data import benchmarks
from big_vision_like.data.sources import own_images, tars, tfds
from big_vision_like.data.transforms import aspect, image, labels, objects
from big_vision_like.spec import spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation(benchmarks.Pictures):
  """Images to learn from: CLEVR, Bedrooms, FFHQ, Cityscapes, or small ones.

  Training and evaluation use the same part, `train`, since distances are measured to
  the whole training set: `eval_input(batch_size, 'train')`. Images are uint8 (size,
  size, channels). A `ratio` below 1 is the height / width of the content: images are
  cropped to it and padded with black rows. Pass it to the evaluators, which then see
  the content only. `mirror` flips images of training at random. `method` is the kernel
  that resizes; with None, images have their size already. With `masks`, batches for
  evaluation have `segmentation`.
  """

  size: int
  channels: int = 3
  ratio: float = 1.0
  mirror: bool = False
  method: str | None = 'pillow_lanczos'
  masks: bool = False

  def _transforms(self, train: bool) -> list[mlc.ConfigDict]:
    names = ['image', 'segmentation'] if self.masks and not train else ['image']
    parts = [spec(image.Decode, channels=self.channels)]
    if len(names) > 1:
      parts.append(spec(objects.DecodeSegmentation))
    parts.append(spec(labels.Keep, names=names))
    if self.method is not None:
      own = dict(size=self.size, ratio=self.ratio, method=self.method)
      parts.append(spec(aspect.FitSquare, **own))
    if self.mirror and train:
      parts.append(spec(image.Flip))
    return [copy.deepcopy(part) for part in parts]

  def at(self, source: mlc.ConfigDict) -> 'Generation':
    """Returns the same data from another source, such as `from_tars`."""
    return dataclasses.replace(self, parts={**self.parts, 'train': source})


def from_folder(
  path: str, folders: list[str] | None = None, examples: int | None = None
) -> mlc.ConfigDict:
  """Returns all images below `path`, or below these folders of it, at any depth."""
  return spec(own_images.OwnImages, path=path, classes=folders, examples=examples)


def from_tars(pattern: str) -> mlc.ConfigDict:
  """Returns the images of tar files, such as 'data/ffhq/{00000..00069}.tar'."""
  return spec(tars.Tars, pattern=pattern)


def clevr(size: int = 256) -> Generation:
  """Returns the 100,000 images of CLEVR, cropped to 0.75 and padded to a square.

  They are those in `images/` of CLEVR_v1.0, of all three splits, as in the paper.
  """
  folders = ['train', 'val', 'test']
  source = from_folder('data/CLEVR_v1.0/images', folders, 100_000)
  return Generation(parts=dict(train=source), size=size, ratio=0.75)


def bedrooms(size: int = 256) -> Generation:
  """Returns the 3,033,042 bedrooms of LSUN, cropped to 188 / 256 and padded.

  They come from TFDS's `lsun/bedroom`.
  """
  source = spec(tfds.Tfds, name='lsun/bedroom', split='train', examples=3_033_042)
  return Generation(parts=dict(train=source), size=size, ratio=188 / 256)


def ffhq(size: int = 256) -> Generation:
  """Returns the 70,000 faces of FFHQ, flipped at random.

  `data/ffhq` has the folders 00000 to 69000 of images1024x1024.
  """
  source = from_folder('data/ffhq', examples=70_000)
  return Generation(parts=dict(train=source), size=size, mirror=True)


def cityscapes(size: int = 256) -> Generation:
  """Returns the 24,998 street scenes of Cityscapes, padded, and flipped at random.

  They are the images of all splits and of the coarsely labelled part (leftImg8bit).
  """
  folders = ['train', 'train_extra', 'val', 'test']
  source = from_folder('data/cityscapes/leftImg8bit', folders, 24_998)
  return Generation(parts=dict(train=source), size=size, ratio=0.5, mirror=True)


def digits16() -> Generation:
  """Returns UCI's handwritten digits, enlarged to 16x16 grey pixels.

  The part `test` has the 450 scans that neither the generator nor the classifier of
  configs/vgg/digits16.py has seen.
  """
  return Generation(
    parts=dict(
      train=spec(tfds.Tfds, name='digits', split='train', examples=1347),
      test=spec(tfds.Tfds, name='digits', split='test', examples=450),
    ),
    size=16,
    channels=1,
    method='bilinear',
  )


def squares16() -> Generation:
  """Returns one to three coloured squares on grey, 16x16 pixels, drawn here."""
  return Generation(
    parts=dict(
      train=spec(tfds.Tfds, name='squares', split='train', examples=20_000),
      test=spec(tfds.Tfds, name='squares', split='test', examples=1_000),
    ),
    size=16,
    method=None,
    masks=True,
  )
