import io
import shutil

import numpy as np
import pytest
from PIL import Image

from big_vision_like.data.prepare import restarts
from big_vision_like.data.transforms import decoding, jpeg
from big_vision_like.errors import BadRecordError, UserError

needs_jpegtran = pytest.mark.skipif(
  shutil.which('jpegtran') is None, reason='jpegtran (libjpeg-turbo) is not installed'
)


@pytest.fixture(scope='module')
def picture():
  """Returns noise, 60 high and 200 wide."""
  return np.random.default_rng(0).integers(0, 256, (60, 200, 3)).astype(np.uint8)


def saved(picture: np.ndarray, mode: str = 'RGB', **options) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(picture).convert(mode).save(buffer, 'JPEG', quality=80, **options)
  return buffer.getvalue()


@pytest.mark.parametrize(
  'width, mcu, want',
  [
    (500, 16, 4),  # of 32 MCUs
    (1000, 16, 3),  # of 63
    (2000, 16, 5),  # of 125
    (333, 16, 3),  # of 21
    (341, 16, 2),  # of 22
    (490, 16, 1),  # of 31
    (500, 8, 9),  # of 63
    (375, 8, 47),  # of 47
    (64, 8, 8),
    (20, 16, 2),
    (1, 16, 1),
  ],
)
def test_rows_are_split_evenly_about_every_64_pixels(width, mcu, want):
  assert restarts.interval(width, mcu) == want


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('quality', [75, 97])
def test_encodes_as_pillow_does(channels, quality, picture):
  pixels = picture if channels == 3 else picture[..., :1]
  encoded = restarts.encode(pixels, quality)
  header = jpeg.read_header(encoded)
  assert header.mcu == ((16, 16) if channels == 3 else (8, 8))
  assert (header.columns, header.interval) == ((13, 13) if channels == 3 else (25, 5))
  buffer = io.BytesIO()
  plain = Image.fromarray(pixels.squeeze())
  plain.save(buffer, 'JPEG', quality=quality)
  want = decoding.decode(buffer.getvalue(), channels)
  np.testing.assert_array_equal(decoding.decode(encoded, channels), want)


@needs_jpegtran
@pytest.mark.parametrize(
  'options',
  [
    dict(subsampling='4:2:0'),
    dict(subsampling='4:4:4'),
    dict(progressive=True),
    dict(mode='L'),
    dict(mode='CMYK'),
    dict(exif=b'Exif\0\0 and so on'),
    dict(restart_marker_blocks=2),  # a row has 13 blocks
  ],
)
def test_markers_are_inserted_without_a_change(options, picture):
  encoded = saved(picture, **options)
  assert not jpeg.read_header(encoded).cuttable
  got = restarts.insert(encoded, index=0)
  assert jpeg.read_header(got).cuttable
  np.testing.assert_array_equal(decoding.decode(got), decoding.decode(encoded))
  for dct in decoding.DCT:
    box = decoding.decode_box(got, (20, 70, 10, 20), dct=dct)
    want = decoding.decode(encoded, dct=dct)[20:30, 70:90]
    np.testing.assert_array_equal(box, want)
  assert restarts.insert(got, index=0) is got
  if 'exif' in options:
    assert options['exif'] in got


def test_other_files_stay_unchanged(picture):
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, 'PNG')
  there = saved(picture, restart_marker_rows=1)
  for encoded in (buffer.getvalue(), there, b'\xff\xd8\xff no header'):
    assert restarts.insert(encoded, index=0) is encoded


def program(folder, monkeypatch, script: str) -> None:
  """Replaces jpegtran by a script, the only program on the path."""
  file = folder / 'jpegtran'
  file.write_text(f'#!/bin/sh\n{script}\n')
  file.chmod(0o755)
  monkeypatch.setenv('PATH', f'{folder}:/bin:/usr/bin')


@pytest.mark.parametrize('script', ['cat {other}', 'cat {same}; exit 2', 'exit 1'])
def test_what_jpegtran_changes_or_complains_of_stays(
  script, picture, tmp_path, monkeypatch
):
  encoded = saved(picture)
  (tmp_path / 'same').write_bytes(encoded)
  (tmp_path / 'other').write_bytes(saved(255 - picture))
  files = {name: tmp_path / name for name in ('same', 'other')}
  program(tmp_path, monkeypatch, script.format(**files))
  restarts.check()
  assert restarts.insert(encoded, index=0) is encoded
  with pytest.raises(BadRecordError, match='id 7 cannot be decoded'):
    restarts.insert(encoded[:-100], index=7)


def test_a_missing_jpegtran_is_reported(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='jpegtran, .*libjpeg-turbo-progs'):
    restarts.check()
