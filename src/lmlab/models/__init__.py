"""Plain modules: idx (B, T) to logits (B, T, vocab_size). No Lightning, no Hydra.

What else a model, or a layer, may say of itself stands in `contract.py`.
"""
