"""What the jobs of a sweep take, counted before they begin, so that the time left is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lmlab.config import schema
from lmlab.config.check import check_plain, plain_of
from lmlab.config.words.hydra_inside import hydra_config_lent
from lmlab.errors import LabError
from lmlab.sweeps.journal.planned import Overrides, Work, size

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from lmlab.sweeps.launch.pool import Pool

MOST_SECONDS = 0.5  # for all jobs; what is not counted by then, the runs tell once they have begun
# Tokens in a vocabulary where a config does not say. (A text that nobody has read yet has as many
# characters as it has; what counts is how jobs compare.)
USUAL = {"lmlab.data.bpe.GPT2Tokenizer": 50_257, "lmlab.data.tokenizer.ByteTokenizer": 256}
CHARACTERS = 65


def work_of(
    config: DictConfig, loader: ConfigLoader, jobs: Sequence[Sequence[str]], pool: Pool
) -> list[Work] | None:
    """The work of each job, those of one size counted once; None if all have the same.

    Counting needs torch, which takes seconds to import. Where the pool has not begun, the sweep has
    runs, and they tell.
    """
    # The last come first: they are the last that runs would tell of.
    first = {size(job): job for job in reversed(jobs)}
    if len(first) == 1:
        return None
    plain: dict[Overrides, Any] = {}
    if pool.has_torch:
        end = time.monotonic() + MOST_SECONDS
        with hydra_config_lent() as read_from:
            for of_size, job in first.items():
                if time.monotonic() > end:
                    break
                cfg = loader.load_sweep_config(config, list(job))
                read_from(cfg)
                own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
                with suppress(LabError):  # its job says so
                    plain[of_size] = plain_of(own)
    counts = pool.ask(_count_all, [*plain.values()]) if plain else []
    counted = dict(zip(plain, counts, strict=False))
    return [counted.get(size(job), Work()) for job in jobs]


def _count_all(plain: Sequence[dict[str, Any]]) -> list[Work]:
    """The work of composed configs, as far as there is time for it."""
    end = time.monotonic() + MOST_SECONDS
    return [_count(one) for one in itertools.takewhile(lambda _: time.monotonic() < end, plain)]


def _count(plain: dict[str, Any]) -> Work:
    """The steps and the operations of a composed config, as far as it tells them itself."""
    from lmlab.training.costs.flops import flops_per_token

    try:
        if plain["from"] is not None:  # its parent tells
            return Work()
        train = check_plain(plain, schema.Train, parts=())
        per_token = flops_per_token(train, _vocab_size(train.tokenizer))
    except LabError:  # its job says so
        return Work()
    steps = train.trainer.max_steps
    tokens = steps * train.trainer.accumulate_grad_batches
    tokens *= train.data.batch_size * train.data.block_size
    return Work(steps=steps, flops=None if per_token is None else per_token * tokens)


def _vocab_size(tokenizer: dict[str, Any]) -> int:
    told = tokenizer.get("vocab_size")
    return told if isinstance(told, int) else USUAL.get(tokenizer["_target_"], CHARACTERS)
