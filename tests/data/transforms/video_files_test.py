import io
import pathlib
import struct
import sys

import av
import film
import numpy as np
import pytest

from big_vision_like.data.transforms import video, video_files
from big_vision_like.errors import BadRecordError, UserError

IRREGULAR = np.cumsum(np.random.default_rng(0).integers(10, 90, film.COUNT)).tolist()
OPEN = dict(g='12', x264_params='open-gop=1:scenecut=0')
HEVC = 'log-level=none:keyint=12:open-gop=1:pools=1'
# Files whose frames are found by their times, with arguments of `film.written`.
FOUND = {
  'one key frame': {},
  'key frames': dict(g='12'),
  'open groups': OPEN,
  'only key frames': dict(g='1'),
  'no frames out of order': dict(bf='0', g='15'),
  'irregular times': dict(times=IRREGULAR, g='10'),
  'cut start': dict(times=[67 * (n - 6) for n in range(film.COUNT)], g='10'),
  'fragments': dict(g='12', container={'movflags': 'frag_keyframe+empty_moov'}),
  'hevc': dict(codec='libx265', x265_params=HEVC),
  'matroska': dict(kind='matroska', **OPEN),
  'vp9': dict(kind='webm', codec='libvpx-vp9', g='12', cpu_used='8', lag_in_frames='9'),
  'vp8': dict(kind='webm', codec='libvpx', g='20', cpu_used='4'),
}
# Files that are decoded from their start.
DECODED = {
  'avi': dict(kind='avi', codec='mpeg4', bf='2'),
  'avi h264': dict(kind='avi'),
  'mpeg4': dict(codec='mpeg4', bf='2'),
  'transport stream': dict(kind='mpegts', g='12'),
  'mpeg2': dict(kind='mpeg', codec='mpeg2video', bf='2', g='12'),
}


@pytest.fixture(scope='module')
def files() -> dict[str, bytes]:
  return {name: film.written(**how) for name, how in (FOUND | DECODED).items()}


def every_frame(data: bytes) -> list[np.ndarray]:
  """Returns all frames of a file as FFmpeg decodes them from its start."""
  with av.open(io.BytesIO(data)) as container:
    return [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]


@pytest.mark.parametrize('name', [*FOUND, *DECODED])
def test_chosen_frames_are_those_of_decoding_everything(name, files, monkeypatch):
  data, rng = files[name], np.random.default_rng(0)
  every = every_frame(data)
  first = 6 if name == 'cut start' else 0
  assert film.numbers(np.stack(every)) == [*range(first, film.COUNT)]
  if name in FOUND:
    monkeypatch.setattr(video_files, '_from_start', None)  # not needed

  for count in (1, 1, 2, 3, 8, 8):
    picked = np.sort(rng.integers(0, len(every), count))

    def choose(available, fps, picked=picked):
      assert available == len(every) and 14 < fps < 21
      return picked

    indices, frames = video_files.chosen(data, choose, 'x')
    np.testing.assert_array_equal(indices, picked)
    assert frames.keys() == {*picked.tolist()}
    for index, frame in frames.items():
      np.testing.assert_array_equal(frame, every[index])


def test_files_trimmed_by_an_edit_list():
  """Trims as phones do: the file keeps all frames, but shows a third of them."""
  data = bytearray(film.written(g='10'))
  place = data.index(b'elst') + 12  # after version, flags and the number of edits
  duration, start = struct.unpack_from('>Ii', data, place)
  struct.pack_into('>Ii', data, place, duration // 3, start + 15 * 1024)
  _, frames = video_files.chosen(bytes(data), lambda n, fps: np.arange(n), 'x')
  assert film.numbers(np.stack([*frames.values()])) == [*range(15, 35)]
  np.testing.assert_array_equal([*frames.values()], every_frame(bytes(data)))


def test_all_frames_in_one_pass(files):
  for name in ('open groups', 'hevc'):
    every = every_frame(files[name])
    _, frames = video_files.chosen(files[name], lambda n, fps: np.arange(n), 'x')
    np.testing.assert_array_equal(np.stack([frames[n] for n in range(60)]), every)


def test_few_packets_are_decoded_for_a_few_frames(files, monkeypatch):
  """Checks that only groups of 12 frames with a chosen one are decoded, up to it."""
  decoded = []
  monkeypatch.setattr(
    video_files,
    '_from_key',
    lambda *given, real=video_files._from_key: (
      decoded.append(packet.pts) or packet for packet in real(*given)
    ),
  )
  video_files.chosen(files['key frames'], lambda n, fps: np.array([3, 40]), 'x')
  assert len(decoded) < 16
  decoded.clear()
  # Neighbouring groups are decoded in one pass.
  video_files.chosen(files['key frames'], lambda n, fps: np.arange(11, 26), 'x')
  assert len(decoded) < 32 and len({*decoded}) == len(decoded)


def test_paths_are_read_as_bytes_are(files, tmp_path):
  path = tmp_path / 'Ä b.mp4'
  path.write_bytes(files['key frames'])
  given = video.UniformClips(frames=4, stride=8).map({'video': path})['video']
  want = video.UniformClips(frames=4, stride=8).map({'video': files['key frames']})
  np.testing.assert_array_equal(given, want['video'])
  assert video_files.frame_size(path) == (film.HEIGHT, film.WIDTH)


@pytest.mark.parametrize(
  'codec, data, shown',
  [
    ('vp8', b'\x10\0', True),
    ('vp8', b'\x00\0', False),
    ('vp9', b'\x82\0', True),  # a key frame
    ('vp9', b'\x84\0', False),
    ('vp9', b'\x86\0', True),
    ('vp9', b'\x88\0', True),  # a frame shown again
    ('vp9', b'\x84\xc1', True),  # hidden and shown frames
    ('vp9', b'\xb2\0', False),  # profile 3
    ('vp9', b'\xb3\0', True),
    ('h264', b'\0\0', True),
  ],
)
def test_hidden_frames_are_not_counted(codec, data, shown):
  assert video_files._is_shown(data, codec) == shown


# Turned pictures


@pytest.mark.parametrize('rotation', [0, 90, 180, -90])
def test_videos_of_phones_are_upright(rotation):
  data = film.written(rotation=rotation, count=3)
  _, frames = video_files.chosen(data, lambda n, fps: np.array([2]), 'x')
  # The file gives the turn to the left that shows its frames upright.
  want = np.rot90(every_frame(data)[2], rotation // 90)
  np.testing.assert_array_equal(frames[2], want)
  assert video_files.frame_size(data) == want.shape[:2]


PICTURE = np.arange(6).reshape(2, 3, 1)


@pytest.mark.parametrize(
  'matrix, want',
  [
    ((1, 0, 0, 1), PICTURE),
    ((-1, 0, 0, 1), PICTURE[:, ::-1]),
    ((1, 0, 0, -1), PICTURE[::-1]),
    ((0, 1, 1, 0), PICTURE.swapaxes(0, 1)),
    ((0, 1, -1, 0), np.rot90(PICTURE, -1)),
    ((0, -65536, 65536, 3), np.rot90(PICTURE)),
    ((1, 1, -1, 1), PICTURE),  # by 45 degrees
    ((1, 1, 0, 0), PICTURE),
    ((0, 0, 0, 0), PICTURE),
    (None, PICTURE),
  ],
)
def test_display_matrices(matrix, want):
  np.testing.assert_array_equal(video_files.turned(PICTURE, matrix), want)


# Damage


def first_and_last(data, count=2):
  def choose(available, fps):
    return np.linspace(0, available - 1, count).astype(np.int64)

  return video_files.chosen(data, choose, 'a.mp4')


def sound_only() -> bytes:
  file = io.BytesIO()
  output = av.open(file, 'w', format='mp4')
  stream = output.add_stream('aac', rate=16_000)
  frame = av.AudioFrame.from_ndarray(
    np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
  )
  frame.sample_rate = 16_000
  output.mux(stream.encode(frame))
  output.mux(stream.encode())
  output.close()
  return file.getvalue()


def no_frames() -> bytes:
  """Writes a file with headers only."""
  data = film.written(container={'movflags': 'frag_keyframe+empty_moov'})
  return data[: data.index(b'moof') - 4]


@pytest.mark.parametrize(
  'data, words',
  [
    (lambda: b'', r'a.mp4 cannot be read \(0 bytes\)'),
    (lambda: b'x' * 999, r'a.mp4 cannot be read \(999 bytes\)'),
    (lambda: pathlib.Path('nowhere.mp4'), 'cannot be read .there is no such file'),
    (sound_only, 'a.mp4 has no pictures, perhaps only sound'),
    (no_frames, 'a.mp4 has no frame that can be decoded'),
  ],
)
def test_files_without_frames_are_bad_records(data, words):
  with pytest.raises(BadRecordError, match=words):
    first_and_last(data())


def test_truncated_files(files):
  data = film.written(g='12', container={'moov_size': '9000'})
  content = data.index(b'mdat')
  with pytest.raises(BadRecordError, match=r'damaged: \d+ of its 60 frames can be dec'):
    first_and_last(data[: content + (len(data) - content) // 2])
  # Without the index at its end, a file is not readable.
  with pytest.raises(BadRecordError, match='a.mp4 cannot be read'):
    first_and_last(files['key frames'][: files['key frames'].index(b'moov')])


def test_truncated_files_that_only_announce_their_duration(files):
  words = r'a.mp4 is damaged: its frames end after [12].\d of 4.0 seconds'
  for name in ('vp9', 'matroska'):
    with pytest.raises(BadRecordError, match=words):
      first_and_last(files[name][: len(files[name]) * 2 // 3])


def test_a_broken_tail_is_left_out():
  """Tolerates a few missing frames at the end of a file that announces more."""
  data = film.written('avi', 'mjpeg')
  start = data.index(b'movi')
  places = [n for n in range(start, len(data)) if data.startswith(b'00dc', n)]
  cut = data[: places[57]]
  _, frames = first_and_last(cut)
  assert [*frames] == [0, 56]
  with pytest.raises(BadRecordError, match='damaged: 50 of its 60 frames'):
    first_and_last(data[: places[50]])


def test_frames_that_cannot_be_decoded():
  """Packets that are not JPEGs any more: few are left out, many are an error."""
  data = bytearray(film.written('matroska', 'mjpeg'))
  places = [n for n in range(len(data)) if data.startswith(b'\xff\xd8\xff', n)]
  assert len(places) == film.COUNT
  size = min(np.diff(places)) - 20  # without the header of the next frame
  for place in places[-3:]:
    data[place : place + size] = bytes(size)
  _, frames = first_and_last(bytes(data))
  assert film.numbers(np.stack([*frames.values()])) == [0, 56]
  for place in places[20:]:
    data[place : place + size] = bytes(size)
  with pytest.raises(BadRecordError, match='damaged: 20 of its 60 frames'):
    first_and_last(bytes(data))


def test_huge_pictures_are_not_decoded(files, monkeypatch):
  monkeypatch.setattr(video_files.decoding, 'MOST_PIXELS', 3000)
  with pytest.raises(BadRecordError, match='48x64 pixels, more than the limit'):
    first_and_last(files['key frames'])
  # The size may grow within a stream.
  monkeypatch.setattr(video_files.decoding, 'MOST_PIXELS', 100_000)
  small = film.written('mpegts', count=10)
  large = film.written('mpegts', count=50, height=480, width=640)
  with pytest.raises(BadRecordError, match='damaged: 10 of its 60 frames'):
    first_and_last(small + large)


def test_what_to_install_without_pyav(files, monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(UserError, match='video files need PyAV: pip install av'):
    first_and_last(files['key frames'])
