"""Plain modules: idx (B, T) to logits (B, T, vocab_size). No Lightning, no Hydra.

What the lab asks of a model, or of a layer, stands in its class. All of it may be left out:

- Annotations of the constructor, such as `n_layer: Count` (`lmlab.bounds`): a config is checked by
  them before anything is built.
- `past`, or `positionwise = True`: sampling may hand over new tokens alone (`memory.py`).
- `watch`: pictures of where it looks (`maps.py`). `pictured_as = "averages"` calls them that.
- `next_token_logits()`: a picture of that table, beside how often the text has each pair.
- `sees`: how many of the last tokens decide the next. More are not handed over when sampling.
- `endless = True`: with `past`, sampling goes on beyond block_size without reading anything twice.
- `fit(tokens)`: it is given the train split once, in place of any training.
"""
