"""Contents of slots, iteration by iteration (arXiv:2006.15055, figures 3 and 6).

Pictures are float in [-1, 1], as models receive and produce them, with 1 or 3 channels.
A slot is drawn as its content, above its share of each pixel. Both are drawn over a
pale blue, which contrasts with white and with black objects.

Axes: T iterations, S slots, H W pixels, C channels, h w grid of attention.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from big_vision_like.viz import images

BACKGROUND = (112, 112, 112)
# Colours of entities 1, 2, ..., used again from the first after the last.
PALETTE = (
  (230, 25, 75),
  (0, 130, 200),
  (60, 180, 75),
  (245, 130, 48),
  (145, 30, 180),
  (70, 205, 230),
  (240, 50, 230),
  (170, 110, 40),
  (150, 205, 30),
  (0, 0, 128),
  (255, 205, 25),
  (0, 128, 128),
)
PALE = (203, 213, 225)  # where a slot holds nothing
PAPER = 255  # between cells


def slots_sheet(
  image_HWC: np.ndarray,
  reconstruction_THWC: np.ndarray,
  masks_TSHW: np.ndarray,
  contents_TSHWC: np.ndarray,
  segmentation_HW: np.ndarray | None = None,
  side: int = 96,
) -> np.ndarray:
  """Draws the slots of an auto-encoder as one picture, RGB uint8.

  There is a block for each iteration: the reconstruction above the pixels in the
  colours of their slots, then each slot. Before the first block is the image, above its
  true segmentation if there is one (0 is the background, 1, 2, ... are objects). A slot
  has the colour of the entity that it finds in the end. Cells have about `side` pixels
  (`images.fit`).
  """
  colours_S3 = slot_colours(masks_TSHW[-1], segmentation_HW)
  given = _stacked([coloured(image_HWC)], side)
  if segmentation_HW is not None:
    given = _stacked([coloured(image_HWC), segments(segmentation_HW)], side)
  blocks = [
    [
      _stacked([coloured(reconstruction_HWC), mixed(masks_SHW, colours_S3)], side),
      *_slots(masks_SHW, contents_SHWC, colours_S3, side),
    ]
    for reconstruction_HWC, masks_SHW, contents_SHWC in zip(
      reconstruction_THWC, masks_TSHW, contents_TSHWC, strict=True
    )
  ]
  return _laid_out(blocks, given)


def attention_sheet(
  image_HWC: np.ndarray, attention_TShw: np.ndarray, side: int = 96
) -> np.ndarray:
  """Draws the attention of slots to an image as one picture, RGB uint8.

  `attention_TShw` sums to 1 over slots. There is a block for each iteration: the image
  above the pixels in the colours of their slots, then each slot. Cells have about
  `side` pixels (`images.fit`).
  """
  height, width, channels = image_HWC.shape
  num_slots = attention_TShw.shape[1]
  contents_SHWC = np.broadcast_to(image_HWC, (num_slots, height, width, channels))
  blocks = []
  for attention_Shw in attention_TShw:
    # Bilinear weights keep the sum over slots.
    masks_SHW = np.stack(
      [
        cv2.resize(slot_hw.astype(np.float32), (width, height))
        for slot_hw in attention_Shw
      ]
    )
    colours_S3 = slot_colours(masks_SHW)
    first = _stacked([coloured(image_HWC), mixed(masks_SHW, colours_S3)], side)
    blocks.append([first, *_slots(masks_SHW, contents_SHWC, colours_S3, side)])
  return _laid_out(blocks)


def coloured(image_HWC: np.ndarray) -> np.ndarray:
  """Returns a picture in [-1, 1] as RGB uint8."""
  return images.to_rgb(0.5 * (np.asarray(image_HWC, np.float32) + 1.0))


def segments(segmentation_HW: np.ndarray) -> np.ndarray:
  """Returns ids of entities as RGB uint8, each in its colour."""
  return entity_colours(int(segmentation_HW.max()) + 1)[segmentation_HW]


def entity_colours(count: int) -> np.ndarray:
  """Returns the colours of entities 0, 1, ..., (count, 3) uint8."""
  objects = [PALETTE[i % len(PALETTE)] for i in range(count - 1)]
  return np.array([BACKGROUND, *objects][:count], np.uint8)


def slot_colours(
  masks_SHW: np.ndarray, segmentation_HW: np.ndarray | None = None
) -> np.ndarray:
  """Returns the colours of slots, (S, 3) uint8, from the entities they overlap most.

  Slots and objects are paired in descending order of their intersection over union
  among pixels of objects, then with the background. Slots without an entity have
  colours of their own, and so have all slots if there is no segmentation.
  """
  count = len(masks_SHW)
  if segmentation_HW is None:
    return entity_colours(count + 1)[1:]
  found_HW = masks_SHW.argmax(axis=0)
  entities = int(segmentation_HW.max()) + 1
  slots_SHW = found_HW == np.arange(count)[:, None, None]
  entities_KHW = segmentation_HW == np.arange(entities)[:, None, None]
  shared_SK = np.einsum(
    'SHW,KHW->SK', slots_SHW, entities_KHW, dtype=np.float64, casting='unsafe'
  )
  # Only count pixels of objects: a split background does not matter for objects.
  own_S = (slots_SHW & (segmentation_HW > 0)[None]).sum(axis=(1, 2))
  union_SK = own_S[:, None] + entities_KHW.sum(axis=(1, 2))[None] - shared_SK
  iou_SK = shared_SK / np.maximum(union_SK, 1)
  # The background gets the remaining slot that covers most of it.
  iou_SK[:, 0] = shared_SK[:, 0] / segmentation_HW.size - 1
  entity_of: dict[int, int] = {}
  for index in np.argsort(-iou_SK, axis=None, kind='stable').tolist():
    slot, entity = divmod(index, entities)
    if shared_SK[slot, entity] and slot not in entity_of:
      if entity not in entity_of.values():
        entity_of[slot] = entity
  for slot in range(count):
    entity_of.setdefault(slot, max(entities, *entity_of.values()) + 1)
  numbers = [entity_of[slot] for slot in range(count)]
  return entity_colours(max(numbers) + 1)[numbers]


def mixed(masks_SHW: np.ndarray, colours_S3: np.ndarray) -> np.ndarray:
  """Returns each pixel in the mean colour of its slots, RGB uint8."""
  return np.rint(np.einsum('SHW,SC->HWC', masks_SHW, colours_S3)).astype(np.uint8)


def over_pale(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
  """Blends an RGB uint8 picture, kept where the mask is 1, to pale where it is 0."""
  pale_113 = np.array([[PALE]], np.float32)
  shade_HWC = (image_HWC - pale_113) * mask_HW[:, :, None]
  return np.rint(pale_113 + shade_HWC).astype(np.uint8)


def _slots(
  masks_SHW: np.ndarray, contents_SHWC: np.ndarray, colours_S3: np.ndarray, side: int
) -> list[np.ndarray]:
  """Returns for each slot its content above its mask."""
  return [
    _stacked(
      [
        over_pale(coloured(content_HWC), mask_HW),
        over_pale(np.broadcast_to(colour_3, (*mask_HW.shape, 3)), mask_HW),
      ],
      side,
    )
    for mask_HW, content_HWC, colour_3 in zip(
      masks_SHW, contents_SHWC, colours_S3, strict=True
    )
  ]


def _stacked(cells: Sequence[np.ndarray], side: int) -> np.ndarray:
  """Stacks two pictures of equal size, or one above a blank one."""
  cells = [images.fit(cell, side) for cell in cells]
  cells += [np.full_like(cells[0], PAPER)] * (2 - len(cells))
  return images.tile(np.stack(cells), columns=1, background=PAPER)


def _laid_out(
  blocks: Sequence[Sequence[np.ndarray]], given: np.ndarray | None = None
) -> np.ndarray:
  """Stacks blocks vertically, with the given cell before the first one."""
  rows = []
  for number, block in enumerate(blocks):
    if given is not None:
      block = [given if number == 0 else np.full_like(given, PAPER), *block]
    rows.append(images.tile(np.stack(block), len(block), background=PAPER))
  sheet_HWC = images.tile(np.stack(rows), columns=1, gap=10, background=PAPER)
  return np.pad(sheet_HWC, ((4, 4), (4, 4), (0, 0)), constant_values=PAPER)
