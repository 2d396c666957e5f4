import numpy as np
import pytest
from PIL import Image

from big_vision_like.data.transforms import resizing
from big_vision_like.errors import UserError

# Results of TensorFlow 2.21 for numpy.random.default_rng(0).integers(0, 256, (7, 9)),
# rounded and clipped: tf.compat.v1.image.resize_nearest_neighbor and resize_bicubic for
# 'nearest' and 'tf1_bicubic', tf.image.resize for the others, with antialias=True for
# those of Pillow, whose lanczos is TensorFlow's 'lanczos3'. Keys are method, height and
# width.
TENSORFLOW = {
  ('nearest', 4, 5): [
    '95 130 217 235 163',
    '215 217 248 16 184',
    '19 182 59 59 222',
    '89 170 127 237 113',
  ],
  ('pillow_nearest', 4, 5): [
    '95 194 207 15 33',
    '205 169 125 29 66',
    '120 50 78 64 121',
    '76 69 130 95 192',
  ],
  ('bilinear', 4, 5): [
    '149 182 200 59 133',
    '145 134 110 32 133',
    '116 77 69 59 136',
    '113 133 148 135 135',
  ],
  ('area', 4, 5): [
    '156 188 193 87 142',
    '142 113 80 61 147',
    '113 108 89 85 133',
    '117 143 169 152 130',
  ],
  ('tf1_bicubic', 4, 5): [
    '95 181 210 142 154',
    '231 163 145 0 228',
    '55 31 75 37 189',
    '83 218 141 221 103',
  ],
  ('pillow_bilinear', 4, 5): [
    '158 183 187 93 138',
    '144 118 84 76 146',
    '112 116 95 97 129',
    '120 144 167 144 128',
  ],
  ('pillow_bicubic', 4, 5): [
    '158 193 200 87 142',
    '147 113 69 68 157',
    '109 116 87 93 131',
    '120 148 180 150 123',
  ],
  ('pillow_lanczos', 4, 5): [
    '158 198 208 84 144',
    '149 112 56 67 166',
    '103 120 82 96 129',
    '123 149 189 149 119',
  ],
  ('nearest', 5, 11): [
    '95 95 130 194 217 207 207 235 15 163 33',
    '215 215 217 130 248 189 189 16 69 184 232',
    '205 205 78 169 61 125 125 10 29 240 66',
    '120 120 122 50 208 78 78 28 64 166 121',
    '89 89 170 233 127 178 178 237 128 113 123',
  ],
  ('pillow_nearest', 5, 11): [
    '95 130 194 194 217 207 235 15 15 163 33',
    '205 78 169 169 61 125 10 29 29 240 66',
    '19 182 39 39 59 4 59 81 81 222 44',
    '120 122 50 50 208 78 28 64 64 166 121',
    '76 155 69 69 154 130 248 95 95 73 192',
  ],
  ('bilinear', 5, 11): [
    '119 140 166 196 220 203 193 86 90 141 73',
    '209 154 144 147 138 151 38 33 123 194 132',
    '19 138 104 46 49 4 49 73 145 173 44',
    '108 132 131 142 165 118 113 98 115 139 122',
    '79 136 127 119 147 140 226 154 92 108 178',
  ],
  ('area', 5, 11): [
    '129 149 166 192 223 202 176 78 92 151 90',
    '209 154 146 149 142 152 28 35 122 198 137',
    '60 137 103 66 75 32 46 63 136 181 58',
    '107 135 135 143 167 121 118 100 114 139 122',
    '80 142 135 126 146 144 234 151 96 104 172',
  ],
  ('tf1_bicubic', 5, 11): [
    '95 119 171 212 216 210 245 55 91 134 21',
    '237 178 146 161 188 156 0 14 148 220 189',
    '42 156 108 44 31 18 49 52 182 182 19',
    '125 128 87 146 196 95 63 61 121 152 125',
    '79 152 159 139 137 165 255 156 77 110 173',
  ],
  ('pillow_bilinear', 5, 11): [
    '135 152 166 193 223 201 169 80 95 151 99',
    '209 159 146 149 146 153 38 34 123 195 140',
    '71 130 104 73 78 39 44 60 135 173 62',
    '106 133 137 146 163 122 121 103 115 137 122',
    '80 138 140 131 145 146 226 156 97 109 169',
  ],
  ('pillow_bicubic', 5, 11): [
    '129 154 166 196 236 205 184 68 86 159 97',
    '219 158 144 148 143 153 22 14 130 212 141',
    '58 134 98 55 70 24 33 45 147 190 43',
    '104 135 137 148 171 122 119 98 115 141 120',
    '75 144 146 129 142 149 251 164 81 102 176',
  ],
  ('pillow_lanczos', 5, 11): [
    '127 159 165 198 247 208 192 62 82 164 101',
    '224 163 143 149 144 155 25 0 142 215 142',
    '53 128 92 44 67 16 30 29 159 189 28',
    '102 138 139 152 177 124 119 97 116 142 121',
    '72 142 158 129 135 154 255 178 64 107 178',
  ],
}
# Pillow rounds and clips the rows before it resizes the columns.
LIMITS = {'pillow_bicubic': 4, 'pillow_lanczos': 8, 'nearest': 0, 'pillow_nearest': 0}


@pytest.mark.parametrize('method, height, width', TENSORFLOW)
def test_methods_match_tensorflow(method, height, width):
  image = np.random.default_rng(0).integers(0, 256, (7, 9, 1), dtype=np.uint8)
  rows = TENSORFLOW[method, height, width]
  want = np.array([row.split() for row in rows]).astype(int)
  got = resizing.resized(image, height, width, method)[..., 0]
  limit = LIMITS[method] if method in LIMITS else 1
  assert np.abs(got - want).max() <= limit


def legacy_cubic(image_HWC, height, width):
  """Returns the result of TensorFlow 1's formula, weights rounded to 1/1024 pixel."""

  def matrix(size, new_size):
    source = np.arange(new_size) * size / new_size
    base = np.floor(source)
    share = np.round((source - base) * 1024) / 1024
    weights = np.zeros((new_size, size))
    for tap in range(-1, 3):
      x = np.abs(share - tap)
      near = 1.25 * x**3 - 2.25 * x**2 + 1
      far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
      column = np.clip(base + tap, 0, size - 1).astype(int)
      np.add.at(weights, (np.arange(new_size), column), np.where(x <= 1, near, far))
    return weights

  rows, columns = matrix(len(image_HWC), height), matrix(image_HWC.shape[1], width)
  return np.einsum('Hh,Ww,hwC->HWC', rows, columns, image_HWC)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('size', [(20, 31), (8, 9), (60, 80), (11, 55)])
def test_legacy_bicubic_is_its_formula(size, channels):
  image = np.random.default_rng(1).integers(0, 256, (24, 40, channels), dtype=np.uint8)
  want = np.clip(np.round(legacy_cubic(image, *size)), 0, 255)
  got = resizing.resized(image, *size, 'tf1_bicubic')
  assert got.shape == (*size, channels) and got.dtype == np.uint8
  assert np.abs(got - want).max() <= 1


@pytest.mark.parametrize('size', [(8, 50), (50, 9), (24, 9), (70, 90), (7, 9)])
def test_area_averages_areas(size):
  """Checks also one side that grows while the other shrinks."""
  image = np.random.default_rng(2).integers(0, 256, (24, 40, 3), dtype=np.uint8)

  def matrix(size, new_size):
    first = np.arange(new_size)[:, None] * size / new_size
    last = first + size / new_size
    pixel = np.arange(size)[None, :]
    part = np.clip(np.minimum(last, pixel + 1) - np.maximum(first, pixel), 0, None)
    return part / (size / new_size)

  rows, columns = matrix(24, size[0]), matrix(40, size[1])
  want = np.einsum('Hh,Ww,hwC->HWC', rows, columns, image)
  got = resizing.resized(image, *size, 'area')
  assert np.abs(got - want).max() < 1.25  # rounded twice where one side grows


@pytest.mark.parametrize('method', resizing.METHODS)
@pytest.mark.parametrize('channels', [1, 3])
def test_all_methods(method, channels):
  image = np.full((10, 14, channels), 77, np.uint8)
  image[..., -1] = 200
  for size in [(5, 7), (20, 9), (10, 14)]:
    got = resizing.resized(image[:, ::1], *size, method)
    want = np.broadcast_to(image[0, 0], (*size, channels))
    np.testing.assert_array_equal(got, want)
  part = np.random.default_rng(0).integers(0, 256, (20, 30, channels), dtype=np.uint8)
  cut = part[3:13, 5:19]
  np.testing.assert_array_equal(resizing.resized(cut, 10, 14, method), cut)
  np.testing.assert_array_equal(
    resizing.resized(cut, 6, 6, method), resizing.resized(cut.copy(), 6, 6, method)
  )


@pytest.mark.parametrize('method', resizing.PILLOW)
def test_methods_of_pillow_are_pillow(method):
  image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
  kernel = Image.Resampling[method.removeprefix('pillow_').upper()]
  want = np.asarray(Image.fromarray(image).resize((12, 9), kernel))
  np.testing.assert_array_equal(resizing.resized(image, 9, 12, method), want)


def test_an_unknown_method_is_named():
  with pytest.raises(
    UserError, match="method='cubic' is not one of nearest, .*tf1_bic"
  ):
    resizing.check_method('cubic')
