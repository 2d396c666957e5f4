import numpy as np

from big_vision_like.data.procedural import scene_captions as data
from big_vision_like.data.procedural import scene_questions

CONFIG = data.SceneCaptions.BUILDER_CONFIGS[0]


def test_a_caption_names_the_three_objects_on_the_left():
  for index in range(20):
    example = data.draw(CONFIG, 'train', index)
    order = np.argsort(example['boxes'][:, 0])
    classes = example['classes'].argmax(axis=1)[order]
    pairs = (divmod(label, len(data.SHAPES)) for label in classes[: data.NAMED])
    names = [f'{data.COLORS[color]} {data.SHAPES[shape]}' for color, shape in pairs]
    assert example['caption'] == ' '.join(names)
    np.testing.assert_array_equal(example['classes'].sum(axis=1), 1)
    # The features are those of the classes, with noise.
    exact = scene_questions.features(*divmod(classes, len(data.SHAPES)))
    noise = example['features'][order] - exact
    assert 0.2 < noise.std() < 0.4
    np.testing.assert_allclose(example['boxes'][order][:, 0], np.arange(5) / 5)


def test_examples_depend_on_split_and_index():
  one, same = (data.draw(CONFIG, 'train', 3) for _ in range(2))
  np.testing.assert_array_equal(one['features'], same['features'])
  for other in (data.draw(CONFIG, 'train', 4), data.draw(CONFIG, 'validation', 3)):
    assert (other['features'] != one['features']).any()
