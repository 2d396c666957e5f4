"""Tests that the tool shows the input of a run, and the time of each stage."""

import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest
import tiny_config

from big_vision_like import cli, optim, spec
from big_vision_like.data.input import mixture, pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.data.sources import tfds
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import image, labels
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.models import vit
from big_vision_like.ops.augmentation import Augment
from big_vision_like.run import experiment
from big_vision_like.spec import build
from big_vision_like.tasks import classification
from tools import show_input
from tools.benchmark.parts import input_stages


@pytest.fixture
def shown(tmp_path, capsys, monkeypatch):
  """Returns a function that runs the tool; it returns status, output and files."""
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)

  def call(*words, config='tests/tiny_config.py'):
    words = [f'--config={config}', f'--out={tmp_path}', '--seconds=0', *words]
    status = show_input.main(words)
    return status, capsys.readouterr(), {p.name: p for p in tmp_path.iterdir()}

  return call


def looked(batch, device=None, names=(), **arguments):
  return show_input.Looked(
    [batch], [device or {}], [], names, np.array(0.5), np.array(0.5), **arguments
  )


def test_a_sheet_and_the_numbers_of_it(data_dir, shown):
  status, told, files = shown('--batches=2', '--config.train_data.batch_size=16')
  assert (status, told.err) == (0, '')
  assert files.keys() == {'train_data.png', 'train_data.json'}
  found = json.loads(files['train_data.json'].read_text())
  assert [stage['name'] for stage in found['stages']] == [
    *('read', 'Decode', 'RandomAffine', 'stack', 'to the device', 'on the device')
  ]
  host = [stage['mean_ms'] for stage in found['stages'] if stage['on_host']]
  assert len(host) == 4
  assert found['examples_per_second_per_core'] == pytest.approx(1e3 / sum(host))
  assert (found['examples'], sum(found['labels'].values())) == (32, 32)
  arrays = {row['name']: row for row in found['arrays']}
  assert arrays['image']['shape'] == [32, 8, 8, 1]
  assert arrays['image']['dtype'] == 'uint8' and arrays['image']['largest'] > 200
  assert arrays['image on the device']['smallest'] == -1.0
  assert arrays['target on the device']['shape'] == [32, 10]
  for text in (
    'on the device',
    'RandomAffine',
    'examples/s on one core',
    'most frequent',
  ):
    assert text in told.out
  picture_HWC = cv2.imread(str(files['train_data.png']))
  # 32 pairs of 8x8 scans, enlarged 14 times, next to each other.
  width = 2 * (112 + 4) + 10
  assert picture_HWC.shape[1] == 10 + width * (1400 // width)
  assert picture_HWC.shape[0] > 7 * 112


def test_shown_batches_are_those_of_a_run(data_dir):
  config = tiny_config.get_config()
  config.task.label_smoothing = 0.1
  run = experiment.make(config)
  found = show_input.look(run.data, run.task, run.key, batches=2)
  batches = run.batches()
  for step in range(2):
    batch = next(batches)
    for name, x in batch.items():
      np.testing.assert_array_equal(found.batches[step][name], x)
    key = jax.random.fold_in(run.key, step)
    prepared = jax.jit(run.task.prepare)(batch, key)
    for name in ('image', 'target'):
      np.testing.assert_array_equal(found.device[step][name], prepared[name])
  batches.close()
  assert found.names == list('0123456789') and found.augmented


def test_accumulation_does_not_change_the_mix(monkeypatch):
  model = vit.ViT(num_classes=4, patch=2, width=8, depth=1, num_heads=1, mlp_dim=8)
  task = classification.Classification(
    model=model,
    optimizer=optim.momentum(0.1),
    augment=Augment(mixup=0.5),
    accumulate=2,
  )
  rng, key = np.random.default_rng(0), jax.random.key(3)
  batch = {
    'image': rng.integers(0, 256, (6, 4, 4, 1), dtype=np.uint8),
    'label': rng.integers(0, 4, 6, dtype=np.int32),
  }
  found = show_input.on_device(task, True, batch, key)
  given = []

  def loss(self, params, mutable, part, key):
    given.append(part)
    return (params['head']['bias'] ** 2).sum(), (mutable, {})

  monkeypatch.setattr(classification.Classification, 'loss', loss)
  state = jax.jit(task.init)(key, batch)
  with jax.disable_jit():
    task.train_step(state, batch, key)
  for i, part in enumerate(given[-2:]):
    for name in ('image', 'target'):
      np.testing.assert_allclose(found[name][i::2], part[name], atol=1e-6)


def test_an_input_of_an_evaluator(data_dir, shown):
  # The last batch has 50 of the 450 scans, and 14 rows of padding.
  words = ('--config.evals.val.data.batch_size=64', '--batches=8')
  status, told, files = shown('--input=evals.val', *words)
  assert status == 0, told.err
  found = json.loads(files['evals.val.data.json'].read_text())
  assert found['input'] == 'evals.val.data'
  assert found['examples'] == 512 and sum(found['labels'].values()) == 450
  assert found['odd'] == []
  status, told, _ = shown('--input=evals.test')
  assert status == 1
  assert '--input=evals.test is not one of evals.val.data, train_data.' in told.err


def test_sequences_are_written_out(shown):
  status, told, files = shown(config='configs/transformer/reverse.py')
  assert status == 0, told.err
  assert files.keys() == {'train_data.txt', 'train_data.json'}
  source, target, *_ = files['train_data.txt'].read_text().splitlines()
  assert source in told.out
  ids = [line.split('tokens')[1].split() for line in (source, target)]
  assert ids[0][-2::-1] == ids[1][:-1] and ids[0][-1] == ids[1][-1] == '2'


def test_packed_sequences_are_separated(vocabulary):
  pairs = [('Der Hund', 'The dog'), ('Der Bär', 'The bear')]
  row = {name: np.zeros((1, 40), np.int32) for name in ('source', 'target')}
  row |= {f'{name}_segment': np.zeros((1, 40), np.int32) for name in row}
  for side, name in enumerate(('source', 'target')):
    start = 0
    for number, pair in enumerate(pairs, start=1):
      ids = [*vocabulary.encode(pair[side]), vocabulary.eos_id]
      row[name][0, start : start + len(ids)] = ids
      row[f'{name}_segment'][0, start : start + len(ids)] = number
      start += len(ids)
  lines = show_input.listing(row, vocabulary.decode)
  assert [line.split('tokens  ')[1] for line in lines] == [*pairs[0], *pairs[1]]
  assert [line.split()[0] for line in lines] == ['0.1', '0.1', '0.2', '0.2']


@pytest.mark.parametrize(
  'target, lines',
  [
    ([0, 1, 0, 0], ['goldfish']),
    ([0.63, 0.37, 0, 0], ['0.63 tench', '+ 0.37 goldfish']),
    ([0, 0.2, 0, 0.8], ['0.80 of 3', '+ 0.20 goldfish']),
    ([0.925, 0.025, 0.025, 0.025], ['tench']),  # smoothed
    (
      [0.25 * 0.9 + 0.025, 0.025, 0.025, 0.75 * 0.9 + 0.025],
      ['0.75 of 3', '+ 0.25 te'],
    ),
  ],
)
def test_shares_of_classes(target, lines):
  names = ['tench', 'goldfish']
  found = show_input.shares(
    np.array(target, np.float32), lambda c: names[c] if c < 2 else str(c)
  )
  assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines


def test_names_belong_to_labels_as_stored(data_dir):
  grey = image.Decode(channels=1)
  source = tfds.Tfds('glyphs/32')
  data = pipeline.EvalInput(source=source, batch_size=4, transforms=[grey])
  assert show_input.names_of(data) == source.label_names
  binned = labels.Binned('label', values=62, classes=2)
  data = dataclasses.replace(data, transforms=[grey, binned])
  assert show_input.names_of(data) == ()
  parts = {'a': mixture.Part(source=source), 'b': mixture.Part(source=source)}
  mixed = mixture.Mixture(parts=parts)
  data = pipeline.TrainInput(source=mixed, batch_size=4, transforms=[grey])
  assert show_input.names_of(data) == source.label_names
  parts['b'] = mixture.Part(source=tfds.Tfds('digits'))
  mixed = mixture.Mixture(parts=parts)
  assert show_input.names_of(dataclasses.replace(data, source=mixed)) == ()


def test_oddities():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
  fine = {'image': images, 'label': np.arange(20) % 5}
  assert show_input.oddities(looked(fine)) == []
  equal = show_input.oddities(
    looked(fine | {'label': np.full(20, 1)}, names=['a', 'b'])
  )
  assert equal == ['all labels equal: b']
  skewed = np.where(np.arange(20) < 12, 7, np.arange(20) % 5)
  assert show_input.oddities(looked(fine | {'label': skewed})) == [
    '12 of 20 labels are 7'
  ]
  wrong = images.copy()
  wrong[:3] = 9
  assert show_input.oddities(looked(fine | {'image': wrong})) == [
    '3 of 20 images have a single colour',
    '2 of 20 images are duplicates of another one',
  ]
  [dark, *_] = show_input.oddities(looked(fine | {'image': images // 128}))
  assert dark.startswith('images only hold 0 and 1: image.Brighten')
  device = {'image': images / 127.5 - 1, 'target': np.eye(5)[np.arange(20) % 5]}
  assert show_input.oddities(looked(fine, device)) == []
  device['image'][0, 0, 0, 0] = 9.0
  device['image'][1, 0, 0, 0] = np.nan
  assert [line.split()[0] for line in show_input.oddities(looked(fine, device))] == [
    'image',
    '0.1',
  ]


def test_the_device_is_shown_where_it_changes_something():
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
    'label': np.arange(4),
    'mask': np.array([True, True, True, False]),
  }
  device = {'image': batch['image'] / 127.5 - 1, 'target': np.eye(4, dtype=np.float32)}
  [*_, (only,)] = show_input.tiles(looked(batch, device))
  np.testing.assert_array_equal(only[0][::14, ::14], batch['image'][3])
  assert only[1] == ['padding of the batch']
  device['image'] = device['image'][:, :, ::-1]
  (host, mirrored), *_ = show_input.tiles(looked(batch, device))
  np.testing.assert_array_equal(host[0][:, ::-1], mirrored[0])
  assert mirrored[1] == ['0']


def test_batches_of_several_shapes(shown, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  status, told, files = shown('--batches=12', config='tests/several_shapes_config.py')
  assert (status, told.err) == (0, '')
  found = json.loads(files['train_data.json'].read_text())
  arrays = {row['name']: row for row in found['arrays']}
  count = {name: row['shape'][0] for name, row in arrays.items() if 'image ' in name}
  assert sum(count.values()) == found['examples'] == 96
  assert {'image 32x48x3', 'image 48x32x3'} <= count.keys()
  assert arrays['boxes']['shape'] == [96, 9, 4] and 'image' not in arrays
  assert arrays["model's input 1 32x48x3 on the device"]['shape'][1:] == [32, 48, 3]
  config = spec.load('tests/several_shapes_config.py', root=experiment.Settings)
  share = build(config.train_data).padded_share(12)
  assert found['padded_share'] == pytest.approx(share)
  assert f'padding   {100 * share:.1f} % of the pixels shown' in told.out


def test_padding_rows_are_left_out_of_all_shapes():
  masks = [np.array([True, True]), np.array([True, False])]
  batches = [
    {'image': np.full((2, side, 4, 3), side, np.uint8), 'mask': mask, 'id': side + mask}
    for side, mask in zip((4, 6), masks, strict=True)
  ]
  several = dataclasses.replace(looked(batches[0]), batches=batches, device=[{}, {}])
  assert several.real['image 4x4x3'].shape == (2, 4, 4, 3)
  assert several.real['image 6x4x3'].shape == (1, 6, 4, 3)
  assert several.real['id'].tolist() == [5, 5, 7] and several.padded_share is None


def test_boxes_and_clips():
  example = {
    'image': np.zeros((1, 50, 50, 3), np.uint8),
    'boxes': np.array([[[10, 10, 40, 30], [0, 0, 50, 50]]], np.float32),
    'box_labels': np.array([[3, 4]], np.int32),
    'box_mask': np.array([[True, False]]),
  }
  [[(drawn_HWC, _)]] = show_input.tiles(looked(example))
  assert drawn_HWC.shape == (300, 300, 3)  # enlarged 6 times to make tags legible
  assert drawn_HWC[120, 60].any() and not drawn_HWC[120, 0].any()
  clip = {'video': np.arange(10, dtype=np.uint8)[None, :, None, None, None]}
  clip['video'] = np.broadcast_to(clip['video'], (1, 10, 40, 30, 1))
  [[(strip_HWC, _)]] = show_input.tiles(looked(clip))
  assert strip_HWC.shape == (2 * 80 + 2, 8 * 60 + 7 * 2, 3)
  assert (strip_HWC[:80, :60] == 0).all() and (strip_HWC[82:, :60] == 8).all()


def test_a_sheet_holds_every_picture():
  pictures = [np.full((112, 112, 3), 8 * i, np.uint8) for i in range(30)]
  sheet_HWC = show_input.sheet(['title'], [[(p, ['a', 'b'])] for p in pictures])
  counts = [(sheet_HWC == 8 * i).all(axis=-1).sum() for i in range(30)]
  assert min(counts) >= 112 * 112 and sheet_HWC.shape[1] <= show_input.WIDTH


@dataclasses.dataclass(frozen=True)
class Scans(Source):
  """Grey pictures; every `bad`-th cannot be read."""

  bad: int = 1000

  def __len__(self):
    return 50

  def __getitem__(self, index):
    if index % self.bad == self.bad - 1:
      raise BadRecordError(f'record {index} is lost')
    data = cv2.imencode('.png', np.full((8, 8), index, np.uint8))[1]
    return {'image': data.tobytes(), 'label': np.int32(0)}


def test_each_stage_is_timed_on_records_that_can_be_used():
  grey, grow = image.Decode(channels=1), image.Resize(size=16)
  data = pipeline.TrainInput(
    source=Scans(3), batch_size=4, transforms=[grey, grow, grow]
  )
  stages = input_stages.of_examples(data, seconds=0.0)
  assert [s.name for s in stages] == ['read', 'Decode', 'Resize', 'Resize 2']
  assert {len(s.seconds) for s in stages} == {input_stages.AT_LEAST}
  assert all(0 < s.median_ms and 0 < s.mean_ms for s in stages)
  with pytest.raises(UserError, match='nearly all records are bad: record'):
    input_stages.of_examples(dataclasses.replace(data, source=Scans(1)), seconds=0.0)


def test_parts_of_a_mixture_are_timed_by_their_share():
  grey = image.Decode(channels=1)
  parts = {
    'a': mixture.Part(source=Scans(), weight=3, transforms=[grey]),
    'b': mixture.Part(
      source=Scans(), weight=1, transforms=[grey, image.Resize(size=8)]
    ),
  }
  data = pipeline.TrainInput(source=mixture.Mixture(parts=parts), batch_size=4)
  stages = {s.name: s for s in input_stages.of_examples(data, seconds=0.0)}
  assert stages.keys() == {'read', 'a: Decode', 'b: Decode', 'b: Resize'}
  assert (
    len(stages['a: Decode'].seconds) == 24 and len(stages['b: Resize'].seconds) == 8
  )
  share = stages['b: Resize']
  assert share.mean_ms == pytest.approx(1e3 * sum(share.seconds) / 32)


def test_sources_of_no_files():
  config = tiny_config.get_config()
  name, data, _ = show_input.chosen(config, 'train_data')
  assert name == 'train_data' and isinstance(data, pipeline.TrainInput)
  reverse = sequences.Reverse(examples=9, split='train')
  data = pipeline.EvalInput(source=reverse, batch_size=3)
  assert {s.name for s in input_stages.of_examples(data, 0.0)} == {'read'}
  assert show_input.decoder(data) is None
  assert build(config.evals.val.data).batch_size == 128
