"""Section of a report on a Swin Transformer: attention across a border of windows."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import swin
from big_vision_like.ops import windows as ops
from big_vision_like.report import page
from big_vision_like.report.source import Section, evenly
from big_vision_like.viz import images, windows

NUM_IMAGES, NUM_BLOCKS = 3, 4
PARTS = ('window', 'shifted')


def attention_across(source: Any) -> tuple[str, str]:
  """Shows what a patch attends to in the first blocks, with windows shifted or not."""
  trained = source.trained
  model, image_BHWC = trained.model, trained.images()
  if model.posemb == 'without_content':
    raise UserError("a model with posemb='without_content' sows no attention.")
  rows = evenly(len(image_BHWC), NUM_IMAGES)
  sown = jax.jit(trained.collect)(trained.variables, image_BHWC[rows])
  content = ''
  for number, row in enumerate(rows):
    image_HWC = seen(image_BHWC[row])
    tokens = windows.across(image_HWC, cut(model, image_HWC.shape[:2], 'window'))
    cards = []
    for block in range(min(NUM_BLOCKS, model.depths[0])):
      part = PARTS[block % 2]
      own = cut(model, image_HWC.shape[:2], part)
      probs_RGNM = probabilities(sown, block // 2, part)
      map_hw = windows.of_token(probs_RGNM, own, number, tokens[0])
      shift = f'shifted by {own.shift}' if own.shift else 'not shifted'
      drawn_HWC = windows.picture(image_HWC, own, tokens, map_hw)
      cards.append(
        page.card(
          page.picture(drawn_HWC, f'attention of block {block + 1}'),
          '',
          page.text_line(f'block {block + 1}, {shift}')
          + page.text_line(f'{100 * map_hw[tokens[1]]:.1f}\u00a0% from the neighbour'),
        )
      )
    content += page.cards(cards)
  caption = (
    'Each row is an image, brightened where the patch in the red frame attends in '
    'the first blocks, averaged over heads. White lines are borders of windows. The '
    'numbers are the weight of its neighbour in the yellow frame. Without a shift the '
    'neighbour is in another window, so its weight is zero.'
  )
  return content, caption


def probabilities(sown: Mapping[str, Any], pair: int, part: str) -> np.ndarray:
  """Returns the attention sown by a block of the first stage: (R, G, N, M)."""
  blocks = sown['stage1']
  scanned = 'blocks' in blocks
  found = blocks['blocks' if scanned else f'block_{pair}'][part]['attention']
  probs = np.asarray(found['probs'][-1], np.float32)
  return probs[pair] if scanned else probs


def cut(model: swin.Swin, image_size: tuple[int, int], part: str) -> windows.Windows:
  """Returns the windows of the first stage in blocks of this part."""
  grid = tuple(-(-side // model.patch) for side in image_size)
  window = min(model.window, *grid) if model.padding == 'none' else model.window
  shift = model.window // 2 if part == 'shifted' and model.shifted else 0
  if model.padding != 'dense' and min(grid) <= window:
    shift = 0
  return windows.Windows(ops.whole(grid, window), window, shift)


def seen(image_HWC: np.ndarray) -> np.ndarray:
  """Converts an input, uint8 or float in [-1, 1], to RGB uint8."""
  if np.issubdtype(image_HWC.dtype, np.floating):
    image_HWC = 0.5 * (image_HWC + 1.0)
  return images.to_rgb(image_HWC)


OF_MODELS = {swin.Swin: (Section('Windows', attention_across, 'below'),)}
