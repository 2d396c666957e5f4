import numpy as np

from battery import Case, tokens
from big_vision_like.models import memory_network

# Facts of an example, with rows left empty, and its query.
FACTS_BFW = tokens(4, 6, 3, vocab_size=17) * (np.arange(6) < 5)[None, :, None]
CASES = {
  'memory_network': Case(
    memory_network.MemoryNetwork(num_classes=2, vocab_size=17, width=8, hops=3),
    (FACTS_BFW, tokens(4, 3, vocab_size=17)),
  ),
  'memory_network_places': Case(
    memory_network.MemoryNetwork(
      num_classes=3,
      vocab_size=17,
      width=8,
      hops=2,
      positions='matrices',
      masked=True,
    ),
    (FACTS_BFW, tokens(4, 3, vocab_size=17)),
  ),
  'memory_network_hops': Case(
    memory_network.MemoryNetwork(
      num_classes=2, vocab_size=17, width=8, hops=2, positions='hop_matrices'
    ),
    (FACTS_BFW, tokens(4, 3, vocab_size=17)),
  ),
}
