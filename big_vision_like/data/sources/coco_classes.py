"""Ids and names of COCO's classes, its image sizes and the features of its examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# COCO's ids of things, in the order of TFDS's labels 0 to 79. Published DETRs use these
# ids, out of 91, as classes.
IDS = (*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70)
IDS = (*IDS, *range(72, 83), *range(84, 91))
# COCO's ids of things and then stuff, in the order of TFDS's labels 0 to 132 of
# `coco/2017_panoptic`.
STUFF_IDS = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138)
STUFF_IDS = (*STUFF_IDS, 141, 144, 145, 147, 148, 149, 151, 154, 155, 156, 159, 161)
STUFF_IDS = (*STUFF_IDS, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201))
PANOPTIC_IDS = (*IDS, *STUFF_IDS)
THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted
plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
STUFF = """
banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower,
fruit, gravel, house, light, mirror-stuff, net, pillow, platform, playingfield,
railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick,
wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other, tree-merged,
fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged,
floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged,
paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged,
rug-merged
"""
# COCO's names of its categories, by id.
NAMES = dict(
  zip(
    PANOPTIC_IDS,
    (' '.join(name.split()) for name in f'{THINGS},{STUFF}'.split(',')),
    strict=True,
  )
)

# The most frequent heights and widths of COCO's 2014 training images that are not in
# minival, with their counts: 92,024 of 117,263 images. Counted from
# data/trainvalno5k.shapes of early versions of github.com/ultralytics/yolov3. Plans use
# them for COCO.
SIZES = (
  # fmt: off
  (480, 640, 25158),
  (427, 640, 14519),
  (640, 480, 8258),
  (426, 640, 5316),
  (375, 500, 5149),
  (640, 427, 4216),
  (428, 640, 3289),
  (425, 640, 3117),
  (612, 612, 2405),
  (500, 375, 1901),
  (424, 640, 1715),
  (640, 426, 1621),
  (333, 500, 1605),
  (640, 640, 1536),
  (360, 640, 1413),
  (478, 640, 978),
  (429, 640, 926),
  (640, 428, 898),
  (640, 425, 871),
  (500, 333, 670),
  (640, 478, 579),
  (640, 424, 476),
  (332, 500, 461),
  (512, 640, 452),
  (479, 640, 407),
  (334, 500, 407),
  (359, 640, 397),
  (481, 640, 392),
  (457, 640, 389),
  (423, 640, 281),
  (361, 640, 256),
  (500, 500, 253),
  (400, 640, 228),
  (400, 500, 223),
  (458, 640, 218),
  (640, 512, 213),
  (335, 500, 212),
  (640, 429, 208),
  (433, 640, 207),
  (383, 640, 204),
  # fmt: on
)


def class_names(num_classes: int) -> tuple[str, ...]:
  """Returns names of classes numbered by COCO's ids; unused ids get their number."""
  return tuple(NAMES.get(label, str(label)) for label in range(num_classes))


def described(categories: Sequence[str] | int, panoptic: bool) -> Any:
  """Returns TFDS features of examples with the given categories: names, or a number.

  The features equal those of TFDS's `coco`, which needs TensorFlow to provide them,
  except that areas are float32.
  """
  import tensorflow_datasets as tfds

  named = {'num_classes' if isinstance(categories, int) else 'names': categories}
  objects = tfds.features.Sequence(
    {
      'id': np.int64,
      'area': np.float32,
      'bbox': tfds.features.BBoxFeature(),
      'label': tfds.features.ClassLabel(**named),
      'is_crowd': np.bool_,
    }
  )
  features = {
    'image': tfds.features.Image(),
    'image/filename': tfds.features.Text(),
    'image/id': np.int64,
  }
  if panoptic:
    features['panoptic_image'] = tfds.features.Image(encoding_format='png')
  name = 'panoptic_objects' if panoptic else 'objects'
  return tfds.features.FeaturesDict(features | {name: objects})
