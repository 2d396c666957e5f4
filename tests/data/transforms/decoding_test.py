"""Bytes of all kinds against Pillow; TensorFlow makes the same of them, by hand."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from big_vision_like.data.transforms import decoding


@pytest.fixture(scope='module')
def picture():
  """Colours, 48 high and 80 wide, that differ between channels and neighbours."""
  y, x = np.mgrid[0:48, 0:80]
  waves = [np.sin(x / 4 + y / 9), np.cos(y / 5), np.sin((x - y) / 7)]
  return (120 + 110 * np.stack(waves, -1)).astype(np.uint8)


def saved(picture: np.ndarray, form: str, mode: str = 'RGB', **options) -> bytes:
  """What Pillow writes of an RGB picture in that mode."""
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
def test_jpegs_are_those_of_pillow(options, dct, picture):
  encoded = saved(picture, 'JPEG', quality=90, **options)
  got = decoding.decode(encoded, dct=dct)
  limit = 0 if dct == 'accurate' else 8
  assert np.abs(got.astype(int) - pillow(encoded)).max() <= limit


def with_black(picture: np.ndarray) -> np.ndarray:
  """CMYK, uint8 (H, W, 4), of which black is what the inks have in common."""
  ink = 255 - picture
  black = ink.min(-1, keepdims=True)
  return np.concatenate([ink - black, black], axis=-1)


@pytest.mark.parametrize('kind', ['cmyk', 'ycck'])
@pytest.mark.parametrize('channels', [1, 3])
def test_four_inks_of_a_jpeg(kind, channels, picture):
  """ImageNet has some. Adobe writes them inverted, as Pillow and libjpeg do."""
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


@pytest.mark.parametrize('mode', ['P', 'L', 'LA', 'RGB', 'RGBA', '1'])
@pytest.mark.parametrize('channels', [1, 3])
def test_pngs_are_those_of_pillow(mode, channels, picture):
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
  """As tf.io.decode_png has it; Pillow would clip the grey one."""
  rng = np.random.default_rng(0)
  deep = rng.integers(0, 2**16, (9, 7, channels_there), dtype=np.uint16)
  _, encoded = cv2.imencode('.png', deep)
  got = decoding.decode(encoded.tobytes())
  want = (deep[..., :3] >> 8)[..., ::-1]
  np.testing.assert_array_equal(got, np.broadcast_to(want, (9, 7, 3)))


@pytest.mark.parametrize('form', ['BMP', 'GIF', 'WEBP'])
def test_other_formats(form, picture):
  """Also in files of another name: the bytes tell."""
  encoded = saved(picture, form, lossless=True)
  np.testing.assert_array_equal(decoding.decode(encoded), pillow(encoded))


def test_of_moving_pictures_the_first_is_taken(picture):
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
def test_what_libjpeg_warns_of_is_decoded(harm, channels, picture):
  encoded = saved(picture, 'JPEG', quality=90)
  harmed = HARMLESS[harm](encoded, encoded.index(b'\xff\xda'))
  want = decoding.decode(encoded, channels)
  np.testing.assert_array_equal(decoding.decode(harmed, channels), want)


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('share', [0.2, 0.5, 0.9, 0.99, 1.0])
def test_a_cut_jpeg_is_not_decoded(share, progressive, picture):
  encoded = saved(picture, 'JPEG', quality=90, progressive=progressive)
  cut = encoded[: int(share * len(encoded)) - 2]  # of the whole, its end alone
  with pytest.raises(ValueError, match='Premature end|not a whole'):
    decoding.decode(cut)
  # Zeros, as of a download that never ended.
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
  """A JPEG or PNG whose header says another size."""
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


def test_what_is_no_image():
  for junk in (b'', b'\xff\xd8\xff', b'<html>', bytes(5000), b'GIF89a'):
    with pytest.raises(ValueError):
      decoding.decode(junk)


# Smaller


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


@pytest.mark.parametrize('rows', [1, 9, 16, 25, 31, 40, 48])
@pytest.mark.parametrize('dct', decoding.DCT)
@pytest.mark.parametrize(
  'options',
  [
    dict(subsampling='4:2:0'),
    dict(subsampling='4:2:2'),
    dict(subsampling='4:4:4'),
    dict(mode='L'),
    dict(progressive=True),
    dict(restart_marker_rows=1),
    dict(exif=b'Exif\0\0' + b'\xff\xc0' * 40),  # looks like a frame
  ],
)
def test_upper_rows_are_those_of_the_whole(options, dct, rows, picture):
  encoded = saved(picture, 'JPEG', quality=90, **options)
  whole, got = decoding.decode(encoded, dct=dct), None
  got = decoding.decode(encoded, dct=dct, rows=rows)
  np.testing.assert_array_equal(got[:rows], whole[:rows])
  one_pass = not {'progressive', 'restart_marker_rows'} & options.keys()
  assert (len(got) < 48) == (one_pass and rows + 16 < 48)


def test_upper_rows_of_a_small_copy(picture):
  encoded = saved(picture, 'JPEG', quality=90)
  whole = decoding.decode(encoded, factor=2)
  got = decoding.decode(encoded, factor=2, rows=20)
  assert got.shape[1:] == (40, 3) and len(got) < 24
  np.testing.assert_array_equal(got[:10], whole[:10])


def test_damage_below_the_upper_rows_is_seen(picture):
  encoded = saved(picture, 'JPEG', quality=90)
  with pytest.raises(ValueError, match='Premature end'):
    decoding.decode(encoded[:-40], rows=10)
  # What is only a warning of the whole is none of its upper rows.
  place = encoded.rindex(b'\xff\xd9')
  extra = encoded[:place] + bytes(20) + encoded[place:]
  whole = decoding.decode(extra)
  np.testing.assert_array_equal(decoding.decode(extra, rows=10)[:10], whole[:10])
