"""Section of a report on entailment: the facts that each hop attends to.

Axes: B queries, F facts, W words of a triple, H hops.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.data import rdfs
from big_vision_like.data.procedural import graphs
from big_vision_like.evals import entailment
from big_vision_like.models import memory_network
from big_vision_like.report import page
from big_vision_like.report.source import Section, Source, percent

NUM_QUERIES, NUM_FACTS = 6, 6


def attention(
  module: Any, variables: Any, inputs: Sequence[jax.Array]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the weights of facts by hop (B, H, F), and class probabilities (B, C)."""

  @jax.jit
  def run(variables: Any, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    outputs, sown = module.apply(variables, *inputs, mutable=['intermediates'])
    weight_BHF = jnp.stack(sown['intermediates']['attention'], axis=1)
    return weight_BHF, jax.nn.softmax(outputs['logits'])

  weight_BHF, probability_BC = run(variables, *inputs)
  return np.asarray(weight_BHF), np.asarray(probability_BC)


def written(triple_W: np.ndarray) -> str:
  """Returns a triple as text, in which terms without a name are x1, x2 and so on."""
  words = [int(word) for word in triple_W if word]
  return ' '.join(
    rdfs.PREDICATES[word - 1]
    if word < graphs.FIRST_TERM
    else f'x{word - graphs.FIRST_TERM + 1}'
    for word in words
  )


def attended(source: Source) -> tuple[str, str]:
  """Shows the facts that queries attend to most, by hop, and the answers."""
  network, state = source.restored.network, source.restored.state
  _, made = source.spread_of(entailment.Entailment, 'asks whether triples follow')
  batch = next(made.data.epoch())
  batch = {name: np.asarray(x)[:NUM_QUERIES] for name, x in batch.items()}
  weight_BHF, probability_BC = attention(
    network.module, network.variables(state), network.inputs(batch)
  )
  content = ''
  for row, weight_HF in enumerate(weight_BHF):
    label, answer = int(batch['label'][row]), int(probability_BC[row].argmax())
    sure = percent(float(probability_BC[row, answer]))
    verdict = 'right' if answer == label else 'wrong'
    content += page.heading(written(batch['query'][row]))
    content += page.paragraph(f'{named(answer)} ({sure}), which is {verdict}')
    shown = np.argsort(-weight_HF.max(axis=0), kind='stable')[:NUM_FACTS]
    rows = [
      [written(batch['facts'][row, fact]), *map(percent, weight_HF[:, fact].tolist())]
      for fact in shown
      if batch['facts'][row, fact].any()
    ]
    hops = [f'hop {hop}' for hop in range(1, len(weight_HF) + 1)]
    content += page.table(['fact', *hops], rows)
  return content, (
    f'The {NUM_FACTS} facts with the largest attention in some hop, for queries of the '
    'evaluator. Terms have no names of their own in normalized graphs: x1, x2, ... '
    'are their numbers in the pool.'
  )


def named(label: int) -> str:
  """Returns the name of an answer; published networks have a third, which is nil."""
  return graphs.LABELS[label] if label < len(graphs.LABELS) else 'nil'


OF_MODELS = {
  memory_network.MemoryNetwork: (
    Section('Facts that queries attend to', attended, 'below'),
  )
}
