"""Run directories with chosen results, written as a run writes them."""

import json
import math
from itertools import count
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "model": {"_target_": "lmlab.models.bigram.Bigram"},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001},
    "trainer": {"max_steps": 100},
    "tokenizer": {"_target_": "lmlab.data.tokenizer.CharTokenizer"},
    "data": {"batch_size": 4, "block_size": 8},
    "eval": {"protocol": "random", "iters": 2, "stride": None},
    "logger": {"csv": True},
    "seed": 1,
}
_number = count()


def made(
    folder: Path,
    swept: dict[str, Any] | None,
    loss: float | None = 2.0,
    status: str = "done",
    curve: dict[int, float] | None = None,
    config: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A run; its config is CONFIG with the swept leaves and then `config` (dotted) put into it."""
    n = next(_number)
    path = folder / f"job-{n:04}"
    path.mkdir(parents=True)
    whole = json.loads(json.dumps(CONFIG))
    for key, value in ((swept or {}) | (config or {})).items():
        *parents, leaf = key.split(".")
        node = whole
        for parent in parents:
            node = node.setdefault(parent, {})
        if not isinstance(node.get(leaf), dict):
            node[leaf] = value
    (path / "config.yaml").write_text(yaml.safe_dump(whole))
    metrics = {} if loss is None else {"val/loss": loss + 0.01}
    if status == "done" and loss is not None:
        metrics |= {"val/loss_full": loss, "val/bpc_full": loss / math.log(2)}
    record = {
        "status": status,
        "step": 100,
        "metrics": metrics,
        "started": f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}+00:00",
        "best": {} if loss is None else {"val/loss": loss - 0.01, "step": 90},
        "seconds": 1.5,
        **({} if swept is None else {"swept": swept}),
        **more,
    }
    (path / "run.json").write_text(json.dumps(record))
    if curve is not None:
        lines = [f"{step},{value}," for step, value in curve.items()]
        (path / "metrics.csv").write_text("\n".join(["step,val/loss,train/loss", *lines, ""]))
    return path
