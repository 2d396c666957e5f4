"""Videos named by a TimeSformer: preprocessing, attention, pictures and animations."""

import io
import json

import battery
import cv2
import film
import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from big_vision_like import cli, spec
from big_vision_like.data.transforms import reversal, video
from big_vision_like.errors import UserError
from big_vision_like.inference import clip_attention
from big_vision_like.inference.clips import ClipPreprocessing
from big_vision_like.models import timesformer
from big_vision_like.viz import clips as viz_clips
from big_vision_like.weights import timesformer_names
from tools import predict as tool

SMALL = dict(num_classes=5, patch=8, width=24, depth=2, num_heads=1, mlp_dim=40)
FRAMES = dict(frames=4, stride=8, size=(16, 16))


def made(attention):
  model = timesformer.TimeSformer(**SMALL, attention=attention)
  return model, battery.variables(model, battery.images(1, 4, 16, 16, 3))


def test_views_are_those_of_the_protocol():
  frames = np.arange(40, dtype=np.uint8)[:, None, None, None]
  frames = np.broadcast_to(frames, (40, 16, 24, 3))
  views = ClipPreprocessing(**FRAMES).sized(frames)
  assert views.shape == (3, 4, 16, 16, 3)
  assert views[0, :, 0, 0, 0].tolist() == [0, 10, 20, 31]
  middle = ClipPreprocessing(**FRAMES | dict(stride=0)).sized(frames)
  assert middle[0, :, 0, 0, 0].tolist() == [5, 15, 24, 34]
  normalized = ClipPreprocessing(**FRAMES)(frames)
  np.testing.assert_allclose(
    normalized[0, 1, 0, 0], (10 / 255 - 0.45) / 0.225, rtol=1e-5
  )
  colours = frames * np.array([0, 1, 2], np.uint8)
  rgb, bgr = (ClipPreprocessing(**FRAMES, bgr=bgr)(colours) for bgr in (False, True))
  np.testing.assert_array_equal(bgr, rgb[..., ::-1])


def test_the_clips_of_a_config_become_those_of_the_weights():
  own = ClipPreprocessing(**FRAMES, bgr=True)
  crops = spec.spec(video.ThreeCrops, size=32)
  other = spec.spec(reversal.Reversed, classes=[1])
  nodes = [spec.spec(video.UniformClips, frames=9, stride=1), crops, other]
  first, second, third, last = own.replaced(nodes)
  assert (first.frames, first.stride, second.size) == (4, 8, 16)
  assert spec.symbol(third) is video.ReversedChannels and last == other
  covering = spec.spec(video.CoveringClips, frames=4, stride=8, clips=2)
  assert own.replaced([covering, crops])[0] == covering


def test_frames_of_another_size_are_refused_without_crops():
  own = ClipPreprocessing(**FRAMES, crops=False)
  with pytest.raises(UserError, match='frames are 8x24, but the model takes 16x16'):
    own(np.zeros((4, 8, 24, 3), np.uint8))
  with pytest.raises(UserError, match='there is no video nowhere.mp4'):
    own('nowhere.mp4')
  with pytest.raises(UserError, match='crops of a video are square'):
    ClipPreprocessing(**FRAMES | dict(size=(16, 24)))


@pytest.mark.parametrize('attention', timesformer.SCHEMES)
def test_attention_has_a_weight_for_each_place_and_frame(attention):
  model, variables = made(attention)
  clip = battery.images(2, 4, 16, 16, 3)
  _, probs = jax.jit(lambda v, x: clip_attention.collected(model, v, x))(
    variables, clip
  )
  maps, weights = clip_attention.maps(model, probs, model.clip(clip.shape[1:]))
  assert maps.shape == (2, 4, 2, 2) and weights.shape == (2, 4)
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
  if attention == 'joint':
    assert (maps.sum(axis=(1, 2, 3)) < 1).all()  # the rest is the class token's own
  elif attention == 'space_only':
    want = np.asarray(probs['attention']).mean(axis=1)[:, 0, 1:].reshape(2, 4, 2, 2)
    np.testing.assert_allclose(maps, want / want.sum((2, 3), keepdims=True), rtol=1e-5)
  else:
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)


def test_a_gif_plays_all_frames():
  rng = np.random.default_rng(0)
  frames = np.repeat(rng.integers(0, 256, (3, 1, 1, 3), np.uint8), 12, axis=1)
  frames = np.repeat(frames, 20, axis=2)
  data = viz_clips.gif(frames, seconds=0.2)
  with Image.open(io.BytesIO(data)) as played:
    assert (played.n_frames, played.size, played.info['duration']) == (3, (20, 12), 200)
    for number in range(3):
      played.seek(number)
      shown = np.asarray(played.convert('RGB'))
      np.testing.assert_allclose(shown, frames[number], atol=8)


def test_predict_names_a_video_and_plays_where_it_looked(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)
  _, variables = made('divided')
  state = timesformer_names.TRANSFORMERS.written(
    jax.tree.map(np.asarray, variables['params'])
  )
  safetensors.numpy.save_file(state, tmp_path / 'w.safetensors')
  (tmp_path / 'film.mp4').write_bytes(film.written())
  (tmp_path / 'broken.mp4').write_bytes(b'nothing')
  folder = tmp_path / 'frames'
  folder.mkdir()
  for number in range(9):
    cv2.imwrite(str(folder / f'{number}.png'), film.frame(number))
  status = tool.main(
    [
      f'--weights={tmp_path}/w.safetensors',
      *(str(tmp_path / name) for name in ('film.mp4', 'broken.mp4', 'frames')),
      f'--out={tmp_path}/out',
      f'--json={tmp_path}/found.json',
      '--top=2',
    ]
  )
  told = capsys.readouterr()
  assert status == 1  # a video could not be read
  assert 'broken.mp4' in told.err
  assert '4 frames' in told.out and 'three crops of 16x16' in told.out
  found = json.loads((tmp_path / 'found.json').read_text())
  assert [len(one.get('predictions', ())) for one in found] == [2, 0, 2]
  for name in ('film', 'frames'):
    assert cv2.imread(str(tmp_path / f'out/{name}.png')).shape[1] > 4 * 224
    with Image.open(tmp_path / f'out/{name}-played.gif') as played:
      assert played.n_frames == 4
