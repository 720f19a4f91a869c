"""Token embeddings for TensorBoard's projector, at the end of training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor, nn

from lmlab.data.tokenizer import Tokenizer
from lmlab.display.for_tensorboard.summaries import visible
from lmlab.display.loggers import event_files
from lmlab.files import make_folder, write_atomically
from lmlab.runs.directory import PROJECTOR, PROJECTOR_CONFIG

MOST = 10_000  # points; the projector itself works on no more
CONFIG = """\
embeddings {
  tensor_name: "token embedding"
  tensor_path: "projector/vectors.tsv"
  metadata_path: "projector/tokens.tsv"
}
"""


class Projector(L.Callback):
    """Leaves the vector of each token, labelled with its text, where the projector finds it.

    The vectors are the rows of a model's first embedding with one row for each token of the
    vocabulary; a model that has none gets none. Of a large vocabulary the first 10,000 are shown.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        table = token_embedding(module.model, self.tokenizer.vocab_size)
        if table is None or not trainer.is_global_zero:
            return
        for logger in event_files(trainer.loggers):
            self.write(table, logger.folder)

    def write(self, table: Tensor, folder: Path) -> None:
        """Write the projector's files for a table (vocab_size, C) into a run directory."""
        vectors = io.BytesIO()  # four digits are more than a point in space shows
        np.savetxt(vectors, table[:MOST].detach().float().cpu().numpy(), "%.4g", delimiter="\t")
        labels = (visible(self.tokenizer.decode([i])) for i in range(min(len(table), MOST)))
        tokens, inside = "\n".join(labels).encode() + b"\n", folder / PROJECTOR
        make_folder(inside, within=folder)
        write_atomically(inside / "vectors.tsv", vectors.getvalue(), within=folder, waits=False)
        write_atomically(inside / "tokens.tsv", tokens, within=folder, waits=False)
        write_atomically(folder / PROJECTOR_CONFIG, CONFIG.encode(), waits=False)


def token_embedding(model: nn.Module, vocab_size: int) -> Tensor | None:
    """The first embedding of a model that has a row for each token: (vocab_size, C)."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == vocab_size:
            return module.weight
    return None
