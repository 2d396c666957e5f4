import pickle
import struct

import cv2
import film
import numpy as np
import pytest

from big_vision_like.data.transforms import image, video
from big_vision_like.errors import BadRecordError, UserError

COUNT = 40
HEIGHT, WIDTH, frame, numbers = film.HEIGHT, film.WIDTH, film.frame, film.numbers


def encoded(number: int) -> bytes:
  return cv2.imencode('.png', frame(number)[..., ::-1])[1].tobytes()


@pytest.fixture(scope='module')
def files() -> dict[str, bytes]:
  """Videos of 40 frames, 15 a second."""
  return {
    'mp4': film.written(count=COUNT, g='12'),
    'avi': film.written('avi', 'mjpeg', count=COUNT),
    'webm': film.written('webm', 'libvpx', count=COUNT),
    # Frames and nothing else, so that nobody says how many.
    'mjpeg': b''.join(
      cv2.imencode('.jpg', frame(n)[..., ::-1])[1].tobytes() for n in range(COUNT)
    ),
  }


# Which frames


def rng(seed: int = 0) -> np.random.Generator:
  return np.random.default_rng(seed)


def test_a_clip_starts_at_zero_and_spans_its_length():
  got = video.uniform_clip(300, fps=30.0, frames=8, stride=32)
  # 256 frames, of which the first and the last are taken; fractions are cut.
  np.testing.assert_array_equal(got, [0, 36, 72, 109, 145, 182, 218, 255])
  assert got.dtype == np.int64


def test_clips_are_as_long_whatever_the_rate_of_frames():
  slow = video.uniform_clip(300, fps=15.0, frames=8, stride=32)
  assert slow[0] == 0 and slow[-1] == 127  # 128 frames at 15 are 256 at 30
  fast = video.uniform_clip(600, fps=60.0, frames=8, stride=32)
  assert fast[-1] == 511


def test_clips_to_test_on_are_spread_without_reaching_the_end():
  starts = [video.uniform_clip(300, 30.0, 8, 16, clip, 4)[0] for clip in range(4)]
  assert starts == [0, 43, 86, 129]  # quarters of 300 - 128


def test_a_random_clip_starts_anywhere():
  clips = [video.random_clip(300, 30.0, 8, 32, rng(seed)) for seed in range(400)]
  starts = np.array([clip[0] for clip in clips])
  assert set(starts) == set(range(300 - 256))
  ends = np.array([clip[-1] for clip in clips])
  assert ends.max() <= 299 and set(ends - starts) <= {254, 255, 256}
  np.testing.assert_array_equal(clips[3], video.random_clip(300, 30.0, 8, 32, rng(3)))


@pytest.mark.parametrize('available', [1, 5, 100])
def test_too_short_a_video_repeats_its_last_frame(available):
  for clip in (
    video.uniform_clip(available, 30.0, 8, 32),
    video.random_clip(available, 30.0, 8, 32, rng()),
  ):
    np.testing.assert_array_equal(
      clip, np.minimum([0, 36, 72, 109, 145, 182, 218, 255], available - 1)
    )


def test_one_frame_is_the_first_of_its_clip():
  assert video.spread(7.9, 32, 1, 100).tolist() == [7]


def test_segments_are_those_of_the_published_code():
  # 100 frames in 8: ends are multiples of 99 / 8, rounded.
  ends = [0, 12, 25, 37, 50, 62, 74, 87, 99]
  middle = video.middle_segments(100, 8)
  assert middle.tolist() == [(a + b) // 2 for a, b in zip(ends, ends[1:], strict=False)]
  draws = np.stack([video.random_segments(100, 8, rng(seed)) for seed in range(600)])
  np.testing.assert_array_equal(draws.min(0), ends[:-1])
  np.testing.assert_array_equal(draws.max(0), ends[1:])


def test_segments_of_few_frames_repeat_them():
  assert video.middle_segments(3, 8).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
  assert set(video.random_segments(1, 8, rng())) == {0}


def test_clips_cover_a_video_without_overlap():
  got = video.covering_clips(1000, 30.0, frames=8, stride=32)
  assert got.shape == (4, 8)  # 4 of 256
  np.testing.assert_array_equal(got[:, 0], [0, 256, 512, 768])
  np.testing.assert_array_equal(got[:3, -1], [255, 511, 767])
  assert got[3, -1] == 999
  assert len(video.covering_clips(512, 30.0, 8, 32)) == 2
  assert len(video.covering_clips(1, 30.0, 8, 32)) == 1


# Decoding


def clip_of(given, **options):
  options = dict(frames=5, stride=8) | options
  return video.UniformClips(**options).map({'video': given, 'id': 7, 'label': 3})


@pytest.mark.parametrize('kind', ['mp4', 'avi', 'webm', 'mjpeg'])
def test_files_give_the_frames_asked_for_in_rgb(kind, files):
  got = clip_of(files[kind])
  fps = 25.0 if kind == 'mjpeg' else 15.0  # FFmpeg's default
  want = video.uniform_clip(COUNT, fps, frames=5, stride=8)
  assert numbers(got['video']) == want.tolist()
  assert got['video'].shape == (5, HEIGHT, WIDTH, 3) and got['label'] == 3
  assert got['video'].dtype == np.uint8


@pytest.mark.parametrize('kind', ['mp4', 'avi', 'webm'])
def test_every_frame_of_a_file_can_be_had(kind, files):
  got = video.MiddleSegments(frames=COUNT).map({'video': files[kind]})['video']
  want = video.middle_segments(COUNT, COUNT)
  assert numbers(got) == want.tolist()


@pytest.mark.parametrize('kind', ['list', 'array', 'decoded'])
def test_frames_in_a_list(kind):
  given = [encoded(number) for number in range(COUNT)]
  if kind == 'array':  # as TFDS has sequences
    given = np.array(given, object)
  if kind == 'decoded':
    given = np.stack([frame(number) for number in range(COUNT)])
  got = clip_of(given)
  assert numbers(got['video']) == [0, 9, 19, 29, 39]
  assert numbers(clip_of(given, fps=15.0)['video']) == [0, 4, 9, 14, 19]


def test_only_chosen_frames_are_decoded():
  given = [b'broken'] * COUNT
  for number in (0, 9, 19, 29, 39):
    given[number] = encoded(number)
  assert numbers(clip_of(given)['video']) == [0, 9, 19, 29, 39]


def test_random_clips_are_drawn_from_the_generator(files):
  clip = video.RandomClip(frames=4, stride=4)
  given = {'video': files['mp4']}
  seen = {tuple(numbers(clip.random_map(given, rng(s))['video'])) for s in range(20)}
  assert len(seen) > 10
  first, again = (clip.random_map(given, rng(3))['video'] for _ in range(2))
  np.testing.assert_array_equal(first, again)
  segments = video.RandomSegments(frames=4)
  seen = {
    tuple(numbers(segments.random_map(given, rng(s))['video'])) for s in range(20)
  }
  assert len(seen) > 10 and all(list(s) == sorted(s) for s in seen)


def test_several_clips_have_an_axis():
  given = [encoded(number) for number in range(COUNT)]
  got = clip_of(given, frames=2, stride=4, clips=3)['video']
  assert got.shape == (3, 2, HEIGHT, WIDTH, 3)
  assert numbers(got) == [[0, 7], [10, 17], [21, 28]]


def test_covering_clips_are_filled_up():
  given = {'video': [encoded(number) for number in range(COUNT)], 'id': 7}
  got = video.CoveringClips(frames=2, stride=8, clips=4).map(given)
  assert numbers(got['video']) == [[0, 15], [16, 31], [32, 39], [39, 39]]
  assert got['view_mask'].tolist() == [True, True, True, False]
  with pytest.raises(BadRecordError, match='id 7 needs 3 clips.* more than clips=2'):
    video.CoveringClips(frames=2, stride=8, clips=2).map(given)


# Damage


@pytest.mark.parametrize(
  'given, words',
  [
    ([], 'has no frames'),
    (b'', r'id 7 cannot be read \(0 bytes\)'),
    (b'not a video', r'id 7 cannot be read \(11 bytes\)'),
    ([b'not an image'], 'frame 0 of a video: the image of the example with id 7'),
    ([encoded(0), encoded(1)[:60]], 'frame 1 of a video: the image'),
    (
      [np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
      r'frames of several sizes: \[\(4, 5, 3\), \(5, 4, 3\)\]',
    ),
  ],
)
def test_videos_that_cannot_be_read_are_named(given, words):
  with pytest.raises(BadRecordError, match=words):
    clip_of(given)


def test_a_file_that_is_cut_is_told(files):
  with pytest.raises(BadRecordError, match='id 7 cannot be read'):
    clip_of(files['mp4'][: len(files['mp4']) // 2])
  with pytest.raises(BadRecordError, match=r'id 7 is damaged: \d+ of its 40 frames'):
    clip_of(files['avi'][: len(files['avi']) // 2], stride=16)


def test_of_a_file_that_announces_too_many_those_are_taken_that_it_has(files):
  more = bytearray(files['avi'])
  for header, place in [(b'avih', 16), (b'strh', 32)]:
    start = more.index(header) + 8 + place
    assert struct.unpack_from('<I', more, start) == (COUNT,)
    struct.pack_into('<I', more, start, COUNT + 2)
  got = clip_of(bytes(more), frames=COUNT + 2, stride=2)
  want = video.uniform_clip(COUNT, 15.0, frames=COUNT + 2, stride=2)
  assert numbers(got['video']) == want.tolist()
  every = video.RandomSegments(frames=COUNT + 2)
  first = every.random_map({'video': bytes(more)}, rng())['video']
  second = every.random_map({'video': files['avi']}, rng())['video']
  np.testing.assert_array_equal(first, second)


# Transforms of frames


def clip(frames=3, height=30, width=40):
  shape = (frames, height, width, 3)
  return rng(1).integers(0, 256, shape).astype(np.uint8)


def tall(frames):
  """Frames side by side in the channels of one image."""
  return np.concatenate(list(frames), axis=-1)


@pytest.mark.parametrize('transform', [image.RandomCrop(20), image.Flip()])
@pytest.mark.parametrize('seed', range(4))
def test_all_frames_are_drawn_alike(transform, seed):
  given = clip()
  alike = video.EachFrameAlike(transform)
  got = alike.random_map({'video': given, 'label': 3}, rng(seed))
  want = transform.random_map({'image': tall(given)}, rng(seed))['image']
  np.testing.assert_array_equal(tall(got['video']), want)
  assert got.keys() == {'video', 'label'}


def test_frames_alike_after_any_transform():
  """Checks that equal frames stay equal, and that one frame's draws are used."""
  same = np.broadcast_to(clip(1), (4, 30, 40, 3))
  for transform in (image.InceptionCrop(16), image.RandomAffine(20, 0.2, 0.2)):
    generator, one = rng(5), rng(5)
    got = video.EachFrameAlike(transform).random_map({'video': same}, generator)
    want = transform.random_map({'image': same[0]}, one)['image']
    for picture in got['video']:
      np.testing.assert_array_equal(picture, want)
    assert generator.random() == one.random()


def test_each_frame_of_several_clips():
  given = clip(6).reshape(2, 3, 30, 40, 3)
  got = video.EachFrame(image.CentralCrop(20)).map({'video': given})['video']
  np.testing.assert_array_equal(got, given[:, :, 5:25, 10:30])


def test_random_and_other_transforms_are_kept_apart():
  with pytest.raises(UserError, match='Flip.* is random: use EachFrameAlike'):
    video.EachFrame(image.Flip())
  with pytest.raises(UserError, match='Resize.* is not random: use EachFrame'):
    video.EachFrameAlike(image.Resize(4))


def test_reversed_channels():
  given = clip(2)
  got = video.ReversedChannels().map({'video': given, 'label': 3})
  np.testing.assert_array_equal(got['video'], given[..., [2, 1, 0]])
  assert got['label'] == 3


@pytest.mark.parametrize('height, width', [(24, 36), (36, 24), (24, 24)])
def test_scale_and_crop_has_the_published_sizes_and_places(height, width):
  rows, columns = np.mgrid[:height, :width]
  given = np.stack([rows, columns, rows], -1).astype(np.uint8)
  transform = video.ScaleAndCrop(20, short_side=(24, 24))
  places = set()
  for seed in range(400):
    got = transform.random_map({'image': given}, rng(seed))['image']
    assert got.shape == (20, 20, 3)
    places.add(tuple(got[0, 0, :2].tolist()))
  # The last place, height - 20, is never taken.
  assert places == {(y, x) for y in range(height - 20) for x in range(width - 20)}


def test_short_sides_are_drawn_between_their_limits():
  sides = []
  for reciprocal in (False, True):
    transform = video.ScaleAndCrop(10, (10, 40), reciprocal)
    generator, drawn = rng(), []
    for _ in range(300):
      got = transform.random_map({'image': ramp(20, 20)}, generator)['image']
      # The ramp rises by 10 a column of 20.
      drawn.append(200 / np.diff(got[5, 1:-1, 0].astype(float)).mean())
    sides.append(np.array(drawn))
  for drawn in sides:
    assert 9.5 < drawn.min() < 11.5 and 37 < drawn.max() < 41
  assert abs(sides[0].mean() - 25) < 2
  assert abs(sides[1].mean() - np.log(4) / (1 / 10 - 1 / 40)) < 2  # the mean of 1 / U


def ramp(height, width):
  """Returns a video that is brighter by 10 from column to column."""
  picture = np.broadcast_to(10 * np.arange(width, dtype=np.uint8), (height, width))
  return picture[..., None].repeat(3, axis=-1)


def test_a_short_side_below_the_crop_is_an_error():
  with pytest.raises(UserError, match=r'short_side=\(20, 30\) must ascend'):
    video.ScaleAndCrop(24, (20, 30))


@pytest.mark.parametrize(
  'height, width, starts', [(20, 27, (0, 4, 7)), (31, 20, (0, 6, 11))]
)
def test_three_crops_cover_the_longer_side(height, width, starts):
  given = clip(2, height, width)
  got = video.ThreeCrops(20).map({'video': given})['video']
  assert got.shape == (3, 2, 20, 20, 3)
  for view, start in zip(got, starts, strict=True):
    rows = slice(start, start + 20) if height > width else slice(None)
    columns = slice(None) if height > width else slice(start, start + 20)
    np.testing.assert_array_equal(view, given[:, rows, columns])


def test_three_crops_of_other_sizes_and_of_several_clips():
  given = clip(6, 30, 40).reshape(2, 3, 30, 40, 3)
  got = video.ThreeCrops(15).map({'video': given, 'view_mask': np.array([True, False])})
  assert got['video'].shape == (6, 3, 15, 15, 3)
  assert got['view_mask'].tolist() == [True] * 3 + [False] * 3
  one = video.ThreeCrops(15).map({'video': given[1]})['video']
  np.testing.assert_array_equal(got['video'][3:], one)
  square = video.ThreeCrops(30).map({'video': given[0, :, :, :30]})['video']
  np.testing.assert_array_equal(square[0], square[2])


def test_transforms_travel_to_workers(files):
  given = {'video': files['mp4']}
  steps = [
    video.RandomClip(4, 4),
    video.EachFrameAlike(video.ScaleAndCrop(32, (36, 44))),
    video.EachFrameAlike(image.Flip()),
  ]
  first, second = given, given
  for step in steps:
    first = step.random_map(first, rng(2))
    second = pickle.loads(pickle.dumps(step)).random_map(second, rng(2))
  assert first['video'].shape == (4, 32, 32, 3)
  np.testing.assert_array_equal(first['video'], second['video'])
