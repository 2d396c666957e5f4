"""Damage to weights files, and to the JSON files next to them."""

import contextlib
import functools
import io
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.models import vit
from big_vision_like.weights import files, timm_vit, vision_transformer
from tools import convert_weights
from tools.faults import common, values

# Name: file or folder to write, and arguments of convert_weights.
FORMS = {
  'npz, published': ('weights.npz', None),
  'npz, converted': ('converted.npz', ()),
  'safetensors': ('converted.safetensors', ()),
  'timm folder': ('folder', ('--to=timm',)),
  'transformers folder': ('folder', ('--to=transformers',)),
}


def make(form: str, folder: pathlib.Path) -> None:
  """Writes the weights of a small ViT."""
  name, words = FORMS[form]
  model = vit.ViT(num_classes=5, patch=8, width=36, depth=2, num_heads=3, mlp_dim=72)
  image = jax.ShapeDtypeStruct((1, 24, 24, 3), 'float32')
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)
  if words is None:
    files.write(folder / name, vision_transformer.to_npz(params))
    return
  with tempfile.TemporaryDirectory() as other:
    source = pathlib.Path(other) / 'model.safetensors'
    files.write(source, timm_vit.to_timm(params))
    command = [str(source), str(folder / name), '--num-heads=3', *words]
    with contextlib.redirect_stdout(io.StringIO()):
      if convert_weights.main(command):
        raise UserError(f'{form} could not be written')


def read(name: str, folder: pathlib.Path) -> Any:
  """Loads a model and preprocesses a picture for it."""
  with contextlib.redirect_stdout(io.StringIO()):
    model, variables, preprocess = loading.load(folder / name)
  picture = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
  image_HWC = preprocess(picture)
  batch = jax.ShapeDtypeStruct((1, *image_HWC.shape), 'float32')
  found = jax.eval_shape(model.apply, variables, batch)['logits']
  names = [preprocess.name(i) for i in range(found.shape[-1])]
  return jax.device_get(variables), image_HWC, names, str(preprocess), repr(model)


KINDS = (
  *(
    common.Kind(
      f'weights, {form}',
      functools.partial(make, form),
      common.any_file(*common.BYTES, pattern='*.npz' if zipped else '*.safetensors'),
      functools.partial(read, FORMS[form][0]),
      checked=zipped,
    )
    for form in FORMS
    for zipped in [form.startswith('npz')]
  ),
  *(
    common.Kind(
      f'JSON beside weights, {form}',
      functools.partial(make, form),
      values.damage,
      functools.partial(read, FORMS[form][0]),
    )
    for form in FORMS
    if FORMS[form][1] is not None
  ),
)
