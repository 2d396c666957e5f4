import base64
import pathlib
import pickle

import numpy as np
import pytest

from big_vision_like.data.sources import region_features, region_files
from big_vision_like.errors import BadRecordError, UserError
from tools import convert_regions

SAMPLES = pathlib.Path(__file__).parents[2] / 'samples'


def sample(**options):
  arguments = dict(name='sample_regions', width=8, data_dir=str(SAMPLES)) | options
  return region_features.RegionFeatures(**arguments)


def line(image='7', width=50, height=40, boxes=((0, 0, 9, 8), (5, 5, 50, 40)), **more):
  boxes_N4 = np.array(boxes, '<f4').reshape(-1, 4)
  count = len(boxes_N4)
  features_NF = more.get('features', np.arange(3 * count).reshape(count, 3))
  arrays = boxes_N4, features_NF
  encoded = [base64.b64encode(np.asarray(x, '<f4').tobytes()).decode() for x in arrays]
  return '\t'.join([image, str(width), str(height), str(count), *encoded])


def test_the_sample_has_the_arrays_of_its_text_file():
  source, raw = sample(), region_files.Tsv(str(SAMPLES / 'regions.tsv'))
  assert len(source) == len(raw) == 4 and sorted(source.places) == [
    '101',
    '102',
    '103',
    '104',
  ]
  for i, expected in enumerate(raw):
    found = source[source.places[str(101 + i)]]
    assert found['image_id'] == expected['image_id'] == str(101 + i)
    assert tuple(found['size']) == tuple(expected['size']) == (96, 100)
    for name in ('boxes', 'features', 'classes') if len(expected['boxes']) else ():
      np.testing.assert_array_equal(found[name], expected[name])
  assert found['features'].shape == (0, 8) and found['boxes'].shape == (0, 4)
  assert source.__getitems__([1, 0])[1]['image_id'] == source[0]['image_id']
  again = pickle.loads(pickle.dumps(source))
  assert again.fingerprint() == source.fingerprint()
  assert again[2]['image_id'] == source[2]['image_id']


def test_convert_arrays_as_float16(tmp_path, capsys):
  folder, rng = tmp_path / 'arrays', np.random.default_rng(0)
  features_NF = rng.normal(0, 1, (3, 6)).astype(np.float32)
  boxes_N4 = np.array([[0, 0, 4, 4], [1, 1, 9, 8], [2, 0, 3, 8]])
  (folder / 'a').mkdir(parents=True)
  np.savez(
    folder / 'a/one.npz', bbox=boxes_N4, x=features_NF.T, image_h=8, image_w=9, more='x'
  )
  np.savez(
    folder / 'two.npz', boxes=boxes_N4, features=features_NF, height=8, width=9, cls=1
  )
  (folder / 'notes.txt').write_text('')
  assert not convert_regions.main(
    [f'arrays:{folder}', '--name', 'found', '--data-dir', str(tmp_path), '--half']
    + ['--workers', '1']
  )
  assert 'left out: files that are not .npz (1)' in capsys.readouterr().out
  source = region_features.RegionFeatures('found', width=6, data_dir=str(tmp_path))
  assert sorted(source.places) == ['a/one', 'two']
  for example in source:
    half = features_NF.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(example['features'], half)
    np.testing.assert_array_equal(example['boxes'], boxes_N4)
    assert 'classes' not in example


def test_pickles_are_never_loaded(tmp_path):
  ran = tmp_path / 'ran'

  class Harmful:
    def __reduce__(self):
      return pathlib.Path.touch, (ran,)

  np.savez(
    tmp_path / 'one.npz',
    boxes=np.zeros((1, 4)),
    features=np.array([Harmful()], object),
    height=1,
    width=1,
  )
  with pytest.raises(BadRecordError, match='one.npz cannot be read'):
    region_files.Arrays(str(tmp_path))[0]
  (tmp_path / 'one.npz').rename(tmp_path / 'one.npy')
  with pytest.raises(UserError, match='no .npz file: .npy and .pkl files .* pickles'):
    len(region_files.Arrays(str(tmp_path)))
  assert not ran.exists()


@pytest.mark.parametrize(
  'text, problem',
  [
    ('a\tb', r'line 2 of .*x.tsv has 2 columns, .* have 6, 7, 10'),
    (line(boxes=[(0, 0, 60, 8)]), 'the box 0, 0, 60, 8 in an image of 40x50 pixels'),
    (line(boxes=[(5, 5, 5, 8)]), 'left, top, right, bottom in pixels'),
    (line(features=np.full((2, 3), np.nan)), 'features that are not finite'),
    (line(features=np.zeros((1, 3))), '3 numbers in features are not 2 rows'),
    (line()[:-3] + '???', 'cannot be read'),
    (line(width=0), 'the image size 40x0'),
    (line(features=np.zeros((2, 5))), 'features of width 5, the first one 3'),
  ],
)
def test_unusable_lines(text, problem, tmp_path):
  (tmp_path / 'x.tsv').write_text(f'{line()}\n{text}\n')
  source = region_files.Encoded(region_files.Tsv(str(tmp_path / 'x.tsv')))
  assert source[0]['widths'].tolist() == [3, 0]
  with pytest.raises(BadRecordError, match=problem):
    source[1]


def test_another_width_and_missing_ids(tmp_path):
  with pytest.raises(UserError, match='width 8, but the config has width 2048: set'):
    sample(width=2048)[0]
  copied = tmp_path / 'sample_regions/1.0.0'
  copied.mkdir(parents=True)
  for file in (SAMPLES / 'sample_regions/1.0.0').iterdir():
    (copied / file.name).write_bytes(file.read_bytes())
  ids = copied / 'sample_regions-train.image_ids.txt'
  ids.write_text('101\n')
  source = sample(data_dir=str(tmp_path))
  assert 'lists 1 image, but there are 4 records' in source.problems()[0]
  ids.unlink()
  assert (
    'write it with tools/convert_region' in sample(data_dir=str(tmp_path)).problems()[0]
  )


def test_two_records_of_one_image(tmp_path, capsys):
  (tmp_path / 'x.tsv').write_text(f'{line()}\n{line()}\n')
  arguments = [f'tsv:{tmp_path}/x.tsv', '--name', 'twice', '--data-dir', str(tmp_path)]
  assert convert_regions.main([*arguments, '--workers', '1']) == 1
  assert 'two records of the image 7' in capsys.readouterr().err


def test_made_up_regions_replace_missing_data():
  planned = region_features.RegionFeatures('absent_regions', examples=9).planned()
  assert len(planned) == 9 and '8' in planned.places
  assert planned[3]['features'].shape[1] == region_features.WIDTH
  assert sample().planned().made_up == 0
