"""The input of google-research/big_vision in tf.data, for comparison with ours.

It runs in its own process, see `inputs.py`; no other module imports TensorFlow.
"""

import os
import pathlib
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


def batches(
  size: int,
  batch_size: int,
  folder: str,
  randaugment: Sequence[int],
  workers: int,
  big_vision: str,
) -> Iterator[dict[str, Any]]:
  """Returns uint8 batches from TFRecords of JPEGs, on one thread without workers.

  `randaugment` is () or layers and magnitude, for the code of the checkout
  `big_vision`.
  """
  file = pathlib.Path(folder) / f'records-{os.getpid()}.tfrecord'
  write(file, sorted(pathlib.Path(folder).glob('*.jpg')))
  distort = reference_randaugment(big_vision) if randaugment else None

  def example(record: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {
      'image': tf.io.FixedLenFeature([], tf.string),
      'label': tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_single_example(record, features)
    image = cropped(parsed['image'], size)
    image = tf.image.random_flip_left_right(image)
    if distort:
      image = distort(image, *randaugment)
    return {'image': image, 'label': parsed['label']}

  threads = workers or 1
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  data = tf.data.TFRecordDataset(str(file)).cache().repeat().shuffle(512)
  data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE if workers else 1)
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  data = data.batch(batch_size).with_options(options)
  return data.prefetch(2).as_numpy_iterator()


def cropped(jpeg: tf.Tensor, size: int) -> tf.Tensor:
  """Decodes only a random crop of a JPEG, and resizes it."""
  begin, shape, _ = tf.image.sample_distorted_bounding_box(
    tf.image.extract_jpeg_shape(jpeg),
    tf.zeros([0, 0, 4], tf.float32),
    area_range=(0.05, 1.0),
    min_object_covered=0,
    use_image_if_no_bounding_boxes=True,
  )
  window = tf.concat([begin[:2], shape[:2]], axis=0)
  image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3)
  return tf.cast(tf.image.resize(image, [size, size]), tf.uint8)


def write(file: pathlib.Path, jpegs: Sequence[pathlib.Path]) -> None:
  """Writes JPEGs as TFRecords."""
  with tf.io.TFRecordWriter(str(file)) as writer:
    for index, jpeg in enumerate(jpegs):
      image = tf.train.BytesList(value=[jpeg.read_bytes()])
      label = tf.train.Int64List(value=[index % 1000])
      feature = {
        'image': tf.train.Feature(bytes_list=image),
        'label': tf.train.Feature(int64_list=label),
      }
      example = tf.train.Example(features=tf.train.Features(feature=feature))
      writer.write(example.SerializeToString())


def reference_randaugment(big_vision: str) -> Any:
  """Returns RandAugment of the checkout, on TensorFlow's own projective transform.

  This transform replaces TensorFlow Addons, which the checkout imports and which is no
  longer maintained.
  """

  def transform(image: tf.Tensor, matrix: Any) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
      images=image[None],
      transforms=tf.reshape(tf.stack([tf.cast(x, tf.float32) for x in matrix]), [1, 8]),
      output_shape=tf.shape(image)[:2],
      fill_value=0.0,
      interpolation='NEAREST',
    )[0]

  def translate(image: tf.Tensor, shift: Any) -> tf.Tensor:
    return transform(image, [1.0, 0.0, -shift[0], 0.0, 1.0, -shift[1], 0.0, 0.0])

  def rotate(image: tf.Tensor, radians: Any) -> tf.Tensor:
    cos, sin = tf.cos(radians), tf.sin(radians)
    bottom, right = (tf.cast(n - 1, tf.float32) for n in image.shape[:2])
    dx = (right - (cos * right - sin * bottom)) / 2
    dy = (bottom - (sin * right + cos * bottom)) / 2
    return transform(image, [cos, -sin, dx, sin, cos, dy, 0.0, 0.0])

  addons = types.ModuleType('tensorflow_addons')
  addons.image = types.SimpleNamespace(
    transform=transform, translate=translate, rotate=rotate
  )
  sys.modules['tensorflow_addons'] = addons
  sys.path.insert(0, big_vision)
  from big_vision.pp.archive import autoaugment

  return autoaugment.distort_image_with_randaugment
