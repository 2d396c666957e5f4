import numpy as np

from battery import Case, images
from big_vision_like.models import context_graph, i3d


def clips(batch: int, actors: int, slices: int, side: int) -> tuple[np.ndarray, ...]:
  """Returns clips of `side` pixels, with boxes of actors in a map of a quarter."""
  rng = np.random.default_rng(side)
  low_BAS2 = rng.uniform(0, side // 8, (batch, actors, slices, 2))
  boxes_BAS4 = np.concatenate([low_BAS2, low_BAS2 + side // 8], axis=-1)
  mask_BA = np.arange(actors)[None] < 1 + np.arange(batch)[:, None] % actors
  return images(batch, slices, side, side, 3), boxes_BAS4.astype(np.float32), mask_BA


def small(**options) -> context_graph.ActorModel:
  return context_graph.ActorModel(
    num_classes=5,
    backbone=context_graph.ConvTrunk((4, 6)),
    actor=context_graph.MeanActor(),
    endpoint='trunk',
    pool=2,
    side=6,
    **options,
  )


def published(graph: bool) -> Case:
  boxes_BAS4 = np.zeros((1, 2, 8, 4), np.float32)
  inputs = images(1, 32, 64, 64, 3), boxes_BAS4, np.ones((1, 2), bool)
  return Case(context_graph.published(11, graph=graph), inputs, ())


CASES = {
  'i3d': Case(i3d.I3D(num_classes=400), (images(1, 16, 64, 64, 3),), ()),
  'actors': Case(small(), clips(4, 3, 2, 24)),
  'actors_graph': Case(
    small(graph=context_graph.ContextGraph(layers=2, width=7, merge='sum')),
    clips(4, 3, 2, 24),
  ),
  'actors_published': published(graph=True),
  'actors_published_baseline': published(graph=False),
}
