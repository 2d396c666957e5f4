"""Tests of decoding any bytes against Pillow; TensorFlow was compared by hand."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from big_vision_like.data.transforms import decoding, headers


@pytest.fixture(scope='module')
def picture():
  """Returns an image, 48 x 80 pixels, whose channels and neighbouring pixels differ."""
  y, x = np.mgrid[0:48, 0:80]
  waves = [np.sin(x / 4 + y / 9), np.cos(y / 5), np.sin((x - y) / 7)]
  return (120 + 110 * np.stack(waves, -1)).astype(np.uint8)


def saved(picture: np.ndarray, form: str, mode: str = 'RGB', **options) -> bytes:
  """Returns an RGB picture as Pillow encodes it in that mode."""
  buffer = io.BytesIO()
  Image.fromarray(picture).convert(mode).save(buffer, form, **options)
  return buffer.getvalue()


def pillow(encoded: bytes, mode: str = 'RGB') -> np.ndarray:
  image = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
  return image.reshape(*image.shape[:2], -1)


@pytest.mark.parametrize('dct', decoding.DCT)
@pytest.mark.parametrize(
  'options',
  [
    dict(subsampling='4:2:0'),
    dict(subsampling='4:4:4'),
    dict(progressive=True),
    dict(keep_rgb=True),
    dict(mode='L'),
  ],
)
def test_jpegs_match_pillow(options, dct, picture):
  encoded = saved(picture, 'JPEG', quality=90, **options)
  got = decoding.decode(encoded, dct=dct)
  limit = 0 if dct == 'accurate' else 8
  assert np.abs(got.astype(int) - pillow(encoded)).max() <= limit


def with_black(picture: np.ndarray) -> np.ndarray:
  """Returns CMYK, uint8 (H, W, 4); black is the ink that all three colours share."""
  ink = 255 - picture
  black = ink.min(-1, keepdims=True)
  return np.concatenate([ink - black, black], axis=-1)


@pytest.mark.parametrize('kind', ['cmyk', 'ycck'])
@pytest.mark.parametrize('channels', [1, 3])
def test_cmyk_jpegs(kind, channels, picture):
  """Checks CMYK as in a few files of ImageNet: Adobe, Pillow and libjpeg invert it."""
  inks = with_black(picture)
  if kind == 'cmyk':
    buffer = io.BytesIO()
    Image.fromarray(inks, 'CMYK').save(buffer, 'JPEG', quality=95)
    encoded = buffer.getvalue()
  else:
    encoded = simplejpeg.encode_jpeg(255 - inks, 95, 'CMYK', '444')
  assert simplejpeg.decode_jpeg_header(encoded)[2] == kind.upper()
  got = decoding.decode(encoded, channels).astype(int)
  assert np.abs(got - pillow(encoded, 'L' if channels == 1 else 'RGB')).max() <= 3
  paper = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
  paper = paper if channels == 3 else paper @ [[0.299], [0.587], [0.114]]
  assert np.abs(got - paper).mean() < 4


def test_grey_of_a_coloured_jpeg_is_its_luma(picture):
  encoded = saved(picture, 'JPEG', quality=98)
  got = decoding.decode(encoded, channels=1)
  luma = picture @ [[0.299], [0.587], [0.114]]
  assert got.shape == (48, 80, 1) and np.abs(got - luma).max() <= 4


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'JPEG'])
def test_orientation_is_ignored(form, picture):
  turned = Image.Exif()
  turned[0x0112] = 6
  plain, told = (
    saved(picture, form, lossless=True, **more) for more in ({}, dict(exif=turned))
  )
  assert len(told) > len(plain)
  np.testing.assert_array_equal(decoding.decode(told), decoding.decode(plain))


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_tiffs_are_turned_as_pillow_turns_them(orientation, picture):
  """Checks that TIFFs are turned: orientation is part of the format, not of EXIF."""
  turned = Image.Exif()
  turned[0x0112] = orientation
  encoded = saved(picture, 'TIFF', exif=turned)
  np.testing.assert_array_equal(decoding.decode(encoded), pillow(encoded))
  size = (80, 48) if orientation > 4 else (48, 80)
  assert decoding.image_size(encoded) == size


@pytest.mark.parametrize('mode', ['P', 'L', 'LA', 'RGB', 'RGBA', '1'])
@pytest.mark.parametrize('channels', [1, 3])
def test_pngs_match_pillow(mode, channels, picture):
  encoded = saved(picture, 'PNG', mode)
  want = pillow(encoded, 'L' if channels == 1 else 'RGB').astype(int)
  got = decoding.decode(encoded, channels)
  assert got.shape == (48, 80, channels)
  assert np.abs(got - want).max() <= (1 if channels == 1 else 0)


def test_transparent_pixels_keep_their_colour(picture):
  alpha = np.full((48, 80, 1), 255, np.uint8)
  alpha[:, ::2] = 0
  for form in ('PNG', 'WEBP'):
    buffer = io.BytesIO()
    layered = Image.fromarray(np.concatenate([picture, alpha], -1))
    layered.save(buffer, form, lossless=True, exact=True)
    np.testing.assert_array_equal(decoding.decode(buffer.getvalue()), picture)
  palette = saved(picture, 'PNG', 'P')
  clear = io.BytesIO()
  Image.open(io.BytesIO(palette)).save(clear, 'PNG', transparency=3)
  assert b'tRNS' in clear.getvalue()
  np.testing.assert_array_equal(
    decoding.decode(clear.getvalue()), decoding.decode(palette)
  )


@pytest.mark.parametrize('channels_there', [1, 3, 4])
def test_the_upper_half_of_16_bits_is_taken(channels_there):
  """Checks 16 bits against tf.io.decode_png; Pillow would clip grey images."""
  rng = np.random.default_rng(0)
  deep = rng.integers(0, 2**16, (9, 7, channels_there), dtype=np.uint16)
  _, encoded = cv2.imencode('.png', deep)
  got = decoding.decode(encoded.tobytes())
  want = (deep[..., :3] >> 8)[..., ::-1]
  np.testing.assert_array_equal(got, np.broadcast_to(want, (9, 7, 3)))


@pytest.mark.parametrize('form', ['BMP', 'GIF', 'WEBP'])
def test_other_formats(form, picture):
  """Checks that the bytes determine the format, even if the file has another suffix."""
  encoded = saved(picture, form, lossless=True)
  np.testing.assert_array_equal(decoding.decode(encoded), pillow(encoded))


def test_the_first_frame_of_an_animation_is_taken(picture):
  more = [Image.fromarray(picture[::-1])]
  for form in ('GIF', 'WEBP'):
    moving = saved(picture, form, save_all=True, append_images=more, lossless=True)
    np.testing.assert_array_equal(decoding.decode(moving), pillow(moving))


# Damage


HARMLESS = {
  'bytes after its end': lambda data, scan: data + b'\0\0junk',
  'bytes before its end': lambda data, scan: data[:-2] + b'\x12\x34' + data[-2:],
  'bytes in its header': lambda data, scan: data[:scan] + b'\0\0\0' + data[scan:],
}


@pytest.mark.parametrize('harm', HARMLESS)
@pytest.mark.parametrize('channels', [1, 3])
def test_files_with_warnings_of_libjpeg_are_decoded(harm, channels, picture):
  encoded = saved(picture, 'JPEG', quality=90)
  harmed = HARMLESS[harm](encoded, encoded.index(b'\xff\xda'))
  want = decoding.decode(encoded, channels)
  np.testing.assert_array_equal(decoding.decode(harmed, channels), want)


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('share', [0.2, 0.5, 0.9, 0.99, 1.0])
def test_a_cut_jpeg_is_not_decoded(share, progressive, picture):
  encoded = saved(picture, 'JPEG', quality=90, progressive=progressive)
  cut = encoded[: int(share * len(encoded)) - 2]  # of the whole, only the end marker
  with pytest.raises(ValueError, match='Premature end|not a complete'):
    decoding.decode(cut)
  # Followed by zeros, like a download that never finished.
  with pytest.raises(ValueError):
    decoding.decode(cut[: len(cut) // 2] + bytes(len(cut) // 2))


def test_a_jpeg_that_was_cut_and_closed_is_not_decoded(picture):
  encoded = saved(picture, 'JPEG', quality=90)
  scan = encoded.index(b'\xff\xda')
  closed = encoded[: (scan + len(encoded)) // 2] + b'\xff\xd9'
  with pytest.raises(ValueError, match='rows are missing at its end'):
    decoding.decode(closed)


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'BMP'])
def test_others_that_are_cut_are_not_decoded(form, picture):
  encoded = saved(picture, form, lossless=True)
  for size in (3, 20, len(encoded) // 2, len(encoded) - 8):
    with pytest.raises(ValueError):
      decoding.decode(encoded[:size])


def sized(encoded: bytes, height: int, width: int) -> bytes:
  """Returns a JPEG or PNG whose header states another size."""
  data = bytearray(encoded)
  if decoding.is_jpeg(encoded):
    place = encoded.index(b'\xff\xc0') + 5
    data[place : place + 4] = struct.pack('>HH', height, width)
  else:
    place = encoded.index(b'IHDR')
    data[place + 4 : place + 12] = struct.pack('>II', width, height)
    checksum = zlib.crc32(bytes(data[place : place + 17]))
    data[place + 17 : place + 21] = struct.pack('>I', checksum)
  return bytes(data)


@pytest.mark.parametrize('form', ['PNG', 'JPEG'])
@pytest.mark.parametrize('size', [(0, 80), (48, 0), (65_500, 65_500)])
def test_sizes_that_no_image_has(form, size, picture):
  with pytest.raises(ValueError) as error:
    decoding.decode(sized(saved(picture, form), *size))
  assert '/' not in str(error.value) and '\n' not in str(error.value)


FORMATS = {
  'PNG': dict(form='PNG'),
  'APNG': dict(form='PNG', save_all=True),
  'GIF': dict(form='GIF'),
  'BMP': dict(form='BMP'),
  'WebP': dict(form='WEBP'),
  'lossless WebP': dict(form='WEBP', lossless=True),
  'extended WebP': dict(form='WEBP', mode='RGBA'),
  'moving WebP': dict(form='WEBP', save_all=True),
  'TIFF': dict(form='TIFF'),
  'compressed TIFF': dict(form='TIFF', compression='tiff_lzw'),
  'big TIFF': dict(form='TIFF', big_tiff=True),
  'PPM': dict(form='PPM'),
  'JPEG 2000': dict(form='JPEG2000'),
  'AVIF': dict(form='AVIF'),
  'JPEG': dict(form='JPEG'),
}


@pytest.mark.parametrize('form', FORMATS)
def test_the_size_in_a_header(form, picture, monkeypatch):
  """Checks also that no more pixels are decoded than allowed, in any format."""
  more = [Image.fromarray(picture[::-1])]
  options = FORMATS[form]
  if 'save_all' in options:
    options = options | dict(append_images=more)
  encoded = saved(picture, **options)
  assert decoding.image_size(encoded) == (48, 80)
  monkeypatch.setattr(decoding, 'MOST_PIXELS', 48 * 80)
  assert decoding.decode(encoded).shape == (48, 80, 3)
  monkeypatch.setattr(decoding, 'MOST_PIXELS', 48 * 80 - 1)
  with pytest.raises(ValueError, match='48x80 pixels, more than the limit of 3,839'):
    decoding.decode(encoded)
  assert headers.size(encoded[:5]) is None


@pytest.mark.parametrize('extension', ['.hdr', '.pam', '.pfm', '.ras', '.pgm', '.pbm'])
def test_the_size_in_rare_headers(extension, picture):
  image = picture / np.float32(255) if extension in ('.hdr', '.pfm') else picture
  if extension in ('.pgm', '.pbm'):
    image = image[..., 0]
  encoded = cv2.imencode(extension, image)[1].tobytes()
  assert headers.size(encoded) == (48, 80)
  assert decoding.decode(encoded).shape == (48, 80, 3)


def test_a_small_file_of_gigabytes(picture):
  encoded = io.BytesIO()
  Image.new('1', (14_000, 14_000)).save(encoded, 'PNG')
  assert len(encoded.getvalue()) < 100_000
  with pytest.raises(
    ValueError, match='14000x14000 .* more than the limit of 178,956,970'
  ):
    decoding.decode(encoded.getvalue())


def test_a_jpeg_of_too_many_scans(picture, monkeypatch):
  encoded = saved(picture, 'JPEG', progressive=True)
  scans = encoded.count(b'\xff\xda')
  assert 5 < scans < 16
  monkeypatch.setattr(decoding, 'MOST_PASSES', scans * 48 * 80 - 1)
  with pytest.raises(ValueError, match='too many scans for 48x80 pixels'):
    decoding.decode(encoded)


@pytest.mark.parametrize('form', FORMATS)
def test_damage_only_raises_an_error(form, picture, capfd):
  """Checks that libraries print nothing themselves."""
  encoded, rng = saved(picture, **FORMATS[form]), np.random.default_rng(0)
  for i in range(30):
    damaged = bytearray(encoded)
    if i % 2:
      damaged[rng.integers(8, len(damaged))] ^= 1 << rng.integers(8)
    else:
      del damaged[rng.integers(8, len(damaged)) :]
    try:
      assert decoding.decode(bytes(damaged)).dtype == np.uint8
    except ValueError as error:
      assert '\n' not in str(error) and '/' not in str(error)
  assert capfd.readouterr() == ('', '')


def test_parts_of_a_png_that_pixels_do_not_need(picture, capfd):
  """Checks that such chunks may be damaged, or larger than the image."""
  encoded = saved(picture, 'PNG')
  junk = b'iCCP' + b'x\0\0' + b'no profile'
  chunk = struct.pack('>I', len(junk) - 4) + junk + bytes(4)
  place = encoded.index(b'IDAT') - 4
  more = encoded[:place] + chunk + encoded[place:] + b'behind its end'
  np.testing.assert_array_equal(decoding.decode(more), picture)
  assert capfd.readouterr() == ('', '')
  damaged = encoded.replace(b'IEND', b'IENE')
  with pytest.raises(ValueError, match='its end is missing'):
    decoding.decode(damaged)
  with pytest.raises(ValueError, match='its chunk IDAT is damaged'):
    decoding.decode(encoded[:-20] + bytes([encoded[-20] ^ 1]) + encoded[-19:])


def test_bytes_that_are_not_an_image():
  for junk in (b'', b'\xff\xd8\xff', b'<html>', bytes(5000), b'GIF89a'):
    with pytest.raises(ValueError):
      decoding.decode(junk)


# Reduced sizes


@pytest.mark.parametrize('factor', [2, 4, 8])
@pytest.mark.parametrize('channels', [1, 3])
def test_smaller_jpegs_are_means(factor, channels, picture):
  smooth = cv2.GaussianBlur(np.tile(picture, (3, 3, 1)), (0, 0), 4)[:99, :141]
  encoded = saved(smooth, 'JPEG', quality=95)
  got = decoding.decode(encoded, channels, factor=factor)
  height, width = -(-99 // factor), -(-141 // factor)
  assert got.shape == (height, width, channels)
  whole = decoding.decode(encoded, channels)[: height * factor, : width * factor]
  rows, columns = 99 // factor, 141 // factor
  whole = whole[: rows * factor, : columns * factor].astype(float)
  parts = whole.reshape(rows, factor, columns, factor, channels).mean((1, 3))
  assert np.abs(got[:rows, :columns] - parts).mean() < 1.5


def test_others_keep_their_size(picture):
  assert decoding.decode(saved(picture, 'PNG'), factor=4).shape == (48, 80, 3)


# Boxes


FORMS = {
  'shared colours': dict(subsampling='4:2:0'),
  'colours shared across': dict(subsampling='4:2:2'),
  'all colours': dict(subsampling='4:4:4'),
  'grey': dict(mode='L'),
  'progressive': dict(progressive=True),
  'what looks like a frame': dict(exif=b'Exif\0\0' + b'\xff\xc0' * 40),
}
# In 48 x 80: at each border, in each corner, in the middle, everything, one pixel.
BOXES = [
  (0, 0, 9, 80),
  (0, 0, 20, 30),
  (0, 63, 16, 17),
  (33, 0, 15, 16),
  (25, 41, 23, 39),
  (15, 15, 18, 34),
  (0, 0, 48, 80),
  (31, 32, 1, 1),
]


@pytest.mark.parametrize('box', BOXES)
@pytest.mark.parametrize('dct', decoding.DCT)
@pytest.mark.parametrize('form', FORMS)
def test_a_box_matches_the_whole_image(form, dct, box, picture):
  encoded = saved(picture, 'JPEG', quality=90, **FORMS[form])
  top, left, height, width = box
  whole = decoding.decode(encoded, dct=dct)
  got = decoding.decode_box(encoded, box, dct=dct)
  want = whole[top : top + height, left : left + width]
  np.testing.assert_array_equal(got, want)
  rows = len(got.base if got.base is not None else got)  # the number of decoded rows
  ends = top + height + decoding.REACH
  assert rows == (48 if form == 'progressive' else min(ends, 48))


@pytest.mark.parametrize('form', ['PNG', 'WEBP'])
def test_a_box_of_others(form, picture):
  encoded = saved(picture, form)
  got = decoding.decode_box(encoded, (5, 6, 7, 8), factor=2)  # only JPEGs support it
  np.testing.assert_array_equal(got, decoding.decode(encoded)[5:12, 6:14])


@pytest.mark.parametrize('restarts', [{}, dict(restart_marker_blocks=1)])
@pytest.mark.parametrize('factor', [2, 4, 8])
def test_a_box_of_a_small_copy(factor, restarts, picture):
  large = np.tile(picture, (3, 2, 1))[:139, :157]
  encoded = saved(large, 'JPEG', quality=90, **restarts)
  whole = decoding.decode(encoded, factor=factor)
  for box in [(0, 0, 50, 90), (53, 27, 61, 70), (12, 12, 20, 20), (100, 99, 39, 58)]:
    rows, columns = (
      slice(round(start / factor), round((start + size) / factor))
      for start, size in (box[::2], box[1::2])
    )
    got = decoding.decode_box(encoded, box, factor=factor)
    np.testing.assert_array_equal(got, whole[rows, columns])


def test_a_box_of_a_small_copy_with_few_colours(picture):
  options = dict(subsampling='4:2:2', restart_marker_blocks=1)
  encoded = saved(picture[:17, :20], 'JPEG', **options)
  got = decoding.decode_box(encoded, (1, 2, 11, 4), factor=4)
  np.testing.assert_array_equal(got, decoding.decode(encoded, factor=4)[0:3, 0:2])


def test_damage_below_a_box_is_seen_without_restart_markers(picture):
  encoded, box = saved(picture, 'JPEG', quality=90), (0, 0, 10, 80)
  with pytest.raises(ValueError, match='Premature end'):
    decoding.decode_box(encoded[:-40], box)
  # Damage that causes only a warning for the whole image does not affect its upper
  # rows.
  place = encoded.rindex(b'\xff\xd9')
  extra = encoded[:place] + bytes(20) + encoded[place:]
  whole = decoding.decode(extra)
  np.testing.assert_array_equal(decoding.decode_box(extra, box), whole[:10])
