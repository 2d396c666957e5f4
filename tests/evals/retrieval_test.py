import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import retrieval


def test_recalls_of_a_small_matrix():
  # Five captions (rows) of four images; captions 0 and 1 show image 0.
  scores = np.array(
    [
      [0.9, 0.1, 0.2, 0.3],  # first
      [0.4, 0.8, 0.7, 0.6],  # fourth
      [0.1, 0.5, 0.5, 0.2],  # a tie with image 2: second
      [0.2, 0.3, 0.6, 0.1],  # first
      [0.3, 0.3, 0.3, 0.3],  # all equal: last
    ]
  )
  image = np.array([0, 0, 1, 2, 3])
  found = retrieval.recalls(scores, image)
  assert found['r1'] == 2 / 5 and found['r5'] == found['r10'] == 1
  # Image 0: 0.9 is best. Image 1: caption 1 is better. Image 2: caption 1 is better.
  # Image 3: captions 1 (0.6) and 0 (a tie) precede caption 4.
  assert found['captions_r1'] == 1 / 4 and found['captions_r5'] == 1
  with_ties = retrieval.recalls(np.zeros((24, 12)), np.arange(24) % 12)
  assert not any(with_ties.values())


def examples(rng, captions, images):
  text = [
    {
      'tokens': rng.integers(0, 9, 4).astype(np.int32),
      'image_number': np.int32(i % images),
      'id': i,
    }
    for i in range(captions)
  ]
  image = [
    {
      'regions': rng.normal(0, 1, (3, 4)).astype(np.float32),
      'locations': np.zeros((3, 5), np.float32),
      'region_mask': rng.random(3) < 0.7,
      'id': i,
    }
    for i in range(images)
  ]
  return text, image


def match(state, batch, key):
  image = jnp.where(batch['region_mask'][..., None], batch['regions'], 0.0).sum(1)
  return {'score': state * (batch['tokens'] * image).sum(1)}


@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize('chunk', [3, 4, 100])
def test_all_pairs_are_scored(devices, chunk):
  text, image = examples(np.random.default_rng(0), 11, 7)

  def data(rows, size):
    return pipeline.EvalInput(source=rows, transforms=(), batch_size=size)

  evaluator = retrieval.Retrieval(
    data=data(text, 4), images=data(image, 2), chunk=chunk
  )
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  scores, number = evaluator.scores(match, jnp.float32(2.0), mesh)
  total = [(x['regions'] * x['region_mask'][:, None]).sum(0) for x in image]
  expected = 2 * np.array([[(x['tokens'] * y).sum() for y in total] for x in text])
  np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
  assert number.tolist() == [i % 7 for i in range(11)]
  found = evaluator.run(match, jnp.float32(2.0), mesh).scalars
  assert found == retrieval.recalls(scores, number)


def test_unusable_images():
  text, image = examples(np.random.default_rng(0), 4, 3)

  def evaluator(rows, state):
    data, images = (
      pipeline.EvalInput(source=x, transforms=(), batch_size=2) for x in (text, rows)
    )
    return retrieval.Retrieval(data=data, images=images).run(match, jnp.float32(state))

  with pytest.raises(UserError, match='of the image 2, but there are 2 images'):
    evaluator(image[:2], 1.0)
  with pytest.raises(UserError, match='not finite'):
    evaluator(image, np.nan)
