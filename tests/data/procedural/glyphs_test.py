import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import glyphs, strokes

TINY = glyphs.GlyphsConfig(name='tiny', size=20, per_class=(3, 1), seed=5)
ALPHABETS = [strokes.ROUND, strokes.SERIF, strokes.ANGULAR, strokes.HAND]
ALPHABETS += [strokes.SCRIPT]


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  tfds.disable_progress_bar()
  builder = glyphs.Glyphs(data_dir=tmp_path_factory.mktemp('glyphs'), config=TINY)
  builder.download_and_prepare(file_format='array_record')
  return builder


def skeletons(alphabet, character):
  written = alphabet[character]
  return written if isinstance(written, tuple) else (written,)


@pytest.mark.parametrize('alphabet', ALPHABETS)
def test_every_alphabet_has_every_character_inside_the_em_box(alphabet):
  assert sorted(alphabet) == sorted(glyphs.CHARACTERS)
  for character in glyphs.CHARACTERS:
    for text in skeletons(alphabet, character):
      points_N2, ends = glyphs._skeleton(text)
      assert ends[-1] == len(points_N2)
      assert np.abs(points_N2[:, 0]).max() < 0.6, (character, text)
      assert points_N2[:, 1].min() > -0.1, (character, text)
      assert points_N2[:, 1].max() < 1.45, (character, text)


@pytest.mark.parametrize('alphabet', ALPHABETS)
def test_characters_that_share_a_form_differ_in_height(alphabet):
  for capital in 'CKOPSUVWXZ':
    capitals = [glyphs._skeleton(t)[0] for t in skeletons(alphabet, capital)]
    smalls = [glyphs._skeleton(t)[0] for t in skeletons(alphabet, capital.lower())]
    # The stem of k reaches the cap line; p and script z extend below the baseline.
    assert all(p[:, 1].min() < 0.1 and p[:, 1].max() < 1.1 for p in capitals)
    if capital != 'K':
      assert all(p[:, 1].min() > 0.35 for p in smalls)


@pytest.mark.parametrize('alphabet', ALPHABETS)
def test_the_letter_O_is_wider_than_the_digit_0(alphabet):
  def width(text):
    return np.ptp(glyphs._skeleton(text)[0][:, 0])

  letter = min(width(text) for text in skeletons(alphabet, 'O'))
  assert letter > 1.2 * max(width(text) for text in skeletons(alphabet, '0'))


def test_curves_pass_through_their_points_and_keep_corners():
  points_N2 = np.array([[0.0, 0.0], [0.4, 0.0], [0.4, 0.6], [0.0, 0.8]])
  smooth_N2 = glyphs._smooth(points_N2, [False, True, False, False])
  for point in points_N2:
    assert np.abs(smooth_N2 - point).sum(1).min() < 1e-12
  # Before the corner, the curve is the chord because both its ends are sharp.
  assert np.allclose(smooth_N2[smooth_N2[:, 0] < 0.39][:4, 1], 0, atol=0.05)
  rounded_N2 = glyphs._smooth(points_N2, [False] * 4)
  assert not np.allclose(smooth_N2[1:9], rounded_N2[1:9])


def test_an_arc_runs_clockwise_from_the_right():
  (arc_N2,) = glyphs._lines('o 50,50 20,10 0 90')
  assert np.allclose(arc_N2[0], [0.7, 0.5])
  assert np.allclose(arc_N2[-1], [0.5, 0.6])


def test_unknown_strokes_are_refused():
  with pytest.raises(ValueError, match='must begin with one of'):
    glyphs._lines('q 1,2 3,4')


def test_an_example_is_a_function_of_seed_split_and_index():
  image, label = glyphs.draw(1, 'train', 100, 24)
  again, _ = glyphs.draw(1, 'train', 100, 24)
  assert label == 100 - 62
  np.testing.assert_array_equal(image, again)
  for other in [(2, 'train', 100), (1, 'test', 100), (1, 'train', 162)]:
    assert not np.array_equal(image, glyphs.draw(*other, 24)[0])


@pytest.mark.parametrize('size', [8, 16, 32, 224])
def test_pictures_have_the_size_asked_for(size):
  image, _ = glyphs.draw(0, 'train', 3, size)
  assert image.shape == (size, size, 1)
  assert image.dtype == np.uint8
  assert np.ptp(image) > 60


def test_wrong_arguments_are_named():
  rng = np.random.default_rng(0)
  for character in ('', 'ab', '?'):
    with pytest.raises(ValueError, match='is not one of 0123'):
      glyphs.draw_glyph(character, 32, rng)
  with pytest.raises(ValueError, match="split='val' is not one of"):
    glyphs.draw(0, 'val', 0, 32)


def test_sizes_show_the_same_glyph():
  same, other = [], []
  for index in range(62):
    small = glyphs.draw(0, 'train', index, 32)[0][..., 0].astype(float)
    large = glyphs.draw(0, 'train', index, 64)[0][..., 0].astype(float)
    large = cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA)
    same.append(np.corrcoef(small.ravel(), large.ravel())[0, 1])
    foreign = glyphs.draw(0, 'train', index + 62, 32)[0][..., 0].astype(float)
    other.append(np.corrcoef(foreign.ravel(), large.ravel())[0, 1])
  assert np.median(same) > 0.98
  assert np.median(other) < 0.8


def test_strokes_are_mostly_light_on_dark():
  images = np.stack([glyphs.draw(0, 'train', i, 16)[0] for i in range(620)])
  dark = np.median(images, axis=(1, 2, 3)) < 128
  assert 0.85 < dark.mean() < 0.99


def test_the_nearest_neighbour_tells_most_characters_apart():
  def load(split, count):
    examples = [glyphs.draw(0, split, i, 16) for i in range(count)]
    pixels_NP = np.stack([image.ravel() for image, _ in examples]).astype(np.float32)
    pixels_NP -= pixels_NP.mean(axis=1, keepdims=True)
    pixels_NP /= np.linalg.norm(pixels_NP, axis=1, keepdims=True)
    return pixels_NP, np.array([label for _, label in examples])

  train_NP, train_labels = load('train', 62 * 60)
  test_NP, test_labels = load('test', 62 * 10)
  nearest = np.argmax(test_NP @ train_NP.T, axis=1)
  assert (train_labels[nearest] == test_labels).mean() > 0.7


def test_records_hold_the_drawn_examples(builder):
  assert {k: s.num_examples for k, s in builder.info.splits.items()} == {
    'train': 186,
    'test': 62,
  }
  assert builder.info.features['label'].names == list(glyphs.CHARACTERS)
  for split in glyphs.SPLITS:
    records = builder.as_data_source(split=split)
    for index in (0, 1, 61):
      image, label = glyphs.draw(5, split, index, 20)
      np.testing.assert_array_equal(records[index]['image'], image)
      assert (records[index]['label'], records[index]['id']) == (label, index)


def test_any_stretch_of_a_split_is_balanced(builder):
  labels = [e['label'] for e in builder.as_data_source(split='train[62:124]')]
  assert sorted(labels) == list(range(62))


def test_published_configs():
  assert glyphs.Glyphs.DEFAULT_BUILDER_CONFIG_NAME == '32'
  for config in glyphs.Glyphs.BUILDER_CONFIGS:
    assert (str(config.size), config.per_class) == (config.name, (800, 80))
