"""The cost of a step, guarded by what can be counted and, generously, by the clock."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.rounds import interleave
from benchmarks.steps import CAREFUL, OURS, check_same, contestants
from benchmarks.tasks import MODELS, Task, as_a_user_has_it
from lmlab.console import quiet_libraries


@pytest.fixture(scope="module")
def task(tinyshakespeare_path: Path) -> Any:
    quiet_libraries()
    with as_a_user_has_it() as folder:
        small = [f"corpus.path={tinyshakespeare_path}", "data.val_fraction=0.001"]
        yield lambda name: Task([*MODELS[name], *small], folder)


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


def operations(train: Callable[[], object]) -> Counter[str]:
    with Operations() as mode:
        train()
    return mode.counts


def calls(train: Callable[[], object]) -> int:
    """How many functions are called, Python's and C's: as steady as an instruction count."""
    n = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal n
        n += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        train()
    finally:
        sys.setprofile(None)
    return n


@pytest.mark.parametrize("name", MODELS)
def test_all_contestants_train_the_same_thing(task, name):
    check_same(task(name), n_steps=6)


def test_a_step_asks_torch_for_no_more_than_a_careful_loop_does(task):
    bigram, per_step = task("bigram"), {}
    for who in (CAREFUL, OURS):
        few, many = (operations(contestants(bigram, n)[who]) for n in (100, 300))
        per_step[who] = {name: (many[name] - few[name]) / 200 for name in many}
    # A hundred steps at a time make their batch together, and what they log is read once.
    assert sum(per_step[OURS].values()) <= sum(per_step[CAREFUL].values())
    assert per_step[OURS].get("_local_scalar_dense", 0) == 0  # .item(): nobody waits for a device


def test_a_step_calls_little_more_than_a_careful_loop_does(task):
    bigram, per_step = task("bigram"), {}
    for who in (CAREFUL, OURS):
        few, many = (calls(contestants(bigram, n)[who]) for n in (100, 300))
        per_step[who] = (many - few) / 200
    assert per_step[OURS] < 1.3 * per_step[CAREFUL], per_step


def test_a_step_takes_less_than_three_times_a_careful_loops(task):
    both = contestants(task("bigram"), 400)
    turns = {who: lambda trains=both[who]: trains()[0] for who in (CAREFUL, OURS)}
    seconds = interleave(turns, rounds=4)
    assert min(seconds[OURS]) < 3 * min(seconds[CAREFUL]), seconds
