import base64
import dataclasses
import json
import pathlib
import re
import shutil
import types

import cv2
import flax.linen as nn
import jax
import ml_collections as mlc
import numpy as np
import optax
import pages
import pytest

from big_vision_like import optim, train
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.evals import classification as accuracy
from big_vision_like.models import vit
from big_vision_like.report import images as report_images
from big_vision_like.run import experiment
from big_vision_like.spec import spec
from big_vision_like.tasks import classification
from tools import report

HEADINGS = [
  'Summary',
  'Curves',
  'Inputs',
  'Predictions',
  'Accuracy by class',
  'Confusion matrix',
  'Patch filters',
  'Position embeddings',
  'Attention rollout',
  'Attention distance',
]


@dataclasses.dataclass(frozen=True)
class Bars(Source):
  """8 x 12 images with a bright bar, horizontal or vertical, or none."""

  length: int
  label_names = ('lying <b>', 'standing & tall', 'neither')

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(index)
    image_HWC = random.integers(0, 90, (8, 12, 3)).astype(np.uint8)
    label, place = index % 3, random.integers(8)
    if label < 2:
      image_HWC[(place,) if label == 0 else (slice(None), place)] = 255
    return {'image': image_HWC, 'label': np.int32(label), 'id': np.int64(index)}


class Linear(nn.Module):
  num_classes: int = 3

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    flat_BF = image_BHWC.reshape(len(image_BHWC), -1)
    return {'logits': nn.Dense(self.num_classes, name='head')(flat_BF)}


def config_of(model: mlc.ConfigDict, rate: float = 3e-3) -> mlc.ConfigDict:
  rate = spec(
    optax.warmup_cosine_decay_schedule,
    init_value=0.0,
    peak_value=rate,
    warmup_steps=2,
    decay_steps=12,
  )
  return mlc.ConfigDict(
    dict(
      total_steps=12,
      log_every=1,
      checkpoint_every=100,
      task=spec(
        classification.Classification,
        model=model,
        optimizer=spec(optim.adamw, rate=rate),
        ema=spec(optim.Ema, decay=0.5),
      ),
      train_data=spec(pipeline.TrainInput, source=spec(Bars, length=72), batch_size=24),
      evals=dict(
        val=spec(
          accuracy.Accuracy,
          data=spec(pipeline.EvalInput, source=spec(Bars, length=50), batch_size=16),
          every=6,
        )
      ),
    )
  )


def vit_spec(**kwargs) -> mlc.ConfigDict:
  sizes = dict(num_classes=3, patch=4, width=12, depth=2, num_heads=3, mlp_dim=16)
  return spec(vit.ViT, **sizes | kwargs)


@pytest.fixture(scope='session')
def runs(tmp_path_factory) -> dict[str, pathlib.Path]:
  folder = tmp_path_factory.mktemp('runs')
  configs = {
    'token': config_of(vit_spec()),
    'gap_scan': config_of(vit_spec(pool='gap', scan=True), rate=1e-3),
    'linear': config_of(spec(Linear)),
  }
  train.train(configs['token'], folder / 'token')
  for name in ('gap_scan', 'linear'):
    pages.untrained(configs[name], folder / name)
    shutil.copy(folder / 'token' / 'metrics.jsonl', folder / name)
  return {name: folder / name for name in configs}


@pytest.fixture(scope='session')
def token_page(runs) -> pathlib.Path:
  assert report.main([str(runs['token'])]) == 0
  return runs['token'] / 'report.html'


@pytest.fixture(scope='session')
def pair_page(runs) -> pathlib.Path:
  out = runs['token'].parent / 'pair.html'
  assert report.main([str(runs['token']), str(runs['gap_scan']), f'--out={out}']) == 0
  return out


def test_a_page_has_every_section_and_valid_pictures(token_page):
  reader = pages.Reader(token_page)
  assert reader.headings == HEADINGS
  assert 'Not shown' not in reader.text
  assert len(reader.images) > 40
  for source in set(reader.images):
    data = base64.b64decode(source.removeprefix('data:image/png;base64,'))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
  for shown in ('lying <b>', 'standing & tall', '12 of 12', 'top-1 accuracy'):
    assert shown in reader.text
  size = sum(
    leaf.size for leaf in jax.tree.leaves(pages.source_of(token_page.parent).params)
  )
  assert f'{size:,}' in reader.text


def test_predictions_agree_with_the_evaluator(runs, token_page):
  source = pages.source_of(runs['token'])
  found = source.predictions
  assert found.evaluator == 'val'
  np.testing.assert_array_equal(found.id_B, range(50))
  np.testing.assert_allclose(found.probability_BC.sum(axis=-1), 1.0, rtol=1e-5)
  right = (found.probability_BC.argmax(axis=-1) == found.label_B).sum()
  last = [r for r in source.log.records if r['kind'] == 'eval'][-1]
  np.testing.assert_allclose(right / 50, last['val/top1'], rtol=1e-6)
  assert f'{right} of 50 examples of val are classified' in token_page.read_text()


def test_fewer_examples_can_be_requested(runs):
  found = pages.source_of(runs['token'], num_examples=18).predictions
  # They are spread over all 50, which may be sorted by class.
  np.testing.assert_array_equal(found.id_B, np.linspace(0, 49, 18).round())
  assert found.image_BHWC.shape == (18, 8, 12, 3)


def test_inputs_are_the_first_of_training(runs):
  source = pages.source_of(runs['token'])
  made = experiment.make(config_of(vit_spec()))
  expected = [report_images.thumbnail(image) for image in made.example['image']]
  content, caption = report_images.sample_inputs(source)
  found = re.findall('<img[^>]*>', content)
  assert len(found) == report_images.NUM_INPUTS and found == expected[: len(found)]
  assert '8x12x3' in caption


@pytest.mark.parametrize(
  ('count', 'most', 'expected'),
  [(5, 8, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (1, 4, [0]), (0, 4, [])],
)
def test_evenly_spreads_and_never_repeats(count, most, expected):
  assert list(report_images.evenly(count, most)) == expected


def test_most_confident_mistakes_come_first():
  source = report_images.Source(None, None, '', 10, '')
  source.predictions = report_images.Predictions(
    evaluator='val',
    image_BHWC=np.zeros((4, 2, 2, 1), np.uint8),
    label_B=np.array([0, 1, 0, 2]),
    id_B=np.array([10, 11, 12, 13]),
    probability_BC=np.array(
      [[0.4, 0.6, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9], [0.3, 0.4, 0.3]]
    ),
    names=['a', 'b', 'c'],
  )
  content, _ = report_images.predicted(source)
  assert '1 of 4 examples of val are classified correctly (25.00' in content
  assert re.findall(r'title="example (\d+)"', content) == ['12', '10', '13', '11']


def test_labels_beyond_the_classes_are_a_reason(runs):
  source = pages.source_of(runs['token'])
  task = source.run.task
  few = types.SimpleNamespace(
    prediction=lambda name: (
      lambda *args: {'logits': task.predict(*args)['logits'][:, :2]}
    )
  )
  source.run = dataclasses.replace(source.run, task=few)
  with pytest.raises(ValueError, match='labels up to 2, but the model has 2 classes'):
    report_images.predict(source)


def test_several_runs_share_curves_and_list_their_differences(runs, pair_page):
  reader = pages.Reader(pair_page)
  assert reader.headings == HEADINGS and 'Not shown' not in reader.text
  differences = reader.text.split('Where the configs differ')[1].split('Full config')[0]
  assert {
    'task.model.pool',
    'task.model.scan',
    'task.optimizer.rate.peak_value',
  } <= set(differences.split())
  assert 'task.model.width' not in differences
  loss = re.search(r'<svg[^>]*aria-label="loss".*?</svg>', pair_page.read_text())[0]
  for name in ('token', 'gap_scan'):
    for where in ('training', 'val'):
      assert f'<title>{name}, {where}</title>' in loss


def test_a_model_without_patches_has_the_other_sections(runs):
  assert report.main([str(runs['linear'])]) == 0
  reader = pages.Reader(runs['linear'] / 'report.html')
  assert reader.headings == HEADINGS
  assert 'examples of val are classified' in reader.text
  assert reader.text.count('Not shown: Linear has no patch embedding') == 1
  assert reader.text.count('Not shown: Linear has no patches that attend') == 2
  assert 'Not shown: the model has no position embedding' in reader.text


def test_a_run_without_checkpoint_has_the_other_sections(runs, tmp_path, capsys):
  for name in ('config.json', 'metrics.jsonl'):
    shutil.copy(runs['token'] / name, tmp_path)
  assert report.main([str(tmp_path)]) == 0
  reader = pages.Reader(tmp_path / 'report.html')
  assert reader.headings == HEADINGS
  assert reader.text.count('has no checkpoints') == 7
  assert 'Training images after all transforms' in reader.text
  (tmp_path / 'metrics.jsonl').unlink()
  assert report.main([str(tmp_path)]) == 1
  assert (
    'has no logged steps and no checkpoint: has it started?' in capsys.readouterr().err
  )


def test_data_that_is_not_here_is_a_reason(runs, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(runs['token'], folder)
  config = json.loads((folder / 'config.json').read_text())
  source = {
    '_fn': 'big_vision_like.data.sources.tfds:Tfds',
    'name': 'glyphs/32',
    'data_dir': str(tmp_path),
  }
  config['train_data']['source'] = config['evals']['val']['data']['source'] = source
  (folder / 'config.json').write_text(json.dumps(config))
  assert report.main([str(folder)]) == 0
  reader = pages.Reader(folder / 'report.html')
  assert reader.text.count('Prepare it with: python tools/prepare_data.py') >= 2
  assert 'principal components' in reader.text, 'the filters need no data'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['nowhere'], 'nowhere is not a run directory'),
    (['~/nowhere'], '/.*/nowhere is not a run directory'),
    (['RUN', '--step=7'], 'no checkpoint of step 7'),
    (['RUN', '--examples=0'], '--examples=0'),
    (['RUN', '--evaluator=test'], '--evaluator=test: the config of .* has val'),
    ([], 'name the folders of runs, or --weights'),
    (['RUN', '--images', 'a.png'], '--images and --image-size are for --weights'),
    (['RUN', '--weights=a.npz'], '--weights cannot be combined'),
  ],
)
def test_wrong_arguments_get_one_sentence(runs, capsys, arguments, message):
  arguments = [str(runs['token']) if a == 'RUN' else a for a in arguments]
  assert report.main(arguments) == 1
  error = capsys.readouterr().err
  assert re.search(message, error) and 'Traceback' not in error


def test_a_browser_shows_the_page(pair_page, tmp_path):
  found = pages.opened(pair_page, tmp_path)
  assert int(found['images']) == len(pages.Reader(pair_page).images)
  assert int(found['tall']) > 2000
