import numpy as np
import pytest

from big_vision_like.viz import slots

ITERATIONS, SLOTS, SIZE = 2, 3, (5, 7)


def made(channels: int = 3) -> dict[str, np.ndarray]:
  """Returns two objects on black; slot 1 finds the first, slot 0 the background."""
  segmentation = np.zeros(SIZE, np.uint8)
  segmentation[1:3, 1:3], segmentation[3:, 4:] = 1, 2
  slot_of = np.array([0, 1, 2])[segmentation]
  last = np.eye(SLOTS)[slot_of].transpose(2, 0, 1)
  image = np.where(segmentation[..., None] > 0, 1.0, -1.0).repeat(channels, axis=-1)
  contents = np.broadcast_to(image, (ITERATIONS, SLOTS, *image.shape))
  return dict(
    image_HWC=image,
    reconstruction_THWC=np.broadcast_to(image, (ITERATIONS, *image.shape)),
    masks_TSHW=np.stack([np.full_like(last, 1 / SLOTS), last]).astype(np.float32),
    contents_TSHWC=contents,
    segmentation_HW=segmentation,
  )


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
  """Returns a cell of a sheet at the size of its pictures; rows count all blocks."""
  height, width = SIZE
  block, part = divmod(row, 2)
  top = 4 + block * (2 * height + 2 + 10) + part * (height + 2)
  left = 4 + column * (width + 2)
  return sheet[top : top + height, left : left + width]


@pytest.mark.parametrize('channels', [1, 3])
def test_a_sheet_has_a_block_for_each_iteration(channels):
  arrays = made(channels)
  sheet = slots.slots_sheet(**arrays, side=8)
  assert sheet.dtype == np.uint8
  assert sheet.shape == (2 * 12 + 10 + 8, 5 * 9 - 2 + 8, 3)
  image = slots.coloured(arrays['image_HWC'])
  truth = slots.segments(arrays['segmentation_HW'])
  np.testing.assert_array_equal(cell(sheet, 0, 0), image)
  np.testing.assert_array_equal(cell(sheet, 1, 0), truth)
  assert np.all(cell(sheet, 2, 0) == slots.PAPER)
  for row in (0, 2):
    np.testing.assert_array_equal(cell(sheet, row, 1), image)
  # At first nothing is found; in the end everything is.
  mean = np.mean([slots.BACKGROUND, *slots.PALETTE[:2]], axis=0)
  np.testing.assert_allclose(cell(sheet, 1, 1), np.tile(mean, (*SIZE, 1)), atol=0.51)
  np.testing.assert_array_equal(cell(sheet, 3, 1), truth)
  pale = np.tile(np.uint8(slots.PALE), (*SIZE, 1))
  for entity, column in ((0, 2), (1, 3), (2, 4)):
    where = (arrays['segmentation_HW'] == entity)[..., None]
    np.testing.assert_array_equal(cell(sheet, 2, column), np.where(where, image, pale))
    np.testing.assert_array_equal(cell(sheet, 3, column), np.where(where, truth, pale))


def test_small_pictures_are_enlarged_by_whole_pixels_and_big_ones_shrunk():
  arrays = made()
  small = slots.slots_sheet(**arrays, side=8)
  large = slots.slots_sheet(**arrays, side=23)  # three times as large
  np.testing.assert_array_equal(
    large[4 : 4 + 15, 4 : 4 + 21], cell(small, 0, 0).repeat(3, 0).repeat(3, 1)
  )
  assert slots.slots_sheet(**arrays, side=4).shape[1] == 5 * (4 + 2) - 2 + 8


def test_without_a_segmentation_slots_have_colours_of_their_own():
  arrays = made() | {'segmentation_HW': None}
  sheet = slots.slots_sheet(**arrays, side=8)
  assert np.all(cell(sheet, 1, 0) == slots.PAPER)
  colours = slots.slot_colours(arrays['masks_TSHW'][-1])
  np.testing.assert_array_equal(colours, slots.PALETTE[:3])


def test_slots_have_the_colours_of_their_objects():
  segmentation = made()['segmentation_HW']
  split = segmentation.copy()
  split[0] = 3  # a strip of the background has its own slot
  slot_of = np.array([4, 2, 0, 1])[split]
  masks = np.eye(6)[slot_of].transpose(2, 0, 1)
  colours = slots.slot_colours(masks, segmentation)
  np.testing.assert_array_equal(colours[[4, 2, 0]], slots.entity_colours(3))
  assert len(np.unique(colours, axis=0)) == 6


def test_a_split_background_takes_no_slot_from_an_object():
  segmentation = np.zeros((6, 6), int)
  segmentation[0, :2] = 1
  found = np.zeros((6, 6), int)
  found[2:, :] = 1  # half of the background has a slot with nothing else
  found[:2, 3:] = 2
  masks = (found == np.arange(3)[:, None, None]).astype(np.float32)
  masks[0, 3:, 3:], masks[1, 3:, 3:] = 1, 0  # most of slot 0 is background, too
  colours = slots.slot_colours(masks, segmentation)
  background, entity = slots.entity_colours(2)
  np.testing.assert_array_equal(colours[:2], [entity, background])


def test_there_are_colours_for_any_number_of_objects():
  colours = slots.entity_colours(31)
  assert colours.shape == (31, 3)
  np.testing.assert_array_equal(colours[1], colours[1 + len(slots.PALETTE)])
  assert len(np.unique(colours[: 1 + len(slots.PALETTE)], axis=0)) == 13


def test_attention_is_stretched_over_the_image():
  image = np.full((8, 12, 3), 1.0)
  image[:, :6] = -1.0
  attention = np.zeros((1, 2, 2, 3))
  attention[0, 0, :, 0] = 1.0
  attention[0, 1] = 1.0 - attention[0, 0]
  sheet = slots.attention_sheet(image, attention, side=12)
  assert sheet.shape == (8 + 2 + 8 + 8, 3 * 14 - 2 + 8, 3)
  first = sheet[4:12, 18:30]
  assert np.all(first[:, :2] == 0) and np.all(first[:, -2:] == slots.PALE)
  np.testing.assert_array_equal(sheet[4:12, 4:16], slots.coloured(image))
  parts = sheet[14:22, 4:16]
  assert np.all(parts[:, 0] == slots.PALETTE[0])
  assert np.all(parts[:, -1] == slots.PALETTE[1])
