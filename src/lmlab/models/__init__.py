"""Plain modules: idx (B, T) to logits (B, T, vocab_size). No Lightning, no Hydra."""
