import pickle

import cv2
import numpy as np
import pytest

from big_vision_like.data.transforms import cropping, decoding, image
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.spec import build, spec


@pytest.fixture(scope='module')
def picture():
  """Returns a smooth colour image, 24 high and 40 wide, whose channels differ."""
  y, x = np.mgrid[0:24, 0:40]
  channels = [40 + 5 * x, 200 - 5 * y, 60 + 2 * x + 2 * y]
  return np.stack(channels, axis=-1).astype(np.uint8)


def encode(picture, extension, *options) -> bytes:
  bgr = picture[..., ::-1] if picture.shape[-1] == 3 else picture
  done, buffer = cv2.imencode(extension, bgr, list(options))
  assert done
  return buffer.tobytes()


def decode(encoded, channels=3, **more):
  return image.Decode(channels).map({'image': encoded, **more})['image']


ENCODINGS = {
  'png': ('.png',),
  'webp': ('.webp', cv2.IMWRITE_WEBP_QUALITY, 101),  # above 100 is lossless
  'jpeg': ('.jpg', cv2.IMWRITE_JPEG_QUALITY, 98),
}


@pytest.mark.parametrize('name', ENCODINGS)
def test_decode_gives_rgb(name, picture):
  got = decode(encode(picture, *ENCODINGS[name]))
  assert got.shape == (24, 40, 3) and got.dtype == np.uint8
  difference = np.abs(got.astype(int) - picture)
  assert difference.max() <= (8 if name == 'jpeg' else 0)


@pytest.mark.parametrize('name', ENCODINGS)
def test_decode_to_grey(name, picture):
  got = decode(encode(picture, *ENCODINGS[name]), channels=1)
  assert got.shape == (24, 40, 1) and got.dtype == np.uint8
  luma = picture @ np.array([0.299, 0.587, 0.114])
  assert np.abs(got[..., 0] - luma).max() <= 3


@pytest.mark.parametrize('name', ['png', 'jpeg'])
@pytest.mark.parametrize('channels', [1, 3])
def test_grey_files(name, channels, picture):
  grey = picture[..., :1]
  got = decode(encode(grey, *ENCODINGS[name]), channels)
  assert got.shape == (24, 40, channels)
  tolerance = 3 if name == 'jpeg' else 0
  assert np.abs(got.astype(int) - grey).max() <= tolerance


def test_decode_keeps_other_features(picture):
  example = {'image': encode(picture, '.png'), 'label': 3, 'id': 5}
  got = image.Decode().map(example)
  assert (got['label'], got['id']) == (3, 5)
  assert isinstance(example['image'], bytes)


@pytest.mark.parametrize('name', ENCODINGS)
@pytest.mark.parametrize('damage', ['cut', 'head', 'empty', 'junk'])
def test_corrupt_bytes_are_named(name, damage, picture):
  encoded = encode(picture, *ENCODINGS[name])
  broken = {
    'cut': encoded[: len(encoded) // 2],
    'head': encoded[:20],
    'empty': b'',
    'junk': b'not an image',
  }[damage]
  with pytest.raises(BadRecordError) as error:
    decode(broken, id=4711)
  assert 'the example with id 4711 cannot be decoded' in str(error.value)
  assert f'({len(broken)} bytes' in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('channels', [2, 4])
def test_a_number_of_channels_that_no_image_has_is_refused(channels):
  with pytest.raises(UserError, match=f'channels={channels}'):
    image.Decode(channels)
  with pytest.raises(UserError, match=f'channels={channels}'):
    image.DecodeCrop(image.InceptionCrop(8), channels)


def test_the_fast_transform_is_a_choice(picture):
  encoded = encode(picture, '.jpg')
  accurate, fast = (
    image.Decode(dct=dct).map({'image': encoded})['image'] for dct in decoding.DCT
  )
  np.testing.assert_array_equal(accurate, decode(encoded))
  difference = np.abs(fast.astype(int) - accurate)
  assert 0 < difference.max() <= 8
  with pytest.raises(UserError, match="dct='slow' is not one of accurate, fast"):
    image.Decode(dct='slow')


# Resize


@pytest.mark.parametrize('method', ['nearest', 'bilinear', 'bicubic', 'area'])
@pytest.mark.parametrize('channels', [1, 3])
def test_resize_squeezes_to_a_square(method, channels, picture):
  example = {'image': picture[..., :channels], 'label': 2}
  got = image.Resize(12, method).map(example)
  assert got['image'].shape == (12, 12, channels) and got['image'].dtype == np.uint8
  assert got['label'] == 2
  corners = got['image'][[0, -1], [0, -1], 0].astype(int)
  np.testing.assert_allclose(corners, [45, 225], atol=12)


def test_resize_to_the_same_size_changes_nothing(picture):
  square = picture[:24, :24]
  got = image.Resize(24).map({'image': square})['image']
  np.testing.assert_array_equal(got, square)


def test_bilinear_does_not_average_and_area_does():
  stripes = np.zeros((8, 8, 1), np.uint8)
  stripes[:, ::4] = 255  # every fourth column
  bilinear, area = (
    image.Resize(2, method).map({'image': stripes})['image']
    for method in ('bilinear', 'area')
  )
  np.testing.assert_array_equal(bilinear, 0)  # takes columns 1, 2 and 5, 6
  np.testing.assert_array_equal(area, 64)


# RandomAffine


class Drawn:
  """A generator that returns given numbers: angle, zoom, dx, dy in -1 to 1."""

  def __init__(self, *numbers):
    self._numbers = numbers

  def uniform(self, low, high, size):
    assert (low, high, size) == (-1.0, 1.0, len(self._numbers))
    return np.array(self._numbers)


def moved(picture, rng, **options):
  return image.RandomAffine(**options).random_map({'image': picture}, rng)['image']


@pytest.mark.parametrize('channels', [1, 3])
def test_affine_without_changes_is_the_identity(channels, picture):
  given = picture[..., :channels]
  got = moved(given, np.random.default_rng(0))
  np.testing.assert_array_equal(got, given)


def test_affine_shifts_by_shares_of_the_side(picture):
  got = moved(picture, Drawn(0.0, 0.0, 0.5, -1.0), shift=0.25, fill=7)
  right, up = 5, 6  # half of a quarter of 40; a quarter of 24
  np.testing.assert_array_equal(got[:-up, right:], picture[up:, :-right])
  assert (got[:, :right] == 7).all() and (got[-up:] == 7).all()


def test_affine_rotates_about_the_centre(picture):
  square = picture[:, :24]
  got = moved(square, Drawn(1.0, 0.0, 0.0, 0.0), rotate=90.0)
  assert np.abs(got.astype(int) - np.rot90(square)).max() <= 1


def test_affine_scales_about_the_centre():
  spot = np.zeros((9, 9, 1), np.uint8)
  spot[3:6, 3:6] = 255
  larger = moved(spot, Drawn(0.0, 1.0, 0.0, 0.0), scale=0.5)
  smaller = moved(spot, Drawn(0.0, -1.0, 0.0, 0.0), scale=0.5)
  assert smaller.sum() < spot.sum() < larger.sum()
  np.testing.assert_array_equal(larger, larger[::-1, ::-1])
  assert larger[4, 4] == smaller[4, 4] == 255


def test_affine_draws_from_the_generator_it_is_given(picture):
  options = dict(rotate=20.0, scale=0.2, shift=0.2)
  first, again, other = (
    moved(picture, np.random.default_rng(seed), **options) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  assert first.shape == picture.shape and first.dtype == np.uint8


# Crops


def ramp(height: int, width: int) -> np.ndarray:
  """Returns pixels that encode their row, their column and a constant."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack([rows, columns, np.full_like(rows, 7)], -1).astype(np.uint8)


CROPS = [image.InceptionCrop, image.EfficientNetCrop, image.RandomResizedCrop]


@pytest.mark.parametrize('transform', CROPS)
def test_crops_resize_their_box_alone(transform):
  crop = transform(size=8, area=(0.18, 0.22), aspect=(1.0, 1.0))
  out = crop.random_map({'image': ramp(40, 40)}, np.random.default_rng(1))['image']
  assert out.shape == (8, 8, 3) and (out[..., 2] == 7).all()
  assert 9 < np.ptp(out[..., 0]) < 19  # rows of the box, not of the image
  again = pickle.loads(pickle.dumps(crop))
  same = again.random_map({'image': ramp(40, 40)}, np.random.default_rng(1))['image']
  np.testing.assert_array_equal(same, out)


def test_crops_without_a_box_that_fits():
  rng = np.random.default_rng(0)
  impossible = dict(size=4, area=(1.0, 1.0), aspect=(8.0, 8.0))
  assert image.InceptionCrop(**impossible).box(10, 10, rng) == (0, 0, 10, 10)
  # 4 / 36 of 90 is 10.
  assert image.EfficientNetCrop(**impossible).box(90, 91, rng) == (40, 41, 10, 10)
  # The widest box that is as flat as requested.
  assert image.RandomResizedCrop(**impossible).box(10, 10, rng) == (4, 0, 1, 10)


def test_a_full_efficientnet_box_becomes_a_central_crop():
  crop = image.EfficientNetCrop(size=224, area=(1.0, 1.0), aspect=(1.0, 1.0))
  rng = np.random.default_rng(0)
  assert crop.box(256, 256, rng) == cropping.efficientnet_box(256, 256, 224)
  assert cropping.efficientnet_box(256, 256, 224) == (16, 16, 224, 224)


# Decoding and cropping in one step


@pytest.fixture(scope='module')
def large():
  """Returns a JPEG of 200 x 300 with waves of a dozen pixels."""
  y, x = np.mgrid[0:200, 0:300]
  waves = [np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)]
  return encode((128 + 100 * np.stack(waves, -1)).astype(np.uint8), '.jpg')


@pytest.mark.parametrize('transform', CROPS)
def test_decode_crop_without_scaling_is_both_bit_by_bit(transform, large, picture):
  restarts = encode(decode(large)[:, :288], '.jpg', cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
  for encoded in (large, restarts, encode(picture, '.png')):
    example = {'image': encoded, 'id': 3}
    for seed in range(20):
      crop = transform(size=16)
      decoded = image.Decode().map(example)
      want = crop.random_map(decoded, np.random.default_rng(seed))
      fused = image.DecodeCrop(crop)
      got = fused.random_map(example, np.random.default_rng(seed))
      np.testing.assert_array_equal(got['image'], want['image'])
      assert got['id'] == 3


@pytest.mark.parametrize('method', ['area', 'pillow_bilinear', 'pillow_bicubic'])
@pytest.mark.parametrize('channels', [1, 3])
def test_decode_crop_is_near_to_both(method, channels, large):
  crop = image.RandomResizedCrop(size=16, method=method)
  fused = image.DecodeCrop(crop, channels, margin=2.0)
  full, factors = decode(large, channels), set()
  for seed in range(20):
    got = fused.random_map({'image': large}, np.random.default_rng(seed))['image']
    box = crop.box(200, 300, np.random.default_rng(seed))
    factor = fused._factor(box)
    factors.add(factor)
    rows, columns = (
      slice(*(factor * round(x / factor) for x in (start, start + size)))
      for start, size in (box[::2], box[1::2])
    )
    want = image.resized(full[rows, columns], 16, 16, method)
    assert got.shape == want.shape == (16, 16, channels)
    assert np.abs(got.astype(int) - want).mean() < 2.5  # waves have amplitude 100
  assert factors == {2, 4}


def test_decode_crop_divides_its_box(large):
  crop = image.RandomResizedCrop(size=16, area=(1.0, 1.0), aspect=(1.5, 1.5))
  rng = np.random.default_rng(0)
  got = image.DecodeCrop(crop, margin=1.0).random_map({'image': large}, rng)['image']
  small = decoding.decode(large, factor=8)
  assert small.shape == (25, 38, 3)  # of 200 and 300, rounded up
  want = image.resized(small[:, :38], 16, 16, 'pillow_bicubic')
  np.testing.assert_array_equal(got, want)


def test_decode_crop_names_files_that_it_cannot_decode(large):
  fused = image.DecodeCrop(image.InceptionCrop(16))
  with pytest.raises(BadRecordError, match=r'id 7 cannot be decoded \(9 bytes'):
    fused.random_map({'image': b'not a jpg', 'id': 7}, np.random.default_rng(0))
  with pytest.raises(BadRecordError, match='id 7 .*Premature end'):
    fused.random_map({'image': large[:-50], 'id': 7}, np.random.default_rng(0))
  with pytest.raises(UserError, match='margin=0.5 is below 1'):
    image.DecodeCrop(image.InceptionCrop(16), margin=0.5)


def test_decode_crop_in_a_config(large):
  config = spec(
    image.DecodeCrop, crop=spec(image.RandomResizedCrop, size=16), margin=1.5
  )
  fused = build(config)
  assert fused == image.DecodeCrop(image.RandomResizedCrop(16), margin=1.5)
  got = pickle.loads(pickle.dumps(fused)).random_map(
    {'image': large}, np.random.default_rng(0)
  )
  assert got['image'].shape == (16, 16, 3)


def test_flip_turns_half_of_the_images():
  rng = np.random.default_rng(0)
  before = ramp(3, 5)
  flips = 0
  for _ in range(200):
    after = image.Flip().random_map({'image': before}, rng)['image']
    flipped = (after[0, 0] != before[0, 0]).any()
    np.testing.assert_array_equal(after, before[:, ::-1] if flipped else before)
    flips += flipped
  assert 75 < flips < 125


@pytest.mark.parametrize('height, width', [(20, 31), (31, 20), (7, 7), (100, 3)])
def test_resize_small_keeps_the_aspect(height, width):
  out = image.ResizeSmall(size=10).map({'image': ramp(height, width)})['image']
  scale = 10 / min(height, width)
  assert min(out.shape[:2]) == 10
  assert abs(out.shape[0] - height * scale) <= 0.5 + 1e-9
  assert abs(out.shape[1] - width * scale) <= 0.5 + 1e-9


@pytest.mark.parametrize(
  'rounding, size, height, width, want',
  [
    # 387 * (448 / 384) is half a pixel too much, but less in float32.
    ('nearest', 448, 384, 387, (448, 451)),
    ('nearest', 10, 20, 31, (10, 16)),
    ('down', 10, 20, 31, (10, 15)),
    ('down', 256, 375, 500, (256, 341)),
    ('nearest', 256, 375, 500, (256, 341)),
    ('down', 7, 500, 333, (10, 7)),
  ],
)
def test_the_longer_side_is_rounded(rounding, size, height, width, want):
  picture = np.zeros((height, width, 3), np.uint8)
  got = image.ResizeSmall(size, rounding=rounding).map({'image': picture})['image']
  assert got.shape[:2] == want
  turned = picture.transpose(1, 0, 2)
  got = image.ResizeSmall(size, rounding=rounding).map({'image': turned})['image']
  assert got.shape[:2] == want[::-1]


@pytest.mark.parametrize(
  'rounding, places', [('down', (2, 3)), ('nearest', (2, 4)), ('up', (3, 4))]
)
def test_the_middle_of_an_odd_number_is_rounded(rounding, places):
  out = image.CentralCrop(4, rounding).map({'image': ramp(9, 11)})['image']
  assert tuple(out[0, 0, :2]) == places


def test_an_unknown_rounding_is_named():
  with pytest.raises(UserError, match="rounding='up' is not one of nearest, down$"):
    image.ResizeSmall(8, rounding='up')
  with pytest.raises(UserError, match="rounding='half' is not one of nearest, down, "):
    image.CentralCrop(8, rounding='half')


def test_the_central_crop_of_efficientnet():
  got = image.EfficientNetCentralCrop(size=32, method='nearest').map(
    {'image': ramp(64, 75)}
  )['image']
  assert got.shape == (32, 32, 3)
  assert tuple(got[0, 0, :2]) == (16, 22)  # half of 64 - 32 and of 75 - 32, rounded up
  np.testing.assert_array_equal(got, ramp(64, 75)[16:48, 22:54])


@pytest.mark.parametrize('channels', [1, 3])
def test_reflect_pad_does_not_repeat_the_border(channels):
  picture = ramp(5, 6)[..., :channels]
  got = image.ReflectPad(size=2).map({'image': picture})['image']
  want = np.pad(picture, [(2, 2), (2, 2), (0, 0)], mode='reflect')
  np.testing.assert_array_equal(got, want)


def test_zero_pad_is_black_on_all_sides():
  got = image.ZeroPad(size=2).map({'image': ramp(5, 6), 'id': 3})
  assert got['image'].shape == (9, 10, 3) and got['id'] == 3
  np.testing.assert_array_equal(got['image'][2:-2, 2:-2], ramp(5, 6))
  assert got['image'].sum() == ramp(5, 6).sum()


def test_central_crop_is_the_middle():
  out = image.CentralCrop(size=4).map({'image': ramp(8, 11)})['image']
  np.testing.assert_array_equal(out, ramp(8, 11)[2:6, 3:7])
  with pytest.raises(UserError, match=r'image of 3x11 \(id 5\): resize first'):
    image.CentralCrop(size=4).map({'image': ramp(3, 11), 'id': 5})


@pytest.mark.parametrize('method', ['nearest', 'bilinear', 'bicubic', 'area'])
def test_crops_are_interpolated_as_asked(method):
  stripes = np.zeros((8, 8, 1), np.uint8)
  stripes[:, ::4] = 255
  whole = dict(area=(1.0, 1.0), aspect=(1.0, 1.0), method=method)
  got = image.InceptionCrop(size=2, **whole).random_map(
    {'image': stripes}, np.random.default_rng(0)
  )['image']
  small = image.ResizeSmall(size=2, method=method).map({'image': stripes})['image']
  want = image.Resize(2, method).map({'image': stripes})['image']
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(small, want)


@pytest.mark.parametrize(
  'transform', [*CROPS, image.Resize, image.ResizeSmall, image.EfficientNetCentralCrop]
)
def test_an_unknown_method_is_named(transform):
  with pytest.raises(UserError, match="method='cubic' is not one of nearest, bilinear"):
    transform(size=8, method='cubic')


def test_sizes_of_the_hyperrule_are_the_papers_unless_given():
  assert image.bit_sizes(96, 96) == (448, 384)


def test_random_crop_takes_every_place():
  crop, rng = image.RandomCrop(size=3), np.random.default_rng(0)
  places = set()
  for _ in range(200):
    out = crop.random_map({'image': ramp(5, 4)}, rng)['image']
    top, left, _ = out[0, 0].tolist()
    np.testing.assert_array_equal(out, ramp(5, 4)[top : top + 3, left : left + 3])
    places.add((top, left))
  assert places == {(top, left) for top in range(3) for left in range(2)}
  with pytest.raises(UserError, match=r'image of 5x2 \(id 6\): resize first'):
    crop.random_map({'image': ramp(5, 2), 'id': 6}, rng)


def test_brighten_makes_ones_white():
  binary = np.array([[[0], [1]]], np.uint8)
  out = image.Brighten().map({'image': binary})['image']
  assert out.dtype == np.uint8 and out.ravel().tolist() == [0, 255]
  out = image.Brighten(factor=3).map({'image': np.uint8([[[50, 90]]])})['image']
  assert out.ravel().tolist() == [150, 255]


def test_sizes_that_are_not_square(picture):
  got = image.Resize((8, 20)).map({'image': picture})['image']
  assert got.shape == (8, 20, 3)
  got = image.CentralCrop((8, 20)).map({'image': picture})['image']
  np.testing.assert_array_equal(got, picture[8:16, 10:30])
  with pytest.raises(UserError, match=r'CentralCrop\(size=\(8, 41\)\) cannot .* 24x40'):
    image.CentralCrop((8, 41)).map({'image': picture})


def test_an_undecodable_image_is_named_by_its_file():
  example = {'image': b'', 'file': b'cats/7.jpg', '__key__': b'7', 'id': 3}
  with pytest.raises(BadRecordError, match='with id cats/7.jpg cannot be decoded'):
    image.Decode().map(example)
