"""Sections of a report on image classification: examples and what a ViT learned."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, shape_text
from big_vision_like.evals.evaluator import MeanEvaluator
from big_vision_like.inference.imagenet_words import in_words
from big_vision_like.report import confusion, distillation, page, self_training, vit
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, evenly
from big_vision_like.run import labels
from big_vision_like.tasks import classification
from big_vision_like.viz import images

NUM_INPUTS, NUM_RIGHT, NUM_WRONG, NUM_ROLLOUTS = 16, 8, 16, 8
NUM_FRAMES = 4  # of a clip, shown in a row
NUM_FOR_DISTANCE = 128  # images, as in the paper


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Evaluation examples with the predictions of the model.

  `files` are their paths if each example is a file of its own.
  """

  evaluator: str
  image_BHWC: np.ndarray
  label_B: np.ndarray
  id_B: np.ndarray
  probability_BC: np.ndarray
  names: Sequence[str]
  files: Sequence[str] = ()

  @property
  def counts_CC(self) -> np.ndarray:
    """How many examples of each true class each class was given."""
    best_B = self.probability_BC.argmax(axis=-1)
    return confusion.counts(self.label_B, best_B, len(self.names))


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run whose batches have images or clips."""

  predicts = 'classes'

  @classmethod
  def shows(cls, config: Mapping[str, Any]) -> bool:
    inputs = config['task'].get('inputs') or ('image',)
    return bool({'image', 'video'} & {*inputs})

  @functools.cached_property
  def trained(self) -> vit.Trained:
    """The model, with the predicted examples as its images."""
    network = self.restored.network
    return vit.Trained(
      model=network.module,
      variables=self.restored.variables,
      inputs=lambda image_BHWC: network.inputs({'image': image_BHWC}),
      images=lambda: self.predictions.image_BHWC,
    )

  @functools.cached_property
  def predictions(self) -> Predictions:
    return predict(self)

  @functools.cached_property
  def answers(self) -> distillation.Answers:
    """The predictions of student and teacher of a distillation for the examples."""
    return distillation.answers(self)

  @functools.cached_property
  def attention(self) -> vit.Attention:
    """The attention of the model on images spread over the predicted examples."""
    rows = evenly(len(self.predictions.image_BHWC), NUM_FOR_DISTANCE)
    shown = rows[evenly(len(rows), NUM_ROLLOUTS)]
    return vit.attend(self.trained, rows, shown)


def predict(source: Source) -> Predictions:
  """Runs the model on examples spread over an evaluator's data."""
  # These evaluators compare outputs with labels; few-shot data have other classes.
  name, made = source.spread_of(MeanEvaluator, 'predicts labels')
  sigmoid = source.log.config['task'].get('loss_type') in classification.BY_CLASS

  def measure(outputs: Any, batch: Any) -> dict[str, jax.Array]:
    image_BHWC = pictures(batch)
    if image_BHWC is None or np.ndim(batch.get('label')) != 1:
      raise UserError(f'the data of evals.{name} is not images with one label each.')
    logits_BC = outputs.get('logits')
    if np.ndim(logits_BC) != 2:
      raise UserError('the task predicts no `logits` over classes.')
    probability = jax.nn.sigmoid if sigmoid else jax.nn.softmax
    own = {k: batch[k] for k in ('label', 'id') if k in batch} | {'image': image_BHWC}
    return own | {'probability': probability(logits_BC.astype(jnp.float32))}

  found = source.joined(made, measure)
  values = found.values
  classes = values['probability'].shape[-1]
  if values['label'].max() >= classes:
    raise UserError(
      f'evals.{name} has labels up to {values["label"].max()}, but the model has '
      f'{classes} classes.'
    )
  files = made.data.source.files
  return Predictions(
    evaluator=name,
    image_BHWC=values['image'],
    label_B=values['label'],
    id_B=values.get('id', found.index_N),
    probability_BC=values['probability'],
    names=class_names(source, made.data, classes),
    files=[files[i] for i in found.index_N.tolist()] if files else (),
  )


def pictures(batch: Any) -> Any:
  """Returns images (B, H, W, C), a few frames of each clip in a row; None if neither.

  Of several views of a clip, it is the middle one.
  """
  if 'image' in batch or 'video' not in batch:
    return batch.get('image')
  video = batch['video']
  if video.ndim == 6:
    video = video[:, video.shape[1] // 2]
  frames_BTHWC = video[:, evenly(video.shape[1], NUM_FRAMES)]
  batch_size, count, height, width, channels = frames_BTHWC.shape
  rows_BHTWC = frames_BTHWC.swapaxes(1, 2)
  return rows_BHTWC.reshape(batch_size, height, count * width, channels)


def of_images(source: Source) -> bool:
  """Returns whether a run's inputs are images, and not clips."""
  return 'video' not in (source.log.config['task'].get('inputs') or ())


def class_names(source: Source, data: Any, count: int) -> list[str]:
  """Returns the names of the classes 0 to `count` - 1, or numbers without names.

  The names of the run have precedence over the names of the data.
  """
  known = source.class_names('label') or labels.vocabulary(data).get('label', {})
  return [in_words(known.get(label, str(label))) for label in range(count)]


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the first training examples, augmented."""
  data, batch = source.training_batch(NUM_INPUTS)
  image_BHWC = pictures(batch)
  if image_BHWC is None or np.ndim(batch.get('label')) != 1:
    raise UserError('the training batches are not images with one label each.')
  names = class_names(source, data, int(batch['label'].max()) + 1)
  cards = []
  for image_HWC, label in zip(
    image_BHWC[:NUM_INPUTS], batch['label'][:NUM_INPUTS], strict=True
  ):
    name = names[label] if label >= 0 else 'no label'
    cards.append(page.card(thumbnail(image_HWC), name, page.text_line(name)))
  kind = 'image' if 'image' in batch else 'video'
  size = shape_text(batch[kind].shape[1:])
  caption = (
    f'Training {kind}s after all transforms, as {size} arrays enter the model, each '
    'with its label. Augmentation on the device (mixup) is applied later, if any.'
  )
  return page.cards(cards), caption


def predicted(source: Source) -> tuple[str, str]:
  """Shows examples that are classified correctly, and the most confident mistakes."""
  found = source.predictions
  order = np.argmax(found.probability_BC, axis=-1)
  right_B = order == found.label_B
  confidence_B = found.probability_BC.max(axis=-1)
  wrong = np.nonzero(~right_B)[0]
  wrong = wrong[np.argsort(-confidence_B[wrong], kind='stable')][:NUM_WRONG]
  right = np.nonzero(right_B)[0]
  right = right[evenly(len(right), NUM_RIGHT)]
  text = page.paragraph(
    f'{right_B.sum():,} of {len(right_B):,} examples of '
    f'{found.evaluator} are classified correctly ({100 * right_B.mean():.2f}\u00a0%).'
  )
  content = ''
  for heading, rows in (('Most confident mistakes', wrong), ('Right', right)):
    cards = [prediction_card(found, row) for row in rows]
    content += page.heading(heading)
    content += page.cards(cards) if cards else page.paragraph('There are none.')
  caption = (
    'Below each image are its true class and the most probable classes with their '
    'probabilities; green marks the true class.'
  )
  return text + content, caption


def prediction_card(found: Predictions, row: int) -> str:
  probability_C, label = found.probability_BC[row], found.label_B[row]
  best = [int(c) for c in np.argsort(-probability_C, kind='stable')[:3]]
  if label not in best:
    best.append(int(label))
  bars = ''.join(
    page.bar(found.names[c], float(probability_C[c]), c == label) for c in best
  )
  lines, title = '', f'example {found.id_B[row]}'
  if found.files:
    # Names that are not UTF-8 have no place in the page.
    title = os.fsencode(found.files[row]).decode(errors='replace')
    lines = page.text_line(os.path.basename(title))
  lines += page.text_line(f'true: {found.names[label]}')
  return page.card(thumbnail(found.image_BHWC[row]), title, lines + bars)


def accuracy_by_class(source: Source) -> tuple[str, str]:
  """Shows how often each class is recognized."""
  found = source.predictions
  data = f'{len(found.label_B):,} examples of {found.evaluator}'
  return confusion.by_class(found.counts_CC, found.names, data)


def confusions(source: Source) -> tuple[str, str]:
  """Shows which classes are mistaken for which."""
  found = source.predictions
  return confusion.matrix(found.counts_CC, found.names)


def attention_rollout(source: Source) -> tuple[str, str]:
  """Shows which parts of images the output depends on, by attention rollout."""
  attended, found = source.attention, source.predictions
  cards = []
  for place, row in enumerate(attended.shown):
    stack = vit.rollout_pictures(
      visible(found.image_BHWC[row]), attended.of(place), source.trained.grid
    )
    name = found.names[found.label_B[row]]
    cards.append(page.card(stack, name, page.text_line(name)))
  return page.cards(cards), vit.how_to_read_rollouts(source.trained)


def student_and_teacher(source: Source) -> tuple[str, str]:
  """Shows how often student and teacher agree, and examples where they differ."""
  shown = source.predictions
  pictures = [functools.partial(thumbnail, x_HWC) for x_HWC in shown.image_BHWC]
  return distillation.compared(
    source.answers, shown.names, shown.id_B, pictures, shown.evaluator
  )


def visible(image_HWC: np.ndarray) -> np.ndarray:
  """Converts an input, uint8 or float in [-1, 1], to RGB uint8; raises `UserError`."""
  if np.issubdtype(image_HWC.dtype, np.floating):
    image_HWC = 0.5 * (image_HWC + 1.0)
  return images.to_rgb(image_HWC)


def thumbnail(image_HWC: np.ndarray) -> str:
  """Returns an input image at the size of a card."""
  return page.picture(images.fit(visible(image_HWC), vit.THUMBNAIL), 'example')


Source.sections = (
  Section('Inputs', sample_inputs, 'below', fits=self_training.learns_from_labels),
  Section(
    'Inputs',
    self_training.inputs,
    'below',
    fits=self_training.learns_from_pseudo_labels,
  ),
  Section(
    'Pseudo labels',
    self_training.confidence,
    'below',
    fits=self_training.learns_from_pseudo_labels,
  ),
  Section('Predictions', predicted, 'below'),
  Section('Accuracy by class', accuracy_by_class, 'beside'),
  Section('Confusion matrix', confusions, 'below'),
  Section(
    'Student and teacher', student_and_teacher, 'below', fits=distillation.distils
  ),
  vit.FILTERS,
  dataclasses.replace(vit.POSITIONS, fits=of_images),
  Section('Attention rollout', attention_rollout, 'below', fits=of_images),
  dataclasses.replace(vit.DISTANCES, fits=of_images),
)
