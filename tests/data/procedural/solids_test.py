import collections
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import solids
from big_vision_like.data.sources import fake
from big_vision_like.data.transforms import decoding

SMALL = solids.View(48, 64)
MIDDLE = solids.View(48, 48, solids.MIDDLE)
TINY = solids.SolidsConfig(
  name='tiny', view=SMALL, splits={'train': (3, 10), 'crowded': (2, 5)}, seed=4
)
COUNT = 40


@pytest.fixture(scope='module', params=[SMALL, MIDDLE], ids=['frame', 'middle'])
def scenes(request):
  view = request.param
  return view, [solids.draw(0, 'train', i, view, (3, 6)) for i in range(COUNT)]


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  tfds.disable_progress_bar()
  folder = tmp_path_factory.mktemp('solids')
  made = solids.Solids(data_dir=folder, config=TINY)
  made.download_and_prepare(file_format='array_record')
  return made


def pixels_of(example):
  count = len(example['objects'])
  return np.bincount(example['segmentation'].ravel(), minlength=count + 1)[1:]


# Geometry


def inside(solid, points_N3):
  """Returns bool (N,) by the equations of a cube, a sphere and a cylinder."""
  x, y, z = (points_N3 - [solid.x, solid.y, 0]).T
  radius = {'small': 0.35, 'large': 0.7}[solid.size]
  if solid.shape == 'sphere':
    return x**2 + y**2 + (z - radius) ** 2 < radius**2
  stands = (z > 0) & (z < 2 * radius)
  if solid.shape == 'cylinder':
    return stands & (x**2 + y**2 < radius**2)
  turned = (x + 1j * y) * np.exp(-1j * np.deg2rad(solid.rotation))
  return stands & (np.abs(turned.real) < radius) & (np.abs(turned.imag) < radius)


def first_met(view, eye_3, scene):
  """Returns the ids of `cast`, found by small steps along the rays."""
  forward = -solids.EYE_3 / np.linalg.norm(solids.EYE_3)
  right = np.cross(forward, [0, 0, 1])
  right /= np.linalg.norm(right)
  up = np.cross(right, forward)
  top, left, height, width = view.window
  rows = top + (np.arange(view.height) + 0.5) * height / view.height
  columns = left + (np.arange(view.width) + 0.5) * width / view.width
  rays = forward + (columns[None, :, None] - 160) / 350 * right
  rays = rays - (rows[:, None, None] - 120) / 350 * up
  ids = np.zeros(rays.shape[:2], np.uint8)
  for step in np.arange(5, 22, 0.02):
    points = (eye_3 + step * rays).reshape(-1, 3)
    for i, solid in enumerate(scene, start=1):
      ids[(ids == 0) & inside(solid, points).reshape(ids.shape)] = i
  return ids


@pytest.mark.parametrize(
  'view', [solids.View(30, 40), solids.View(32, 32, (29, 64, 192, 192))]
)
@pytest.mark.parametrize('seed', range(3))
def test_ids_belong_to_the_first_solid_that_a_ray_meets(view, seed):
  rng = np.random.default_rng(seed)
  scene = solids.place(8, rng)
  eye_3 = solids.EYE_3 + rng.uniform(-0.5, 0.5, 3)
  got, _ = solids.cast(view, eye_3, scene, samples=1)
  want = first_met(view, eye_3, scene)
  assert len(np.unique(want)) > 6
  assert (got != want).sum() <= 4  # rays that graze an edge between two steps


@pytest.mark.parametrize('shape', solids.SHAPES)
def test_where_rays_meet_a_solid_is_its_surface(shape):
  rng = np.random.default_rng(0)
  solid = solids.Solid(shape, 'large', 'metal', 'red', 1.0, -2.0, rotation=25.0)
  start = np.array([[5.0], [-7.0], [3.0]], np.float32)
  through = solid.center_3[:, None] + rng.uniform(-0.9, 0.9, (3, 500))
  ray = (through - start).astype(np.float32)
  enter, leave = solids.crossing(solid, start, ray)
  hit = enter < leave
  assert 100 < hit.sum() < 500
  for t, sign in ((enter, 1), (leave, -1)):
    before, after = ((start + (t + sign * d) * ray)[:, hit].T for d in (-1e-4, 1e-4))
    assert inside(solid, after).all() and not inside(solid, before).any()
  # Normals point towards the origin of the ray.
  at = (start + enter * ray)[:, hit]
  normal = solids._normal(solid, at)
  np.testing.assert_allclose(np.linalg.norm(normal, axis=0), 1, rtol=1e-5)
  assert ((normal * ray[:, hit]).sum(axis=0) < 0.05 * np.linalg.norm(ray)).all()


# Scenes


def test_an_example_is_a_function_of_seed_split_and_index():
  def same(a, b):
    arrays = all(np.array_equal(a[k], b[k]) for k in ('image', 'segmentation'))
    return arrays and str(a['objects']) == str(b['objects'])

  example = solids.draw(1, 'train', 7, SMALL)
  assert same(example, solids.draw(1, 'train', 7, SMALL))
  for other in [
    (2, 'train', 7),
    (1, 'validation', 7),
    (1, 'crowded', 7),
    (1, 'train', 8),
  ]:
    assert not same(example, solids.draw(*other, SMALL))


def test_fields_of_an_example(scenes):
  view, examples = scenes
  for i, example in enumerate(examples):
    shape = (view.height, view.width)
    assert example.keys() == {'image', 'segmentation', 'objects', 'id'}
    assert example['image'].shape == (*shape, 3)
    assert example['segmentation'].shape == (*shape, 1)
    assert example['image'].dtype == example['segmentation'].dtype == np.uint8
    assert example['segmentation'].max() == len(example['objects'])
    assert example['id'] == i
  counts = collections.Counter(len(example['objects']) for example in examples)
  assert sorted(counts) == [3, 4, 5, 6] and min(counts.values()) > COUNT / 20


def test_places_keep_the_rules(scenes):
  for example in scenes[1]:
    radii = [{'small': 0.35, 'large': 0.7}[o['size']] for o in example['objects']]
    places = np.array([o['3d_coords'] for o in example['objects']])
    assert (np.abs(places[:, :2]) <= 3).all()
    np.testing.assert_array_equal(places[:, 2], np.float32(radii))
    for i, j in np.ndindex(len(radii), len(radii)):
      if i < j:
        apart = np.linalg.norm(places[i, :2] - places[j, :2])
        assert apart >= radii[i] + radii[j] + 0.25 - 1e-5
    # From left to right, and from front to back.
    for axis in (solids.RIGHT_3, solids.BEHIND_3):
      along = np.sort(places @ axis)
      assert np.diff(along).min() >= 0.4 - 1e-5


def test_enough_is_seen_of_every_solid(scenes):
  view, examples = scenes
  share = 200 / (view.window[2] * view.window[3])
  for example in examples:
    assert pixels_of(example).min() / example['segmentation'].size >= share


def test_ids_are_where_objects_are(scenes):
  view, examples = scenes
  own, seen = 0, 0
  for example in examples:
    depths = [o['pixel_coords'][2] for o in example['objects']]
    for i, thing in enumerate(example['objects'], start=1):
      x, y = thing['pixel_coords'][:2]
      if not (1 <= x < view.width - 1 and 1 <= y < view.height - 1):
        continue
      found = example['segmentation'][int(y), int(x), 0]
      assert found > 0, 'the floor is seen where a solid is'
      assert found == i or depths[found - 1] < depths[i - 1]
      own, seen = own + (found == i), seen + 1
  assert seen > 100 and own / seen > 0.8


def test_all_properties_occur_and_are_independent():
  scene = [s for i in range(300) for s in solids.place(5, np.random.default_rng(i))]
  names = {'color': solids.COLORS, 'material': solids.MATERIALS}
  names |= {'shape': solids.SHAPES, 'size': solids.RADII}
  for name, values in names.items():
    counts = collections.Counter(getattr(solid, name) for solid in scene)
    assert sorted(counts) == sorted(values)
    # Large solids find a position less often.
    assert min(counts.values()) > 0.75 * len(scene) / len(values)
  pairs = collections.Counter((solid.color, solid.shape) for solid in scene)
  assert len(pairs) == 24
  rotations = np.array([solid.rotation for solid in scene])
  assert np.histogram(rotations, 4, (0, 360))[0].min() > 0.2 * len(scene)


# Light


LARGE = solids.View(96, 128)


def picture(*scene, view=LARGE):
  image = solids.render(view, solids.EYE_3, solids.LAMP_3, scene).astype(int)
  ids, _ = solids.cast(view, solids.EYE_3, scene, samples=1)
  return image, ids


def one(shape='sphere', size='large', material='rubber', color='gray', x=0.0, y=0.0):
  return solids.Solid(shape, size, material, color, x, y, rotation=30.0)


@pytest.mark.parametrize('shape', solids.SHAPES)
def test_solids_shade_the_floor_away_from_the_lamp(shape):
  solid = one(shape)
  empty, _ = picture()
  image, ids = picture(solid)
  darker = (empty - image).mean(axis=-1)
  near = cv2.dilate(ids, np.ones((3, 3), np.uint8)) > 0  # includes edges
  darker[near] = 0
  assert darker.min() >= -1  # no pixel is brighter
  shadow = darker > 0.15 * empty.mean(axis=-1)
  assert 40 < shadow.sum() < 0.1 * shadow.size
  columns = np.arange(shadow.shape[1])
  # The lamp is on the right, so the middle of the shadow is left of the solid's.
  assert solids.LAMP_3 @ solids.RIGHT_3 > 1
  middle = {
    name: (m.sum(axis=0) @ columns) / m.sum()
    for name, m in (('shadow', shadow), ('solid', ids > 0))
  }
  assert middle['shadow'] < middle['solid'] - 3
  # Nothing changes far away from the solid.
  assert (darker[:, -20:] <= 2).all() and (darker[-15:] <= 2).all()


def test_a_solid_in_the_shadow_of_another_is_darker():
  lit, ids = picture(one(size='small'))
  towards = solids.LAMP_3[:2] / np.linalg.norm(solids.LAMP_3[:2])
  x, y = (1.2 * towards).tolist()
  shaded, _ = picture(one(size='small'), one('cylinder', x=x, y=y))
  _, both = picture(one(size='small'), one('cylinder', x=x, y=y))
  seen = (ids == 1) & (both == 1)
  assert seen.sum() > 30
  assert shaded[seen].mean() < lit[seen].mean() - 15


@pytest.mark.parametrize('material', solids.MATERIALS)
def test_colors_are_those_of_their_names(material):
  named = np.array(list(solids.COLORS.values()), float)
  named /= np.linalg.norm(named, axis=1, keepdims=True)
  for i, color in enumerate(solids.COLORS):
    image, ids = picture(one(material=material, color=color))
    mean = ((image[ids == 1] / 255.0) ** 2).mean(axis=0)
    mean /= np.linalg.norm(mean)
    assert np.argmax(named @ mean) == i, color


def test_metal_mirrors_and_rubber_does_not():
  def contrast(material):
    image, ids = picture(one(material=material, color='red'))
    values = image[ids == 1].mean(axis=-1)
    return values.max() / np.median(values)

  assert contrast('metal') > 1.3 * contrast('rubber')


def test_a_sphere_is_brighter_on_the_side_of_the_lamp():
  image, ids = picture(one())
  columns = np.flatnonzero((ids == 1).any(axis=0))
  half = columns[len(columns) // 2]
  left, right = (ids == 1).copy(), (ids == 1).copy()
  left[:, half:], right[:, : half + 1] = False, False
  assert image[right].mean() > image[left].mean() + 10


def test_other_sizes_show_the_same():
  scene = [one('cube', color='blue'), one(color='red', x=2, y=-1)]
  small, _ = picture(*scene, view=solids.View(60, 80))
  large, _ = picture(*scene, view=solids.View(240, 320))
  averaged = large.reshape(60, 4, 80, 4, 3).mean(axis=(1, 3))
  assert np.abs(averaged - small).mean() < 2
  part, _ = picture(*scene, view=solids.View(192, 192, solids.MIDDLE))
  # The start of the window decides which of 16 lamp positions a ray sees.
  assert np.abs(part - large[29:221, 64:256]).mean() < 0.5


def test_wrong_arguments_are_named(monkeypatch):
  with pytest.raises(ValueError, match="split='val' is not one of"):
    solids.draw(0, 'val', 0)
  monkeypatch.setattr(solids, 'SCENES', 3)
  with pytest.raises(ValueError, match='there is no room for 90 solids'):
    solids.draw(0, 'train', 0, SMALL, (90, 90))
  with pytest.raises(ValueError, match='some of 2 solids are always hidden'):
    solids.draw(0, 'train', 0, solids.View(48, 48, (0, 0, 40, 40)), (2, 2))


# The data set


def test_records_hold_the_drawn_examples(builder):
  assert {k: s.num_examples for k, s in builder.info.splits.items()} == {
    'train': 3,
    'crowded': 2,
  }
  for split, (count, most) in TINY.splits.items():
    records = builder.as_data_source(split=split)
    for i in range(count):
      want = solids.draw(4, split, i, SMALL, (3, most))
      got = records[i]
      for name in ('image', 'segmentation'):
        np.testing.assert_array_equal(got[name], want[name])
      assert got['id'] == i
      assert len(got['objects']['color']) == len(want['objects']) <= most
      for k, thing in enumerate(want['objects']):
        for name, value in thing.items():
          feature = builder.info.features['objects'][name]
          if isinstance(value, str):
            value = feature.str2int(value)
          np.testing.assert_array_equal(got['objects'][name][k], value)
  assert 'tensorflow' not in sys.modules


def test_segmentations_are_stored_in_one_channel(builder):
  decoders = {'segmentation': tfds.decode.SkipDecoding()}
  record = builder.as_data_source(split='train', decoders=decoders)[0]
  got = decoding.decode(record['segmentation'], channels=1)
  want = solids.draw(4, 'train', 0, SMALL)['segmentation']
  np.testing.assert_array_equal(got, want)


def test_objects_are_described_as_in_clevr(builder):
  ours, theirs = builder.info.features['objects'], fake.catalogued('clevr')['objects']
  assert ours.to_json() == theirs.to_json()
  for name, feature in theirs.feature.items():
    if isinstance(feature, tfds.features.ClassLabel):
      assert ours[name].names == feature.names


def test_published_configs():
  assert solids.Solids.DEFAULT_BUILDER_CONFIG_NAME == '128'
  published = {
    config.name: (config.view.height, dict(config.splits))
    for config in solids.Solids.BUILDER_CONFIGS
  }
  rest = {'validation': (320, 6), 'test': (320, 6), 'crowded': (320, 10)}
  assert published == {
    '128': (128, {'train': (70_000, 10), 'validation': (15_000, 10)}),
    '64': (64, {'train': (20_000, 10), 'validation': (1_000, 10)}),
    'discovery': (128, {'train': (35_000, 6), **rest}),
    'discovery_32': (32, {'train': (20_000, 6), **rest}),
  }
  for config in solids.Solids.BUILDER_CONFIGS:
    example = solids._encoded(config, 'validation', 0)
    assert (
      decoding.decode(example['image']).shape[:2] == (published[config.name][0],) * 2
    )
