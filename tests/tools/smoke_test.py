"""Tests of running configs with small sizes: how they shrink, what faults are found."""

import json
import pathlib

import flax.linen as nn
import jax.numpy as jnp
import ml_collections as mlc
import pytest
import tiny_config

from big_vision_like import optim
from big_vision_like import spec as spec_module
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.transforms import image, objects
from big_vision_like.errors import UserError
from big_vision_like.evals import fewshot
from big_vision_like.models import bit, slot_attention, vit
from big_vision_like.run import checkpoint, init_from
from big_vision_like.spec import build, epochs, spec
from big_vision_like.tasks.task import State
from tools import smoke


def large_config() -> mlc.ConfigDict:
  c = tiny_config.get_config()
  c.total_steps = 30_000
  c.mesh = {'fsdp': 8}
  c.init_from = spec(
    init_from.InitFrom, weights=spec(init_from.from_run, workdir='runs/none')
  )
  c.train_data.source = spec(
    tfds.Tfds, name='no_such_data', split='full[512:]', examples=14_000_000
  )
  c.train_data.transforms = [
    spec(image.Decode),
    spec(image.ResizeSmall, size=256),
    spec(image.InceptionCrop, size=224),
  ]
  c.train_data.batch_size = 4096
  c.train_data.workers = 32
  c.task.model = spec(
    vit.ViT, **vit.variant('So400m/14'), num_classes=21_843, scan=True
  )
  c.task.optimizer.rate_rules = optim.layer_decay(0.75, depth=27)
  c.task.accumulate = 16
  data = spec(
    pipeline.EvalInput,
    source=spec(tfds.Tfds, name='cifar10', split='test'),
    transforms=[spec(image.Decode), spec(image.Resize, size=32)],
    batch_size=1024,
  )
  c.evals = dict(few=spec(fewshot.FewShot, train=data, data=data, every=epochs(1)))
  return c


def test_a_config_is_shrunk(tmp_path):
  small, notes = smoke.shrink(large_config(), tmp_path / 'words.model')
  assert notes == ['made up: cifar10, no_such_data', 'init_from left out']
  assert small.total_steps == 2 and small.init_from is None
  data = build(small.train_data)
  assert (data.batch_size, data.workers, len(data.source)) == (8, 0, 20)
  assert data.example()['image'].shape == (64, 64, 3)  # of 224, as 256 become 96
  assert data.transforms[1].size == 96
  model = build(small.task.model)
  assert (model.width, model.depth, model.num_heads, model.mlp_dim) == (32, 2, 2, 64)
  assert (model.patch, model.num_classes, model.scan) == (8, 1000, True)
  assert [pattern for pattern, _ in small.task.optimizer.rate_rules] == [
    '(embed/.*|cls|pos_embedding)',
    'encoder/block_0/.*',
    'encoder/block_1/.*',
  ]
  assert small.task.optimizer.rate.decay_steps == 30_000  # as for the whole run
  few = build(small.evals.few)
  assert (few.shots, few.every, few.data.batch_size) == ((1, 5, 5, 5), 0, 8)
  assert few.data.transforms[1].size == 32  # already small


def test_a_small_config_stays_as_it_is(tmp_path):
  small, _ = smoke.shrink(tiny_config.get_config(), tmp_path / 'words.model')
  assert small.task.model.to_dict() == tiny_config.get_config().task.model.to_dict()


def test_resnets_are_shrunk(tmp_path):
  config = large_config()
  config.task.model = spec(bit.BiT, num_classes=10, **bit.variant('R152x4'))
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  assert small.task.model.depths == (2, 1) and small.task.model.width == 1
  config.task.model = spec(vit.ViT, num_classes=10, **vit.variant('R50+L/32'))
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  assert small.task.model.resnet == (2, 1) and small.task.model.patch == 1


@pytest.mark.parametrize('name, side', [('clevr', 64), ('solids', 128)])
def test_auto_encoders_have_the_size_of_their_images(tmp_path, name, side):
  config = spec_module.load(f'{smoke.CONFIGS}/slot_attention/discovery.py:{name}')
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  model = build(small.task.model)
  assert model.image_shape == (side, side, 3)  # drawn images are not resized
  assert (model.num_slots, model.slot_size, model.hidden) == (7, 16, 32)
  assert model.iterations == small.evals.more_5.predict_args.iterations == 2
  assert tuple(model.encoder_convs) == 4 * ((8, 3, 1),)
  assert tuple(model.decoder_convs) == (*(4 * ((8, 3, 2),)), (8, 3, 1))
  assert build(small.train_data).example()['image'].shape == model.image_shape
  [batch, *_] = build(small.evals.more_5.data).epoch()
  assert batch['segmentation'].shape == (8, side, side)


def test_pictures_with_boxes_shrink_alike(tmp_path):
  config = spec_module.load(f'{smoke.CONFIGS}/detr/panoptic.py:stage2_r50')
  small, notes = smoke.shrink(config, tmp_path / 'words.model')
  assert notes == ['made up: coco/2017, coco/2017_panoptic', 'init_from left out']
  model, data = build(small.task.model), build(small.train_data)
  assert (model.num_queries, model.encoder_depth, model.masks) == (8, 2, True)
  assert model.backbone.depths == (2, 1, 1, 1)  # masks need maps of four stages
  sizes = {tuple(size) for size in data.transforms[-1].sizes}
  assert sizes == {(100, 168), (168, 100)}  # an eighth; only 2 of 8 shapes
  for position in range(8):
    example = data.example(position)
    assert example['image'].shape[:2] in sizes and example['box_mask'].any()
  [batch, *_] = build(small.evals.panoptic.data).epoch()
  assert batch['panoptic'].shape[1:] == (640, 640)  # fits fake examples


@pytest.mark.parametrize('name, width', [('simple', 96), ('hidden', 128)])
def test_drawn_scenes_keep_their_size(tmp_path, name, width):
  config = spec_module.load(f'{smoke.CONFIGS}/detr/small_panoptic.py:{name}')
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  assert build(small.train_data).example()['image'].shape == (96, width, 3)


def test_annotations_of_the_user_are_replaced_by_fake_ones(tmp_path):
  config = spec_module.load(f'{smoke.CONFIGS}/detr/finetune.py')
  small, notes = smoke.shrink(config, tmp_path / 'words.model')
  assert notes == ['made up: coco/2017', 'init_from left out']
  assert build(small.train_data).example()['box_mask'].any()


def test_a_grid_that_is_left_at_its_default_is_shrunk(tmp_path):
  config = large_config()
  config.task.model = spec(slot_attention.AutoEncoder, num_slots=3)
  config.train_data.transforms[2] = spec(objects.Resize, size=128)
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  assert small.train_data.transforms[2]['size'] == 64
  assert build(small.task.model).image_shape == (64, 64, 3)


def test_texts_get_a_vocabulary_of_fake_sentences(tmp_path):
  config = spec_module.load(str(smoke.CONFIGS / 'transformer' / 'table3.py'))
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  row = build(small.train_data).example()
  assert row['source'].shape == row['target'].shape == (64,)
  vocabulary = build(small.evals.newstest2013_bleu.vocabulary)
  assert row['source'].max() < vocabulary.size <= small.task.model.vocab_size
  words = vocabulary.decode(row['target'][row['target_segment'] == 1].tolist())
  assert {*words.split()} <= {*smoke.fake.WORDS}


def test_a_rate_that_is_not_finite_is_found():
  config = tiny_config.get_config()
  smoke.check_rates(config)
  config.task.optimizer.rate = spec(
    optim.noam, width=1, warmup_steps=1, factor=float('inf')
  )
  with pytest.raises(UserError, match=r'config\.task\.optimizer\.rate is inf at step'):
    smoke.check_rates(config)


def test_a_restored_state_with_different_bits_is_found(tmp_path):
  def state(last):
    params = {'a': jnp.arange(3.0), 'b': {'c': jnp.array([1.0, last])}}
    return State(step=jnp.int32(1), params=params, opt_state=())

  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(0.0), {'examples': 8}, 0.0, wait=True)
  smoke.check_restored(tmp_path, state(0.0))
  with pytest.raises(UserError, match='params/b/c is not restored bit by bit'):
    smoke.check_restored(tmp_path, state(-0.0))


def run_of(folder, evaluation=None, loss=1.0, step=2):
  """Writes the files of a run that the tool checks."""
  (folder / 'checkpoints' / str(step)).mkdir(parents=True)
  records = [
    {'step': 1, 'kind': 'train', 'loss': 1.5},
    {'step': 2, 'kind': 'train', 'loss': loss},
    {'step': 2, 'kind': 'eval'} | (evaluation or {'val/top1': 0.5}),
  ]
  lines = ''.join(json.dumps(record) + '\n' for record in records)
  (folder / 'metrics.jsonl').write_text(lines)
  return folder


def test_records_of_a_run_that_is_well(tmp_path):
  config = tiny_config.get_config()
  config.total_steps, config.keep_best = 2, 'val/top1'
  smoke.check_records(config, run_of(tmp_path))


@pytest.mark.parametrize(
  'changes, keep_best, problem',
  [
    (dict(step=1), None, r'no checkpoint of step 2, only of \[1\]'),
    (dict(loss=float('nan')), None, 'the loss is nan at step 2'),
    (dict(evaluation={'test/top1': 1.0}), None, 'config.evals.val returned no scalars'),
    (dict(evaluation={'val/a': float('inf')}), None, 'val returned val/a=inf'),
    ({}, 'val/top', "config.keep_best='val/top' is not returned by any evaluator"),
  ],
)
def test_records_of_a_faulty_run(tmp_path, changes, keep_best, problem):
  config = tiny_config.get_config()
  config.total_steps, config.keep_best = 2, keep_best
  with pytest.raises(UserError, match=problem):
    smoke.check_records(config, run_of(tmp_path, **changes))


CHANGES = {
  'classes.py': 'c.task.model.num_classes = 9',
  'evaluator.py': 'c.evals.val.data.transforms[0].channels = 2',
  'typo.py': 'c.task.model.widht = 3',
  'rate.py': 'c.task.optimizer.rate.peak_value, c.task.model.width = 1e-2, 8',
  'pool.py': "c.task.model.pool = 'gap'",
  'more.py': "c.evals.other = dict(c.evals.val, predict='features')",
}


@pytest.fixture
def changed(tmp_path):
  """Writes variants of the small config, each with one added line."""
  text = pathlib.Path(tiny_config.__file__).read_text()
  for name, line in CHANGES.items():
    changed = text.replace('  return c\n', f'  {line}\n  return c\n')
    (tmp_path / name).write_text(changed)
  return lambda name: str(tmp_path / name)


def test_broken_configs_are_reported(changed, capsys):
  broken = ['classes.py', 'evaluator.py', 'typo.py', 'absent.py']
  assert smoke.main([*map(changed, broken)]) == 1  # `gan_test.py` has one that passes
  rows, summary = capsys.readouterr().out.split('\n\n')
  assert len(rows.splitlines()) == rows.count('FAILED') == 4
  assert summary.startswith('0 of 4 configs pass, in ')
  assert 'classes.py: train_data, evals.val.data: the data have 10 classes' in summary
  assert 'channels=2 is not 1 (grey) or 3 (RGB)' in summary
  assert 'widht' in summary and 'did you mean' in summary
  assert 'no file' in summary


def test_every_option_runs_and_every_config_is_traced(changed, tmp_path):
  names = [*map(changed, ('rate.py', 'pool.py', 'typo.py', 'more.py'))]
  names.insert(0, tiny_config.__file__)
  words = tmp_path / 'words.model'
  first, rate, pool, typo, more = smoke.plans(names, words)
  assert more == smoke.Plan(names[4]) and typo == smoke.Plan(names[3])
  assert pool == smoke.Plan(names[2], restarts=False)
  assert (first.like, rate.like) == (names[4], names[4])  # which has one more evaluator
  row = smoke.attempt(rate, tmp_path)
  assert str(row).endswith(f'ok; made up: digits; traced, most like {names[4]}')
  for name, problem in ('evaluator.py', 'channels=2'), ('more.py', "'features'"):
    with pytest.raises(UserError, match=problem):
      smoke.check(smoke.Plan(changed(name), like=names[0]), tmp_path, words)


class Wide(nn.Module):
  num_classes: int = 10
  width: int = 50_000

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    x_BD = nn.Dense(self.width)(image_BHWC.reshape(len(image_BHWC), -1))
    return {'logits': nn.Dense(self.num_classes)(x_BD)}


def test_a_model_that_stays_large_is_named(tmp_path):
  config = tiny_config.get_config()
  config.task.model = spec(Wide)
  small, _ = smoke.shrink(config, tmp_path / 'words.model')
  with pytest.raises(UserError, match='_test.py: Wide declares no `tiny`; the scaled'):
    smoke.check_size(small)
