import numpy as np
import pytest

from big_vision_like.viz import images, positions


def test_similarity_is_the_cosine_of_each_pair():
  embedding_ND = np.random.default_rng(0).normal(size=(6, 5))
  found = positions.position_similarity(embedding_ND, (2, 3))
  assert found.shape == (2, 3, 2, 3)
  for i in range(6):
    for j in range(6):
      a, b = embedding_ND[i], embedding_ND[j]
      expected = a @ b / np.sqrt(a @ a * (b @ b))
      np.testing.assert_allclose(found[i // 3, i % 3, j // 3, j % 3], expected)


def test_similarity_of_a_zero_embedding_is_zero():
  found = positions.position_similarity(np.array([[0.0, 0.0], [3.0, 4.0]]), (1, 2))
  np.testing.assert_allclose(found.reshape(2, 2), [[0.0, 0.0], [0.0, 1.0]])


def test_similarity_names_the_grid_that_does_not_fit():
  with pytest.raises(ValueError, match='5 position embeddings .* 2 x 3'):
    positions.position_similarity(np.ones((5, 4)), (2, 3))


@pytest.mark.parametrize('grid', [(2, 3), (3, 2), (14, 14)])
def test_picture_has_one_panel_per_patch_in_its_place(grid):
  height, width = grid
  similarity = np.full((height, width, height, width), -1.0)
  for row in range(height):
    for column in range(width):
      similarity[row, column, row, column] = 1.0
  picture = positions.similarity_picture(similarity, side=200)
  bright = images.colormap(np.ones((1, 1)), -1.0, 1.0)[0, 0]
  rows, columns = np.nonzero(np.all(picture == bright, axis=-1))
  # The bright spot moves with the panel: from the first corner to the last.
  factor = max(1, 200 // width**2)
  assert len(rows) == height * width * factor**2
  assert (rows.min(), columns.min()) == (0, 0)
  assert (rows.max() + 1, columns.max() + 1) == picture.shape[:2]


def test_rows_are_compared_in_the_same_column_and_columns_in_the_same_row():
  similarity = np.random.default_rng(0).normal(size=(2, 3, 2, 3))
  rows, columns = positions.along_rows_and_columns(similarity)
  assert rows.shape == (2, 2) and columns.shape == (3, 3)
  expected = np.mean([similarity[0, c, 1, c] for c in range(3)])
  np.testing.assert_allclose(rows[0, 1], expected)
  expected = np.mean([similarity[r, 2, r, 0] for r in range(2)])
  np.testing.assert_allclose(columns[2, 0], expected)


def test_similarity_by_distance_is_the_mean_of_each_diagonal():
  matrix = np.array([[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]])
  np.testing.assert_allclose(positions.by_distance(matrix), [1.0, 0.4, 0.1])
