"""Tests of parts against whole images; Pillow writes the restart markers."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from big_vision_like.data.transforms import decoding, jpeg

MODES = ['4:2:0', '4:2:2', '4:4:4', 'L']


def saved(height: int, width: int, mode: str = '4:2:0', seed: int = 0, **options):
  """Returns a JPEG of blurred noise."""
  rng = np.random.default_rng(seed)
  noise = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8)
  picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
  if mode == 'L':
    picture = picture.convert('L')
  else:
    options['subsampling'] = mode
  buffer = io.BytesIO()
  picture.save(buffer, 'JPEG', quality=90, **options)
  return buffer.getvalue()


@st.composite
def cases(draw):
  """Draws a JPEG with restart markers and a box in it."""
  height, width = draw(st.integers(9, 120)), draw(st.integers(9, 150))
  unit = draw(st.sampled_from(['restart_marker_blocks', 'restart_marker_rows']))
  options = {unit: draw(st.integers(1, 6))}
  mode, seed = draw(st.sampled_from(MODES)), draw(st.integers(0, 9))
  top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
  box = (
    top,
    left,
    draw(st.integers(1, height - top)),
    draw(st.integers(1, width - left)),
  )
  return saved(height, width, mode, seed, **options), box


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from(decoding.DCT), st.sampled_from([1, 3]))
def test_a_box_between_restart_markers_matches_the_whole(case, dct, channels):
  encoded, (top, left, height, width) = case
  got = decoding.decode_box(encoded, (top, left, height, width), channels, dct)
  whole = decoding.decode(encoded, channels, dct)
  want = whole[top : top + height, left : left + width]
  np.testing.assert_array_equal(got, want)


# Height and width 100 x 140: 7 x 9 MCUs of 4:2:0; 13 rows of the others, and 18 columns
# of 4:4:4 and grey.
BOX = (40, 60, 20, 30)


@pytest.mark.parametrize(
  'mode, options, want',
  [
    ('4:2:0', dict(restart_marker_blocks=3), (32, 48, 32, 48)),
    ('4:2:0', dict(restart_marker_blocks=1), (32, 48, 32, 48)),
    ('4:2:0', dict(restart_marker_rows=1), (32, 0, 32, 140)),
    ('4:2:0', dict(restart_marker_rows=2), (32, 0, 32, 140)),
    ('4:2:0', dict(restart_marker_rows=4), (0, 0, 64, 140)),
    ('4:2:2', dict(restart_marker_blocks=3), (32, 48, 32, 48)),
    ('4:4:4', dict(restart_marker_blocks=2), (32, 48, 32, 48)),
    ('L', dict(restart_marker_blocks=6), (32, 48, 32, 48)),
  ],
)
def test_markers_limit_the_part_that_is_cut_out(mode, options, want):
  part = jpeg.cut(saved(100, 140, mode, **options), BOX, reach=4)
  assert (part.top, part.left, part.height, part.width) == want and not part.cut_off
  pixels = Image.open(io.BytesIO(part.encoded))
  assert pixels.size == want[:1:-1]
  pixels.load()


def test_the_reach_is_needed():
  """Checks that without `reach`, edge pixels of the box lack neighbouring colours."""
  encoded, box = saved(96, 160, restart_marker_blocks=1), (32, 32, 32, 32)
  want = decoding.decode(encoded)[32:64, 32:64]
  for reach, same in ((0, False), (decoding.REACH, True)):
    part = jpeg.cut(encoded, box, reach)
    pixels = np.asarray(Image.open(io.BytesIO(part.encoded)))
    top, left = 32 - part.top, 32 - part.left
    got = pixels[top : top + 32, left : left + 32]
    assert np.array_equal(got, want) == same


def test_without_markers_the_lower_rows_are_left_out():
  encoded = saved(100, 140)
  part = jpeg.cut(encoded, BOX, reach=4)
  assert (part.top, part.left, part.height, part.width) == (0, 0, 64, 140)
  assert part.cut_off and len(part.encoded) == len(encoded)
  assert jpeg.cut(encoded, (90, 0, 6, 140), reach=4) is None


@pytest.mark.parametrize(
  'options',
  [
    dict(restart_marker_blocks=2),  # a row has 9
    dict(restart_marker_blocks=9 * 7),  # all in one interval
    dict(progressive=True),
    dict(progressive=True, restart_marker_blocks=3),
  ],
)
def test_others_are_decoded_as_a_whole(options):
  encoded = saved(100, 140, **options)
  assert jpeg.cut(encoded, BOX, reach=4) is None
  want = decoding.decode(encoded)[40:60, 60:90]
  np.testing.assert_array_equal(decoding.decode_box(encoded, BOX), want)


def test_the_whole_image_is_not_cut():
  encoded = saved(100, 140, restart_marker_blocks=3)
  assert jpeg.cut(encoded, (0, 0, 100, 140), reach=4) is None
  assert jpeg.cut(encoded, (3, 3, 93, 134), reach=4) is None


def test_other_segments_of_a_file_are_skipped():
  exif = b'Exif\0\0' + b'\xff\xc0\xff\xdd\xff\xda\xff\xd0' * 20
  encoded = saved(100, 140, restart_marker_blocks=3, exif=exif)
  assert jpeg.read_header(encoded).cuttable
  want = decoding.decode(encoded)[40:60, 60:90]
  np.testing.assert_array_equal(decoding.decode_box(encoded, BOX), want)
  behind = encoded + b'\xff\xd8 a second image \xff\xd0\xff\xd9'
  assert jpeg.cut(behind, BOX, reach=4) is not None
  np.testing.assert_array_equal(decoding.decode_box(behind, BOX), want)


def test_headers():
  header = jpeg.read_header(saved(100, 140, restart_marker_rows=2))
  assert (header.height, header.width, header.mcu) == (100, 140, (16, 16))
  assert (header.rows, header.columns, header.interval) == (7, 9, 18)
  assert header.one_scan and header.cuttable
  assert jpeg.read_header(saved(9, 30, '4:2:2')).mcu == (8, 16)
  assert not jpeg.read_header(saved(9, 30, progressive=True)).one_scan
  assert not jpeg.read_header(saved(9, 30)).cuttable


# Damage


def markers(encoded: bytes) -> list[int]:
  """Returns the positions of the restart markers."""
  start = encoded.index(b'\xff\xda')
  pairs = range(start + 2, len(encoded) - 1)
  return [i for i in pairs if encoded[i] == 0xFF and 0xD0 <= encoded[i + 1] <= 0xD7]


def misnumbered(encoded: bytes, place: int) -> bytes:
  number = 0xD0 + (encoded[place + 1] + 1) % 8
  return encoded[: place + 1] + bytes([number]) + encoded[place + 2 :]


DAMAGE = {
  'a marker is missing': lambda e, i, j: e[:i] + e[i + 2 :],
  'an interval is missing': lambda e, i, j: e[:i] + e[j:],
  'eight intervals are missing': lambda e, i, j: e[:i] + e[markers(e)[-2] :],
  'an interval is there twice': lambda e, i, j: e[:i] + e[i:j] + e[i:],
  'a wrong number': lambda e, i, j: misnumbered(e, i),
  'a wrong kind': lambda e, i, j: e[: i + 1] + b'\xc4' + e[i + 2 :],
  'a stray marker': lambda e, i, j: e[: i + 9] + b'\xff\x01' + e[i + 9 :],
  'an end too early': lambda e, i, j: e[:i] + b'\xff\xd9' + e[i:],
  'no end': lambda e, i, j: e[:-2],
  'no last interval': lambda e, i, j: e[: markers(e)[-1]],
  'no more than half': lambda e, i, j: e[: len(e) // 2],
  'no coded data': lambda e, i, j: e[: e.index(b'\xff\xda') + 14],
  'half a header': lambda e, i, j: e[: e.index(b'\xff\xda') + 5],
}


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('index', [0, 4, 11])
def test_damaged_markers_are_left_to_the_whole(damage, index):
  encoded = saved(100, 140, restart_marker_blocks=3)
  places = markers(encoded)
  assert len(places) == 20
  harmed = DAMAGE[damage](encoded, *places[index : index + 2])
  assert harmed != encoded
  assert jpeg.cut(harmed, BOX, reach=4) is None
  want = got = None
  try:
    want = decoding.decode(harmed)[40:60, 60:90]
  except ValueError as error:
    with pytest.raises(ValueError, match=str(error)[:20]):
      decoding.decode_box(harmed, BOX)
  else:
    got = decoding.decode_box(harmed, BOX)
    np.testing.assert_array_equal(got, want)


def test_damage_in_the_box_is_left_to_the_whole():
  """Checks an interval whose bits end too early: libjpeg warns and fills the rest."""
  encoded = saved(100, 140, restart_marker_blocks=3)
  places = markers(encoded)
  row, column = 40 // 16, 60 // 48
  start = places[3 * row + column - 1] + 2
  harmed = encoded[: start + 5] + encoded[places[3 * row + column] :]
  part = jpeg.cut(harmed, BOX, reach=4)
  assert decoding._decoded(part, 3, 'accurate', 1) is None
  want = decoding.decode(harmed)[40:60, 60:90]
  np.testing.assert_array_equal(decoding.decode_box(harmed, BOX), want)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_bytes_of_any_kind_end_with_pixels_or_an_error(data):
  encoded = bytearray(saved(60, 70, restart_marker_blocks=1))
  for _ in range(data.draw(st.integers(1, 4))):
    place = data.draw(st.integers(3, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
  try:
    got = decoding.decode_box(bytes(encoded), (20, 20, 20, 20))
  except ValueError:
    return
  assert got.ndim == 3 and got.dtype == np.uint8
