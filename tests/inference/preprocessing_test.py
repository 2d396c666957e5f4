import dataclasses
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from big_vision_like import spec
from big_vision_like.data import benchmarks
from big_vision_like.data.sources import coco_classes
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError
from big_vision_like.inference import hub_json, preprocessing
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.tasks import set_detection
from big_vision_like.weights.families import bit, detr, regnet, resnet, vit

TIMM = dict(
  input_size=[3, 20, 20],
  mean=[0.5, 0.4, 0.3],
  std=[0.2, 0.25, 0.5],
  interpolation='bicubic',
  crop_pct=0.8,
  crop_mode='center',
)
TRANSFORMERS = dict(
  do_resize=True,
  size={'height': 20, 'width': 24},
  resample=2,
  do_rescale=True,
  rescale_factor=1 / 255,
  do_normalize=True,
  image_mean=[0.5, 0.4, 0.3],
  image_std=[0.2, 0.25, 0.5],
)


@pytest.fixture(scope='module')
def picture():
  """Returns a smooth colour image, 24 high and 40 wide, whose channels differ."""
  y, x = np.mgrid[0:24, 0:40]
  channels = [40 + 5 * x, 200 - 5 * y, 60 + 2 * x + 2 * y]
  return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(picture, mode='RGB', kind='PNG'):
  file = io.BytesIO()
  Image.fromarray(picture).convert(mode).save(file, kind)
  return file.getvalue()


def test_it_matches_evaluation(picture):
  squash = Preprocessing((8, 16))
  want = image.Resize((8, 16)).map({'image': picture})['image']
  np.testing.assert_array_equal(squash.sized(picture), want)
  np.testing.assert_allclose(squash(picture), want / 127.5 - 1, atol=1e-6)
  crop = Preprocessing((8, 8), resize=12, interpolation='area')
  example = image.ResizeSmall(12).map({'image': picture})
  want = image.CentralCrop(8).map(example)['image']
  np.testing.assert_array_equal(crop.sized(picture), want)
  both = Preprocessing((8, 8), resize=(12, 12))
  assert both.transforms == (image.Resize(12), image.CentralCrop(8))
  decode, *sized = crop.replaced([spec.spec(image.Decode)])
  assert decode.channels == 3
  assert [node.to_dict() for node in sized] == [
    {
      '_fn': f'{image.__name__}:ResizeSmall',
      'size': 12,
      'method': 'area',
      'rounding': 'nearest',
    },
    {'_fn': f'{image.__name__}:CentralCrop', 'size': 8, 'rounding': 'down'},
  ]


def test_mean_and_deviation_of_each_channel(picture):
  mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
  own = Preprocessing((24, 40), mean=mean, std=std)
  got = own.batch([picture, picture[::-1]])
  assert got.dtype == np.float32 and got.shape == (2, 24, 40, 3)
  np.testing.assert_allclose(got[0], (picture / 255 - mean) / std, atol=1e-6)
  np.testing.assert_array_equal(got[1], own(picture[::-1]))


def test_pictures_of_all_kinds(picture, tmp_path):
  same = Preprocessing((24, 40))
  (tmp_path / 'a.png').write_bytes(encoded(picture))
  rgba = np.concatenate([picture, np.full((24, 40, 1), 9, np.uint8)], axis=-1)
  for kind in (
    tmp_path / 'a.png',
    str(tmp_path / 'a.png'),
    encoded(picture),
    encoded(picture, 'RGBA'),
    Image.fromarray(picture),
    rgba,
  ):
    np.testing.assert_array_equal(same.sized(kind), picture)
  cmyk = same.sized(encoded(picture, 'CMYK', 'JPEG'))
  assert np.abs(cmyk.astype(int) - picture).max() < 12
  grey = np.asarray(Image.fromarray(picture).convert('L'))
  for kind in (grey, grey[..., None], encoded(picture, 'L')):
    np.testing.assert_array_equal(same.sized(kind), np.stack([grey] * 3, axis=-1))
  one = Preprocessing((24, 40), mean=(0.5,), std=(0.5,))
  for kind in (grey, picture, Image.fromarray(picture)):
    np.testing.assert_array_equal(one.sized(kind), grey[..., None])


MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'I;16B', 'P clear')


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('channels', [1, 3])
def test_a_picture_read_from_a_path_matches_pillow(mode, channels, picture, tmp_path):
  """Checks files and PIL images with transparency, inks, palettes and 16 bits."""
  grey = np.asarray(Image.fromarray(picture).convert('L'))
  path, options = tmp_path / 'a.png', {}
  if mode.startswith('I;16'):
    deep = (grey.astype(np.uint16) * 257).astype('>u2' if mode == 'I;16B' else '<u2')
    made = Image.frombytes(mode, (40, 24), deep.tobytes())
  elif mode == 'P clear':
    made, options = Image.fromarray(picture).convert('P'), dict(transparency=3)
  else:
    made = Image.fromarray(picture).convert(mode)
  if mode in ('CMYK', 'I;16B'):
    path = path.with_suffix('.tif')
  else:
    options['exif'] = Image.Exif()
    options['exif'][0x0112] = 6  # a rotated orientation
  made.save(path, **options)
  one = preprocessing.decoded(path, channels).astype(int)
  assert one.shape == (24, 40, channels)
  for other in (Image.open(io.BytesIO(path.read_bytes())), path.read_bytes(), made):
    got = preprocessing.decoded(other, channels)
    assert got.dtype == np.uint8 and np.abs(got - one).max() <= (channels == 1)
  if mode.startswith('I;16'):
    np.testing.assert_array_equal(one, np.stack([grey] * channels, axis=-1))
    got = preprocessing.decoded(np.asarray(made), channels)
    np.testing.assert_array_equal(got, one)


@pytest.mark.parametrize('mode', ['La', 'PA', 'RGBa', 'RGBX', 'YCbCr', 'HSV', 'I', 'F'])
def test_pictures_that_only_pillow_has(mode, picture):
  made = Image.fromarray(picture)
  if mode == 'La':
    made = made.convert('LA')
  made = made.convert(mode)
  got = preprocessing.decoded(made).astype(int)
  grey = np.stack([np.asarray(Image.fromarray(picture).convert('L'))] * 3, -1)
  want = grey if mode in ('La', 'I', 'F') else picture
  assert np.abs(got - want).mean() < (20 if mode == 'PA' else 2)


@pytest.mark.parametrize(
  'wrong, told',
  [
    (Image.new('F', (4, 4), 0.5), 'mode F with values from 0.5 to 0.5 does not def'),
    (Image.new('I', (4, 4), -1), 'mode I with values from -1 to -1 does not define'),
    (Image.new('I', (4, 4), 70_000), 'mode I with values from 70000 to 70000 does not'),
    (Image.new('LAB', (4, 4)), 'its colours are CIELAB: convert it to RGB'),
    (np.full((4, 4), 200, np.uint16), 'the largest value is 200, which makes it black'),
    (np.zeros((4, 4, 3), bool), r'not ndarray bool \(4, 4, 3\)'),
    (None, 'not NoneType'),
    ([[1, 2], [3]], 'not list'),
  ],
)
def test_pictures_without_a_white(wrong, told):
  with pytest.raises(UserError, match=told):
    preprocessing.decoded(wrong)


def test_sixteen_bits_in_a_mode_of_32(picture):
  deep = picture[..., 0].astype(np.int32) * 257
  got = preprocessing.decoded(Image.fromarray(deep), 1)
  np.testing.assert_array_equal(got, picture[..., :1])


def test_weights_of_four_channels(picture, tmp_path):
  rgba = np.dstack([picture, picture[::-1, :, 0]])
  path = tmp_path / 'a.png'
  Image.fromarray(rgba).save(path)
  own = Preprocessing((24, 40), mean=(0.5,) * 4, std=(0.5,) * 4)
  for kind in (path, path.read_bytes(), Image.fromarray(rgba), rgba):
    np.testing.assert_array_equal(own.sized(kind), rgba)
  deep = cv2.imencode('.png', cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA).astype('u2') << 8)
  np.testing.assert_array_equal(own.sized(deep[1].tobytes()), rgba)
  path.write_bytes(encoded(picture, 'LA'))
  with Image.open(path) as opened:
    np.testing.assert_array_equal(own.sized(opened), own.sized(path))
  told = 'a.png is not a readable JPEG, PNG or WebP: it is not RGBA'
  for mode, kind in (('RGB', 'PNG'), ('CMYK', 'JPEG'), ('P', 'PNG')):
    path.write_bytes(encoded(picture, mode, kind))
    with pytest.raises(UserError, match=told):
      own(path)
    with pytest.raises(UserError, match=f'it is not RGBA.*, but {mode}'):
      own(Image.fromarray(picture).convert(mode))
  with pytest.raises(
    UserError, match=r'images of 4 channels, the picture is \(24, 40,'
  ):
    own(picture)
  five = Preprocessing((24, 40), mean=(0.5,) * 5, std=(0.5,) * 5)
  with pytest.raises(UserError, match=r'of 5 channels: give uint8 arrays \(H, W, 5\)'):
    five(path)
  many = np.dstack([picture, picture[..., :2]])
  np.testing.assert_array_equal(five.sized(many), many)


def test_damaged_pictures(picture, tmp_path):
  path = tmp_path / 'a.png'
  path.write_bytes(encoded(picture)[:-40])
  told = 'a.png is not a readable JPEG, PNG or WebP: its end is missing'
  with pytest.raises(UserError, match=told):
    preprocessing.decoded(path)
  with Image.open(path) as opened:
    with pytest.raises(UserError, match='the picture is not a readable JPEG, PNG or'):
      preprocessing.decoded(opened)
  with pytest.raises(UserError, match='cannot be read: Is a directory'):
    preprocessing.decoded(tmp_path)
  with pytest.raises(UserError, match='cannot be read: embedded null'):
    preprocessing.decoded('a\0b')


def test_objects_that_are_not_pictures(tmp_path):
  own = Preprocessing((8, 8))
  (tmp_path / 'a.jpg').write_bytes(b'no image')
  with pytest.raises(UserError, match=r'a\.jpg is not a readable JPEG, PNG or WebP'):
    own(tmp_path / 'a.jpg')
  with pytest.raises(UserError, match=r'b\.jpg cannot be read: No such file'):
    own(str(tmp_path / 'b.jpg'))
  with pytest.raises(UserError, match=r'not ndarray float64 \(8, 8, 3\)'):
    own(np.zeros((8, 8, 3)))
  for shape in ((8, 8, 5), (0, 8, 3)):
    with pytest.raises(UserError, match='C 1 to 4, not ndarray uint8'):
      own(np.zeros(shape, np.uint8))


def test_top_names_classes():
  named = Preprocessing((8, 8), label_names=('cat', 'dog'))
  logits = np.log([0.1, 0.7, 0.2])
  best = named.top(logits, k=2)
  assert [name for name, _ in best] == ['dog', '2']
  np.testing.assert_allclose([score for _, score in best], [0.7, 0.2])
  yes = dataclasses.replace(named, scores='sigmoid').top(np.array([0.0, -2000.0]))
  assert yes == [('cat', 0.5), ('dog', 0.0)]
  with pytest.raises(UserError, match=r'of one image, not \(1, 3\)'):
    named.top(logits[None])


@pytest.mark.parametrize(
  'resize, want', [('squash', 'squash'), (256, 512), ((250, 300), (500, 600))]
)
def test_another_size_keeps_the_share_of_the_crop(resize, want):
  twice = Preprocessing((224, 224), resize=resize).with_size(448)
  assert (twice.size, twice.resize) == ((448, 448), want)


def test_as_plain_data():
  own = Preprocessing((8, 9), resize=(10, 12), label_names=('a',), scores='sigmoid')
  assert Preprocessing.from_json(json.loads(json.dumps(own.to_json()))) == own
  with pytest.raises(UserError, match='unexpected'):
    Preprocessing.from_json({'sise': 8})


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(interpolation='cubic'), "method='cubic' is not one of"),
    (dict(mean=(0.5,)), 'one value per channel'),
    (dict(std=(0.5, 0.0, 0.5)), 'std not 0'),
    (dict(scores='logits'), "scores='logits' is not one of softmax, sigmoid"),
  ],
)
def test_wrong_fields(fields, message):
  with pytest.raises(UserError, match=message):
    Preprocessing((8, 8), **fields)


def test_from_timm():
  names = dict(label_names=['n1', 'n2'], label_descriptions={'n1': 'cat'})
  found = hub_json.from_timm(names | {'pretrained_cfg': TIMM})
  assert (found.size, found.resize) == ((20, 20), 25)
  assert found.interpolation == 'pillow_bicubic'
  assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
  assert found.label_names == ('cat', 'n2')
  squash = TIMM | dict(crop_mode='squash')
  assert hub_json.from_timm({'pretrained_cfg': squash}).resize == (25, 25)
  whole = squash | dict(crop_pct=1.0, input_size=[3, 20, 24])
  found = hub_json.from_timm({'pretrained_cfg': whole})
  assert (found.size, found.resize) == ((20, 24), 'squash')


def test_from_transformers():
  config = {'id2label': {str(i): name for i, name in enumerate('abcdefghijk')}}
  found = hub_json.from_transformers(TRANSFORMERS, config)
  assert (found.size, found.resize) == ((20, 24), 'squash')
  assert found.interpolation == 'pillow_bilinear'
  assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
  assert found.label_names == tuple('abcdefghijk')
  crop = dict(size={'shortest_edge': 25}, do_center_crop=True, crop_size=20)
  config = {'id2label': {'0': 'LABEL_0'}}  # not a real name
  found = hub_json.from_transformers(TRANSFORMERS | crop, config)
  assert (found.size, found.resize, found.label_names) == ((20, 20), 25, ())
  plain = hub_json.from_transformers(TRANSFORMERS | dict(do_normalize=False), {})
  assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
  'told, resize, size',
  [
    (dict(size=224, feature_extractor_type='ConvNextFeatureExtractor'), 256, 224),
    (dict(size={'shortest_edge': 224}, crop_pct=0.95), 235, 224),
    (dict(size={'shortest_edge': 288}, crop_pct=None), 329, 288),
    (dict(size={'shortest_edge': 384}, crop_pct=0.95), 'squash', 384),
  ],
)
def test_the_processor_of_convnexts_and_regnets_crops(told, resize, size):
  if 'feature_extractor_type' not in told:
    told = told | dict(image_processor_type='ConvNextImageProcessor')
  found = hub_json.from_transformers(TRANSFORMERS | told, {})
  assert (found.resize, found.size) == (resize, (size, size))
  for share in (2, 1e-9):
    with pytest.raises(UserError, match=f'crop_pct={share} of 96 pixels is invalid'):
      hub_json.from_transformers(
        TRANSFORMERS | told | dict(size=96, crop_pct=share), {}
      )


@pytest.mark.parametrize('resize', ['squash', 256, 257, 333, (250, 250)])
def test_descriptions_for_timm_and_transformers_round_trip(resize):
  own = Preprocessing(
    (224, 224),
    resize=resize,
    interpolation='pillow_bicubic',
    mean=(0.4, 0.5, 0.6),
    std=(0.1, 0.2, 0.3),
  )
  timm = {'pretrained_cfg': hub_json.to_timm(own)}
  transformers = json.loads(json.dumps(hub_json.to_transformers(own)))
  for back in (
    hub_json.from_timm(timm),
    hub_json.from_transformers(transformers, {}),
  ):
    # Neither library stores the rounding of sizes: each has its own rule.
    assert dataclasses.replace(back, source='', rounding=own.rounding) == own
    assert back.rounding != own.rounding
  with pytest.raises(UserError, match='timm only takes square crops of square'):
    hub_json.to_timm(dataclasses.replace(own, resize=(250, 260)))


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(rescale_factor=1.0), 'not scaled to'),
    (dict(do_resize=False), 'do_resize is false'),
    (dict(size={'shortest_edge': 20}), 'a shortest edge of 20 without a crop'),
    (dict(size={'longest_edge': 20}), "lacks or misstates 'size'.*height and width"),
    (dict(resample=9), 'resample=9 is not a kernel of Pillow'),
  ],
)
def test_unsupported_options_of_transformers(change, message):
  with pytest.raises(UserError, match=message):
    hub_json.from_transformers(TRANSFORMERS | change, {})


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(crop_mode='border'), "crop_mode='border'"),
    (dict(interpolation='random'), "interpolation 'random'"),
    (dict(input_size=[3, 20, 24]), 'central crops of 20x24 are not square'),
    (dict(input_size=[3, 20, 24], crop_pct=1.0), 'central crops of 20x24 are not'),
    (dict(crop_pct=None), 'lacks or misstates'),
    (dict(crop_pct=0), 'lacks or misstates'),
  ],
)
def test_unsupported_options_of_timm(change, message):
  with pytest.raises(UserError, match=message):
    hub_json.from_timm({'pretrained_cfg': TIMM | change})


@pytest.mark.parametrize(
  'name, size',
  [
    ('ViT-B_16', 224),
    ('BiT-M-R50x1', 224),
    ('BiT-M-R50x1-ILSVRC2012', 384),
    ('BiT-M-R152x4-ILSVRC2012', 480),
    ('BiT-M-R50x1-run1-dtd', 384),
    ('R50x1_160', 160),
    ('R152x2_T_384', 384),
  ],
)
def test_sizes_that_only_names_tell(name, size):
  assert bit.size_by_name(name) == size
  found = vit.FAMILY.images({}, name, None, 5)
  assert (found.size, found.resize, found.mean) == ((size, size), 'squash', (0.5,) * 3)


def test_precedence_of_descriptions():
  beside = {'config.json': {'pretrained_cfg': TIMM}}
  assert vit.FAMILY.images(beside, 'm', None, 5).resize == 25
  beside['preprocessor_config.json'] = TRANSFORMERS
  assert vit.FAMILY.images(beside, 'm', None, 5).size == (20, 24)
  ours = Preprocessing((7, 7), label_names=tuple('abcde'))
  beside['m.json'] = {'preprocessing': ours.to_json()}
  assert vit.FAMILY.images(beside, 'm', None, 5) == ours
  google = vit.FAMILY.images({}, 'm', (32, 16), 21_843, channels=1)
  assert (google.size, google.mean, google.scores) == ((32, 16), (0.5,), 'sigmoid')
  assert google.label_names == ()


def test_names_of_imagenet():
  """Checks the order of WordNet's numbers, used by every source of 1,000 classes.

  Class 0 is the tench, n01440764.
  """
  names = vit.FAMILY.images({}, 'm', None, 1000).label_names
  assert len(names) == 1000 and names[0] == 'n01440764' and list(names) == sorted(names)


# Pictures for detectors


def of_evaluation(name, encoded_image):
  """Returns a picture with one object as evaluation transforms it."""
  data = benchmarks.DETECTION[name].eval_input(1)
  box, label = np.float32([[0.1, 0.1, 0.5, 0.5]]), np.int64([0])
  objects = {'bbox': box, 'label': label, 'is_crowd': np.array([False])}
  objects['area'] = np.float32([9])
  example = {'image': encoded_image, 'image/id': 7, 'objects': objects}
  for node in data['transforms']:
    example = spec.build(node.to_dict(), 'transforms').map(example)
  return example


@pytest.mark.parametrize('shape', [(24, 40), (40, 24), (24, 24), (10, 40)])
def test_detectors_get_the_images_of_evaluation(shape, picture):
  padded = ((800, 1088), (800, 1344), (1088, 800), (1344, 800))
  own = DetectionPreprocessing(800, 1333, shapes=padded)
  file = encoded(np.resize(picture, (*shape, 3)))
  want, got = of_evaluation('coco', file), own.sized(file)
  for name in ('image', 'size', 'original_size'):
    np.testing.assert_array_equal(got[name], want[name])
    assert got[name].dtype == want[name].dtype
  batch = {name: want[name][None] for name in ('image', 'size')}
  task = set_detection.Detection(model=None, optimizer=None)
  image_1HWC, size_12 = task.model_inputs(batch)
  prepared = own(file)
  np.testing.assert_array_equal(prepared.image_HWC, image_1HWC[0])
  np.testing.assert_array_equal(prepared.size, size_12[0])
  # Without `shapes` the picture is not padded.
  alone = DetectionPreprocessing(800, 1333)(file).image_HWC
  height, width = want['size']
  np.testing.assert_array_equal(alone, image_1HWC[0, :height, :width])


def test_detectors_of_pictures_that_are_not_resized(picture):
  file = encoded(np.resize(picture, (48, 48, 3)))
  own = DetectionPreprocessing(shapes=((48, 48),))
  want = of_evaluation('scenes_simple', file)['image']
  np.testing.assert_array_equal(own.sized(file)['image'], want)
  small = own.sized(picture)  # 24x40 fits without resizing
  np.testing.assert_array_equal(small['image'][:24, :40], picture)
  assert small['size'].tolist() == [24, 40] and not small['image'][24:].any()
  large = own.sized(np.resize(picture, (96, 60, 3)))
  assert large['size'].tolist() == [48, 30] and large['image'].shape == (48, 48, 3)
  assert large['original_size'].tolist() == [96, 60]
  squashed = DetectionPreprocessing(size=(48, 48)).sized(picture)
  assert squashed['image'].shape == (48, 48, 3)
  assert squashed['size'].tolist() == [48, 48]
  with pytest.raises(UserError, match='picture of 1x5000 is too narrow'):
    DetectionPreprocessing(800, 1333).size_of(1, 5000)


def test_objects_are_in_pixels_of_the_picture():
  own = DetectionPreprocessing(800, 1333, label_names=('cat',))
  p_BQC = [[[0.2, 0.1, 0.7], [0.05, 0.8, 0.15], [0.9, 0.05, 0.05], [0.7, 0.1, 0.2]]]
  boxes_BQ4 = [[[0.5] * 4, [0.5, 0.5, 0.2, 0.4], [0.1, 0.5, 0.3, 1.0], [0.5] * 4]]
  outputs = {'logits': np.log(p_BQC) + 3, 'boxes': np.array(boxes_BQ4)}
  first, second = own.objects(outputs, (200, 100))
  assert (first.name, first.label, first.query) == ('cat', 0, 2)
  assert (second.name, second.label, second.query) == ('1', 1, 1)
  np.testing.assert_allclose([first.score, second.score], [0.9, 0.8])
  np.testing.assert_allclose(first.box, (-5, 0, 25, 200))
  np.testing.assert_allclose(second.box, (40, 60, 60, 140))
  assert len(own.objects(outputs, (200, 100), threshold=0.6)) == 3
  both = {name: np.repeat(array, 2, axis=0) for name, array in outputs.items()}
  with pytest.raises(UserError, match='the outputs for one picture, not for 2'):
    own.objects(both, (200, 100))


def test_another_size_of_pictures_to_find_objects_in():
  own = DetectionPreprocessing(800, 1333, shapes=((800, 1344),))
  smaller = own.with_size(400)
  assert (smaller.short, smaller.longest, smaller.shapes) == (400, 666, ())
  assert DetectionPreprocessing().with_size(400).short == 400
  assert DetectionPreprocessing(size=(48, 60)).with_size(96).size == (96, 120)
  with pytest.raises(UserError, match=r'instead of \(400, 600\) give one number'):
    own.with_size((400, 600))


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(short=0), 'short=0.*are not positive'),
    (dict(shapes=((8, -8),)), r'shapes=\(\(8, -8\),\) are not positive'),
    (dict(short=8, size=(8, 8)), 'give one of them'),
    (dict(std=(0.0,) * 3), 'std not 0'),
  ],
)
def test_invalid_detection_preprocessing(fields, message):
  with pytest.raises(UserError, match=message):
    DetectionPreprocessing(**fields)


def test_preprocessing_of_published_detectors():
  def read(num_classes=91, **metadata):
    files = {name.replace('_json', '.json'): v for name, v in metadata.items()}
    return detr.FAMILY.images(files, 'a', None, num_classes)

  plain = read()
  assert (plain.short, plain.longest, plain.shapes) == (800, 1333, ())
  assert plain.num_things is None and len(plain.label_names) == 91
  assert [plain.name(i) for i in (1, 10, 12, 13, 17, 90)] == (
    ['person', 'traffic light', '12', 'stop sign', 'cat', 'toothbrush']
  )
  stuff = read(250)
  assert stuff.num_things == 91 and stuff.name(112) == 'door-stuff'
  assert stuff.name(200) == 'rug-merged' and stuff.name(249) == '249'
  assert read(3).name(1) == '1'
  own = dataclasses.replace(stuff, short=64, shapes=((64, 96),))
  written = {'preprocessing': json.loads(json.dumps(own.to_json()))}
  assert read(250, a_json=written) == own
  first = {'size': 480, 'max_size': 640, 'image_mean': [0.5] * 3}
  now = {'size': {'shortest_edge': 480, 'longest_edge': 640}, 'resample': 2}
  names = {'id2label': {'0': 'ox', '1': 'ass', '2': 'sheep'}}
  for told in (first, now):
    got = read(3, preprocessor_config_json=told, config_json=names)
    assert (got.short, got.longest, got.name(0)) == (480, 640, 'ox')
  assert got.std == plain.std and got.mean == plain.mean
  for told, message in (
    ({'size': {'height': 8, 'width': 8}}, 'does not give a shorter side'),
    (now | {'resample': 3}, 'resample=3: .* bilinearly'),
    (now | {'do_rescale': False}, 'pixels are not scaled'),
  ):
    with pytest.raises(UserError, match=message):
      read(preprocessor_config_json=told)


def test_cocos_names_are_as_many_as_its_ids():
  assert len(coco_classes.NAMES) == 80 + 53
  assert (
    list(coco_classes.NAMES)[:3] == [1, 2, 3]
    and coco_classes.NAMES[11] == 'fire hydrant'
  )
  assert coco_classes.NAMES[92] == 'banner' and coco_classes.NAMES[184] == 'tree-merged'


def test_preprocessing_of_published_resnets():
  own = resnet.FAMILY.images({}, 'resnet50', None, 1000)
  assert (own.size, own.resize, own.mean) == ((224, 224), 256, (0.485, 0.456, 0.406))
  assert own.interpolation == 'pillow_bilinear' and len(own.label_names) == 1000


def test_preprocessing_of_the_teacher_of_deit():
  own = regnet.FAMILY.images({}, 'regnety_160-a5fe301d', None, 1000)
  assert (own.size, own.resize, own.mean) == ((224, 224), 256, (0.485, 0.456, 0.406))
  assert own.interpolation == 'pillow_bicubic' and len(own.label_names) == 1000


NUMBERS = [None, 'x', True, -1.0, 0, [], [0.5], [0.5, 0.5, 'x'], [1e9] * 3, [True] * 3]
SIZES = [
  True,
  0,
  -24,
  10**9,
  2.5,
  '24',
  [],
  [24],
  {'height': 24},
  {'height': 8, 'width': 0},
]
BAD = {
  **{('image_std', i): x for i, x in enumerate([*NUMBERS, [0.0] * 3, [-1.0] * 3])},
  **{('image_mean', i): x for i, x in enumerate(NUMBERS) if x != 0},
  ('image_mean', 'number'): 0.5,
  **{('size', i): x for i, x in enumerate(SIZES)},
  **{('resample', i): x for i, x in enumerate(['2', 2.0, True, -1, 9, [2]])},
  **{('rescale_factor', i): x for i, x in enumerate(['1', 0, True, [], 1.0])},
  **{('do_resize', i): x for i, x in enumerate([None, 1, 'yes', False])},
  **{('do_center_crop', i): x for i, x in enumerate([1, 'yes', True])},
  ('crop_size', 0): -1,
  **{('crop_pct', i): x for i, x in enumerate(['1', 0, True, -0.5])},
}


@pytest.mark.parametrize('name, case', BAD)
def test_descriptions_by_transformers_are_checked(name, case):
  told = {'preprocessor_config.json': TRANSFORMERS | {name: BAD[name, case]}}
  with pytest.raises(UserError, match=r'preprocessor_config\.json'):
    vit.FAMILY.images(told, 'm', None, 5)


def test_flags_that_are_null_are_not_set():
  null = dict(do_center_crop=None, crop_size=None, do_normalize=None)
  found = hub_json.from_transformers(TRANSFORMERS | null, {})
  assert (found.resize, found.mean) == ('squash', (0.0,) * 3)


@pytest.mark.parametrize(
  'name, value',
  [
    *(('std', x) for x in (*NUMBERS, [0.5, 0.5, 0.0]) if x != [0.5]),
    *(('mean', x) for x in ('x', True, [], [0.5] * 2, [1e9] * 3, 1e300, -0.1)),
    *(('input_size', x) for x in (3, [3, 24], [3, 0, 24], [3, 24, 10**9], [3, 2.0, 2])),
    *(('crop_pct', x) for x in ('1', True, -1, 1e-9, 1e300, [1])),
    *(('crop_mode', x) for x in (3, ['center'], True)),
    *(('interpolation', x) for x in (3, None, ['bicubic'])),
    *(('label_names', x) for x in ('abcde', [1] * 5, ['a'] * 4, {'0': 'a'})),
    *(('label_descriptions', x) for x in ('a', {'a': 1}, [1] * 5)),
  ],
)
def test_descriptions_by_timm_are_checked(name, value):
  names = dict(label_names=list('abcde'))
  told = {'config.json': {'pretrained_cfg': TIMM | names | {name: value}}}
  with pytest.raises(UserError, match=r"^timm's config\.json"):
    vit.FAMILY.images(told, 'm', None, 5)


OF_FAMILY = {'vit': TRANSFORMERS, 'detr': TRANSFORMERS | {'size': 480}}


@pytest.mark.parametrize(
  'names',
  [
    {'0': 'a', '2': 'b'},
    {'0': 'a', '00': 'b'},
    {'0': 'a', 'one': 'b'},
    {'0': 'a', '-1': 'b'},
    {'0': 'a', '1_0': 'b'},
    {'0': 'a', '1': None},
    {'1': 'a', '2': 'b'},
    ['a', 'b'],
    {'0': 'a'},
    {'0': 'a', '1': 'b', '2': 'c'},
  ],
)
def test_names_of_classes_are_by_number_and_as_many(names):
  told = {'preprocessor_config.json': TRANSFORMERS, 'config.json': {'id2label': names}}
  for family in (vit.FAMILY, detr.FAMILY):
    told['preprocessor_config.json'] = OF_FAMILY[family.name]
    with pytest.raises(UserError, match='id2label|name . classes'):
      family.images(told, 'm', None, 2)
  whole = {'preprocessor_config.json': TRANSFORMERS}
  whole['config.json'] = {'id2label': {'1': 'b', '0': 'a'}}
  assert vit.FAMILY.images(whole, 'm', None, 2).label_names == ('a', 'b')
  assert vit.FAMILY.images(whole, 'm', None, 0).label_names == ()


@pytest.mark.parametrize('family', [vit.FAMILY, detr.FAMILY], ids=['vit', 'detr'])
@pytest.mark.parametrize(
  'change',
  [
    *({'std': x} for x in NUMBERS),
    *({'mean': x} for x in ('x', [True] * 3, [0.5] * 4)),
    *({'label_names': x} for x in ('abc', [1, 2], ['a'] * 4, None)),
    *({'size': x} for x in (24, [24], [24, 0], [24, 10**9], [True, True])),
    {'rounding': 3},
    {'scores': ['softmax']},
    {'source': 3},
    {'colour': 1},
  ],
)
def test_descriptions_by_our_writer_are_checked(family, change):
  kind = Preprocessing((8, 8)) if family is vit.FAMILY else DetectionPreprocessing(64)
  told = {'w.json': {'preprocessing': kind.to_json() | change}}
  with pytest.raises(UserError, match='preprocessing|channels|name 4'):
    family.images(told, 'm', None, 5)


def test_images_have_the_channels_of_weights():
  told = {'preprocessor_config.json': TRANSFORMERS}
  words = 'preprocessor_config.json: its mean is for 3 channels, but the weights take 1'
  with pytest.raises(UserError, match=words):
    vit.FAMILY.images(told, 'm', None, 5, channels=1)
