"""Tests of reports about generators, and of changing the styles of their components."""

import dataclasses

import gan_config
import ml_collections as mlc
import numpy as np
import pages
import pytest

from big_vision_like import optim
from big_vision_like.data import generation as data
from big_vision_like.errors import UserError
from big_vision_like.evals import attention_segments, generation
from big_vision_like.inference import generating, loading
from big_vision_like.models import discriminator, gansformer
from big_vision_like.report import generation as report_generation
from big_vision_like.run import features
from big_vision_like.spec import build, spec
from big_vision_like.tasks import adversarial
from tools import report


def config():
  """Returns a config of a tiny generator of scans of 8x8 pixels."""
  c = mlc.ConfigDict(dict(seed=0, total_steps=2, log_every=1, keep_last=1))
  images = dataclasses.replace(data.digits16(), size=8, method=None)
  c.train_data = images.train_input(batch_size=8, workers=0)
  size = dict(resolution=8, channels=1, channel_base=64, channel_max=8)
  c.task = spec(
    adversarial.Adversarial,
    generator=spec(
      gansformer.Generator, components=3, latent_width=4, mapping=dict(layers=2), **size
    ),
    discriminator=spec(discriminator.Discriminator, **size),
    generator_optimizer=spec(adversarial.lazy_adam, rate=0.002, every=4),
    discriminator_optimizer=spec(adversarial.lazy_adam, rate=0.002, every=16),
    ema=spec(optim.Ema, half_life=100, collections=('params',)),
    mixing=0.0,
  )
  val = images.eval_input(batch_size=8, part='test', workers=0)
  own = dict(data=val, samples=12, pictures=4)
  c.evals = dict(
    fid=spec(generation.Fid, network=spec(features.Untrained), confident=0.9, **own),
    attention=spec(attention_segments.AttentionSegments, background=0, **own),
  )
  return c


@pytest.fixture(scope='module')
def workdir(data_dir, tmp_path_factory):
  return pages.untrained(config(), tmp_path_factory.mktemp('generation'))


@pytest.fixture(scope='module')
def synthesis(workdir):
  run = loading.load_run(str(workdir))
  return generating.of_run(run.task, run.state)


def test_evaluators_of_a_run(workdir, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  source = pages.source_of(workdir)
  found = pages.evaluated(source, 'fid')
  assert found['fid'] > 0 and 1 <= found['inception_score'] <= 10
  assert 0 <= found['confident'] <= 1 and found['samples'].shape == (1, 130, 196, 3)
  found = pages.evaluated(source, 'attention')
  assert -1 <= found['ari'] <= 1 and found['attention'].ndim == 4


def test_a_report_has_all_sections(workdir):
  assert report.main([str(workdir)]) == 0
  page = pages.Reader(workdir / 'report.html')
  for section in report_generation.Generation.sections:
    assert section.heading in page.headings
  assert 'Not shown' not in page.text
  text = (workdir / 'report.html').read_text()
  assert text.count('image/gif') == 1 and text.count('alt="components swapped"') == 3
  sizes = [picture.shape for picture in pages.pictures_of(text)]
  # 5 values of psi for 12 latents; 6 images with 3 pictures and 3 components each.
  assert (5 * 64 + 8, 12 * 64 + 22, 3) in sizes and (6 * 64 + 10, 394, 3) in sizes


def test_generators_without_styles_show_samples(data_dir, tmp_path):
  folder = pages.untrained(gan_config.get_config(), tmp_path)
  assert report.main([str(folder)]) == 0
  text = (folder / 'report.html').read_text()
  assert 'alt="samples"' in text
  assert 'Interpolation' not in text and 'Not shown' not in text
  task = build(gan_config.get_config().task)
  with pytest.raises(UserError, match='Gan has no generator with styles'):
    generating.of_run(task, None)


def test_styles_depend_on_seed_and_number(synthesis):
  w_BKW = synthesis.styles(3)
  assert w_BKW.shape == (3, 4, 4)
  np.testing.assert_allclose(synthesis.styles(2), w_BKW[:2], atol=1e-6)
  assert np.abs(synthesis.styles(3, seed=1) - w_BKW).max() > 1e-3
  assert np.abs(w_BKW[0] - w_BKW[1]).max() > 1e-3


def test_truncation_to_zero_gives_one_image(synthesis):
  w_BKW = synthesis.styles(3)
  full, none = synthesis.by_truncation(w_BKW, (1.0, 0.0))
  np.testing.assert_allclose(none[0], none[1], atol=1e-6)
  assert np.abs(full[0] - full[1]).max() > 1e-4
  np.testing.assert_array_equal(full, synthesis.images(w_BKW)['image'])


def test_interpolations_pass_through_their_images(synthesis):
  w_BKW = synthesis.styles(2)
  frames = synthesis.interpolated(w_BKW, 3)
  ends = synthesis.images(w_BKW)['image']
  assert frames.shape == (6, 8, 8, 1)
  np.testing.assert_allclose(frames[[0, 3]], ends, atol=1e-5)
  # There and back are the same way.
  np.testing.assert_allclose(frames[1], frames[5], atol=1e-5)
  np.testing.assert_allclose(frames[2], frames[4], atol=1e-5)


def test_a_swap_changes_one_component(synthesis):
  own, other = synthesis.styles(2)
  found = synthesis.swapped(own, other)
  assert found.shape == (4, 8, 8, 1)
  for number in range(4):
    changed = own.copy()
    changed[number] = other[number]
    want = synthesis.images(changed[None])['image'][0]
    np.testing.assert_allclose(found[number], want, atol=1e-5)
