"""Vision transformers in JAX/Flax: pretraining, transfer, published tables."""
