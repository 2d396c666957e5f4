"""Predictions of a teacher for all images of a source, stored as one record per image.

`data.sources.pseudo_labels` reads them. The images are divided into files of equal
size. All processes predict each file together, and each process reads its rows of every
batch. The first process writes the file, which gets its name once it is complete.
Therefore the same command resumes after a kill, and no image is lost or duplicated.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like import files
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import array_records, pseudo_labels
from big_vision_like.data.sources.base import Source, digest
from big_vision_like.devices import mesh as meshes
from big_vision_like.devices import processes
from big_vision_like.devices.processes import say
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.evals import evaluator
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.ops import images, sharding
from big_vision_like.run import checkpoint
from big_vision_like.run import workdir as workdirs

# Bytes of an id that are kept.
ID_BYTES = 128


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A network with its variables, its preprocessing, and a name for people."""

  name: str
  model: nn.Module
  variables: Any
  preprocess: Preprocessing

  def probabilities(self, variables: Any, image_BHWC: jax.Array) -> jax.Array:
    """Returns class probabilities (B, C) for images without noise."""
    mean, std = self.preprocess.mean, self.preprocess.std
    normalized_BHWC = images.normalize(image_BHWC, mean, std)
    logits_BC = self.model.apply(variables, normalized_BHWC)['logits']
    return jax.nn.softmax(logits_BC.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Reading:
  """Settings for reading images, like the fields of an `EvalInput`."""

  batch_size: int = 256
  workers: int = 0
  threads: int = 2


@dataclasses.dataclass(frozen=True)
class Prepared(Source):
  """Some images of a source, prepared for a teacher; unreadable ones are black."""

  source: Source
  places: range
  preprocess: Preprocessing

  def __len__(self) -> int:
    return len(self.places)

  def __getitem__(self, index: int) -> dict[str, Any]:
    place = self.places[index]
    try:
      record = self.source[place]
    except BadRecordError:
      record = {}
    name = record.get('id', place)
    image_HWC = self._sized(record['image']) if record else None
    readable = image_HWC is not None
    if not readable:
      shape = (*self.preprocess.size, self.preprocess.channels)
      image_HWC = np.zeros(shape, np.uint8)
    text = name if isinstance(name, bytes) else str(name).encode()
    padded = text[:ID_BYTES].ljust(ID_BYTES, b'\0')
    return {
      'image': image_HWC,
      'readable': np.bool_(readable),
      'name': np.frombuffer(padded, np.uint8),
    }

  def _sized(self, picture: Any) -> np.ndarray | None:
    try:
      return self.preprocess.sized(picture)
    except UserError:  # its message gives the reason
      return None


def predict(
  teacher: Teacher,
  source: Source,
  folder: str | pathlib.Path,
  mesh: Mesh,
  reading: Reading = Reading(),  # noqa: B008 - it is frozen
  per_file: int = 8192,
) -> None:
  """Writes the predictions that a folder lacks; every process calls it.

  Raises a `UserError` if the folder has predictions for other images, or by another
  teacher.
  """
  meshes.check_batch_size(mesh, reading.batch_size, '--batch-size')
  folder = pathlib.Path(folder).expanduser()
  facts = facts_of(teacher, source, -(-len(source) // per_file), per_file)
  with workdirs.owned(folder):
    with processes.together():
      if jax.process_index() == 0:
        claim(folder, facts)
    missing = missing_files(folder, facts['shards'])
    if done := facts['shards'] - len(missing):
      say('resumed', f'{done:,} of {facts["shards"]:,} files exist already')
    step = jax.jit(
      functools.partial(_predicted, teacher.probabilities),
      out_shardings=sharding.replicated(mesh),
    )
    variables = meshes.put_tree(
      teacher.variables,
      jax.tree.map(lambda _: sharding.replicated(mesh), teacher.variables),
    )
    for count, number in enumerate(missing, start=1):
      places = range(number * per_file, min((number + 1) * per_file, len(source)))
      data = pipeline.EvalInput(
        source=Prepared(source, places, teacher.preprocess),
        batch_size=reading.batch_size,
        workers=reading.workers,
        threads=reading.threads,
      )
      found = [
        jax.device_get(step(variables, batch))
        for batch in evaluator.batches(data, mesh)
      ]
      with processes.together():
        if jax.process_index() == 0:
          path = pseudo_labels.shard(folder, number, facts['shards'])
          write(path, places, found)
      say('written', f'{count:,} of {len(missing):,} files, {len(places):,} images')


def _predicted(
  probabilities: Callable[..., jax.Array], variables: Any, batch: Mapping[str, Any]
) -> dict[str, jax.Array]:
  kept = {name: batch[name] for name in ('mask', 'readable', 'name')}
  return kept | {'probabilities': probabilities(variables, batch['image'])}


def facts_of(
  teacher: Teacher, source: Source, shards: int, per_file: int
) -> dict[str, Any]:
  """Returns the contents of teacher.json, which describe predictions."""
  return {
    'format': pseudo_labels.FORMAT,
    'teacher': teacher.name,
    'weights': digest(checkpoint.checksums(teacher.variables)),
    'images': str(teacher.preprocess),
    'classes': teacher.model.num_classes,
    'label_names': list(teacher.preprocess.label_names),
    'examples': len(source),
    'shards': shards,
    'per_file': per_file,
    'source': source.identity(),
  }


def claim(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Writes teacher.json, or compares it; removes what a killed command left."""
  path = folder / pseudo_labels.FACTS
  for part in folder.glob('labels-*.part'):
    part.unlink()
  if not path.exists():
    files.write_json(path, facts)
    return
  before = files.read_fields(path)

  def known(facts: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: facts.get(k) for k in ('weights', 'images', 'per_file', 'label_names')}
    return plain | {'source': facts.get('source', {}).get('fingerprint')}

  changed = [k for k, x in known(facts).items() if x != known(before)[k]]
  if changed:
    raise UserError(
      f'{folder} was started with other {", ".join(changed)} (teacher'
      f' {before.get("teacher")}, images of {before.get("source", {}).get("title")}):'
      ' use the same again, or name another folder'
    )


def missing_files(folder: pathlib.Path, count: int) -> list[int]:
  """Returns the numbers of missing or incomplete files, equal in all processes.

  Every process looks for itself; the first process's result is used.
  """
  own = [
    number
    for number in range(count)
    if array_records.count(str(pseudo_labels.shard(folder, number, count))) is None
  ]
  present = np.ones(count, np.uint8)
  present[own] = 0
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    present = multihost_utils.broadcast_one_to_all(present)
  return np.flatnonzero(np.asarray(present) == 0).tolist()


def write(
  path: pathlib.Path, places: range, batches: list[Mapping[str, np.ndarray]]
) -> None:
  """Writes the file of the images at these places of the source, atomically."""
  from array_record.python import array_record_module

  rows = {
    name: np.concatenate([batch[name][batch['mask']] for batch in batches])
    for name in ('probabilities', 'readable', 'name')
  }
  if len(rows['readable']) != len(places):
    raise UserError(
      f'{path} would have {len(rows["readable"])} records for {len(places)} images'
    )
  bad = ~np.isfinite(rows['probabilities']).all(axis=-1)
  if bad.any():
    raise UserError(
      f'the teacher predicts numbers that are not finite for image'
      f' {places[int(np.flatnonzero(bad)[0])]}: it has diverged, or its images are'
      ' normalized differently than in its training'
    )
  features = pseudo_labels.features(rows['probabilities'].shape[-1])
  confidence = rows['probabilities'].max(axis=-1)
  confidence = np.where(rows['readable'], confidence, pseudo_labels.UNREADABLE)
  with files.atomic(path) as part:
    writer = array_record_module.ArrayRecordWriter(str(part), 'group_size:1')
    try:
      for row, place in enumerate(places):
        record = {
          'index': place,
          'id': rows['name'][row].tobytes().rstrip(b'\0'),
          'label': int(rows['probabilities'][row].argmax()),
          'confidence': np.float32(confidence[row]),
          'probabilities': rows['probabilities'][row],
        }
        writer.write(features.serialize_example(record))
      writer.close()
    except RuntimeError as error:
      raise UserError(f'{path} could not be written: {error}') from error
    if array_records.count(str(part)) != len(places):
      raise UserError(f'{path} could not be written: is the disk full?')
