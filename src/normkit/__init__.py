"""normkit: normalization for neural networks."""
