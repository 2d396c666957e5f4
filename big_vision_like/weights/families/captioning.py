"""Published captioners: the PyTorch tutorial's (arXiv:1502.03044, soft attention)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.data.text import words
from big_vision_like.errors import UserError
from big_vision_like.inference.captions import CaptionPreprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import captioning, resnet
from big_vision_like.weights import captioning as names
from big_vision_like.weights import family, torchvision_resnet, tree
from big_vision_like.weights.beside import Beside

SIDE = 14  # of the map that is attended to
WORDS = 'words.json'
# Arguments of the decoder that no shape determines.
_FORM = dict(gate='vector', output='linear')


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `Captioner`, in nested dicts, from shapes.

  The number of classes is that of words.
  """
  flat = tree.flatten(variables['params']['decoder'])
  decoder = names.decoder_architecture(flat, source)
  # The only trainable or constant part besides the decoder is the encoder.
  every = tree.flatten({k: x for k, x in variables.items() if x})
  encoder = torchvision_resnet.architecture(every, source, at='encoder/')
  width, cell = torchvision_resnet.widths(encoder)[-1], decoder.pop('cell_width')
  if width != cell:
    raise UserError(
      f'{source}: the encoder has {width} channels, but the decoder reads {cell}'
    )
  return dict(
    num_classes=decoder.pop('vocab_size'),
    encoder=encoder,
    decoder=decoder | _FORM,
    read=f'stage{len(encoder["depths"])}',
    side=SIDE,
  )


def build(
  num_classes: int,
  encoder: Mapping[str, Any],
  decoder: Mapping[str, Any],
  **arguments: Any,
) -> captioning.Captioner:
  """Makes the model with its encoder and its decoder."""
  return captioning.Captioner(
    resnet.ResNet(**encoder),
    captioning.RecurrentDecoder(vocab_size=num_classes, **decoder),
    **arguments,
  )


def check(model: captioning.Captioner, source: str) -> None:
  """Raises for a model that the tutorial's file cannot hold."""
  decoder = model.decoder
  fits = isinstance(decoder, captioning.RecurrentDecoder) and not decoder.hard
  fits = fits and all(getattr(decoder, name) == x for name, x in _FORM.items())
  fits = fits and not decoder.attention_args and not decoder.start_args
  if not fits or not isinstance(model.encoder, resnet.ResNet):
    raise UserError(
      f'{source}: only captioners in the form of the tutorial, with a ResNet, are'
      ' written'
    )
  if model.encoder.norm != 'frozen' or model.side != SIDE or model.posemb != 'none':
    raise UserError(
      f"{source}: the tutorial has norm='frozen' (in our terms), side={SIDE} and"
      " posemb='none'"
    )


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays; without the file of words, ids of start and end are assumed."""
  assumed = ()
  if WORDS not in beside.metadata:
    assumed = (
      f'there is no {WORDS} next to the weights, so words are called by their ids, and'
      ' the last two ids are the start and the end, as in the tutorial: its WORDMAP is'
      ' such a file',
    )
  variables = names.from_tutorial(arrays, str(beside.path))
  return family.Read(variables, {}, assumed)


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> CaptionPreprocessing:
  """Returns the preprocessing of the tutorial, with the words of words.json."""
  del name, size
  if own := CaptionPreprocessing.written(metadata):
    return own
  told: dict[str, Any] = dict(bos_id=num_classes - 2, eos_id=num_classes - 1)
  if WORDS in metadata:
    ids = words.checked(metadata[WORDS], WORDS)
    if len(ids) != num_classes:
      raise UserError(
        f'{WORDS} has {len(ids):,} words, but the weights have {num_classes:,}: it'
        ' belongs to other weights'
      )
    order = sorted(ids, key=ids.__getitem__)
    told = dict(
      label_names=tuple(order), bos_id=ids[words.START], eos_id=ids[words.END]
    )
  return CaptionPreprocessing(
    size=(256, 256),
    interpolation='pillow_bilinear',
    mean=IMAGENET_MEAN if channels == 3 else (0.5,) * channels,
    std=IMAGENET_STD if channels == 3 else (0.5,) * channels,
    source="as in the tutorial's caption.py",
    **told,
  )


def written(weights: Any) -> dict[str, np.ndarray]:
  """Returns the arrays of the tutorial, as one state dict."""
  return names.to_tutorial(weights.variables)


FAMILY = family.Family(
  name='captioning',
  model=captioning.Captioner,
  sources=(
    family.Source(
      name="the captioning tutorial's checkpoint",
      suffixes=family.TORCH,
      differences=names.differences,
      read=read,
      writes={'published': written},
      config=family.no_config,
    ),
  ),
  describe=describe,
  untold=('encoder/dilated', 'side'),
  build=build,
  images=images,
  stem=('encoder/conv_root',),
  check=check,
)
