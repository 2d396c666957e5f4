"""Section of a report on superpixels: the superpixels that the output depends on.

Axes: B images, L layers, E edges, H heads, N nodes, T S targets and sources.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.data.sources import memory
from big_vision_like.data.transforms import superpixels
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.models import superpixel_gat
from big_vision_like.report import page
from big_vision_like.report.source import Section, Source, percent
from big_vision_like.viz import images

NUM_IMAGES, NUM_CLASSES, SIDE = 6, 3, 160
BRIGHTEST = 4.0  # times the mean share of a superpixel


def attention(
  module: Any, variables: Any, inputs: Sequence[jax.Array]
) -> tuple[list[np.ndarray], np.ndarray]:
  """Returns the shares of edges by layer, (B, E) each, and class probabilities."""

  @jax.jit
  def run(variables: Any, *inputs: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    outputs, sown = module.apply(variables, *inputs, mutable=['intermediates'])
    layers = sown['intermediates']
    shares = [
      layers[f'attention{i}']['attention'][0].mean(axis=-1)
      for i in range(len(module.widths))
    ]
    return shares, jax.nn.softmax(outputs['logits'])

  shares, probability_BC = run(variables, *inputs)
  return [np.asarray(share_BE) for share_BE in shares], np.asarray(probability_BC)


def rollout(
  shares: Sequence[np.ndarray], edges: Sequence[np.ndarray], mask_N: np.ndarray
) -> np.ndarray:
  """Returns the share of each superpixel in the mean over the last nodes, (N,).

  As attention rollout (arXiv:2005.00928): layers as matrices are multiplied, from the
  last to the first. `shares` and `edges`, (E,) and (E, 2), are those of each layer.
  """
  nodes = len(mask_N)
  share_N = mask_N / max(mask_N.sum(), 1)
  for share_E, edges_E2 in zip(reversed(shares), reversed(edges), strict=True):
    layer_TS = np.zeros((nodes, nodes))
    np.add.at(layer_TS, (edges_E2[:, 1], edges_E2[:, 0]), share_E)
    share_N = share_N @ layer_TS
  return share_N


def coloured(share_N: np.ndarray, label_HW: np.ndarray) -> np.ndarray:
  """Returns a picture whose superpixels have the colour of their share, (H, W, 3)."""
  count = int(label_HW.max()) + 1
  return images.colormap(share_N[label_HW] * count, 0.0, BRIGHTEST)


def superpixels_of(source: Any) -> tuple[Any, Sequence[Any], superpixels.Superpixels]:
  """Returns the source of images, transforms before superpixels, and superpixels."""
  if not isinstance(source, (memory.Cached, memory.Transformed)):
    raise UserError('the evaluator has no cached graphs of images.')
  for place, transform in enumerate(source.transforms):
    if isinstance(transform, superpixels.Superpixels):
      return source.source, source.transforms[:place], transform
  raise UserError('the transforms of the evaluator make no superpixels.')


def shown(source: Source) -> tuple[str, str]:
  """Shows evaluation images and their superpixels, coloured by their share."""
  network, state = source.restored.network, source.restored.state
  _, made = source.evaluator_of(classification.Accuracy, 'scores classes')
  graphs = made.data.source
  pictures, before, cut = superpixels_of(graphs)
  few = memory.Transformed(pictures, before)
  places = np.linspace(0, len(graphs) - 1, NUM_IMAGES).round().astype(int).tolist()
  rows = [graphs[place] for place in places]
  batch = {
    name: np.stack([row[name] for row in rows]) for name in source_inputs(source)
  }
  inputs = network.inputs({name: jnp.asarray(x) for name, x in batch.items()})
  shares, probability_BC = attention(network.module, network.variables(state), inputs)
  edges_BE2, mask_BN = batch['edges'], batch['node_mask']
  if isinstance(network.module, superpixel_gat.GAT):
    edges_BE2 = np.asarray(
      superpixel_gat.with_loops(edges_BE2, batch['weights'], mask_BN)[0]
    )
  names, cards = source.class_names('label'), []
  for row, place in enumerate(places):
    image_HWC = few[place]['image']
    label_HW = superpixels.segmented(image_HWC, cut.segments)
    share_N = rollout(
      [x[row] for x in shares], [edges_BE2[row]] * len(shares), mask_BN[row]
    )
    parts = [
      page.picture(images.fit(images.to_rgb(image_HWC), SIDE), 'input'),
      page.picture(images.fit(coloured(share_N, label_HW), SIDE), 'shares'),
    ]
    true = int(rows[row]['label'])
    for label in np.argsort(-probability_BC[row], kind='stable')[:NUM_CLASSES].tolist():
      share = float(probability_BC[row, label])
      parts.append(page.bar(names.get(label, str(label)), share, label == true))
    cards.append(page.card(''.join(parts), '', ''))
  typical = percent(float(1 / mask_BN.sum(axis=1).mean()))
  return page.cards(cards), (
    'Images, and the share of their superpixels in the sum over nodes, from dark to '
    f'bright: {BRIGHTEST:g} times the mean of {typical} and more are brightest. Shares '
    'of the layers are multiplied (attention rollout), as means over heads. Below: the '
    'likeliest classes, the true one in another colour.'
  )


def source_inputs(source: Source) -> Sequence[str]:
  """Returns the names of the arrays that the model takes."""
  return source.restored.task.inputs


SECTION = Section('Superpixels by their share', shown, 'below')
OF_MODELS = {
  superpixel_gat.SuperpixelGAT: (SECTION,),
  superpixel_gat.GAT: (SECTION,),
}
