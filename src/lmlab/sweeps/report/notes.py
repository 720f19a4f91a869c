"""What stands below a leaderboard: what each figure is, and what to know of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmlab.sweeps.table.reading import COMPUTED_ON, RunFiles
from lmlab.sweeps.table.settings import BEST, LOSS, METRICS, Table
from lmlab.sweeps.table.values import canonical, shown
from lmlab.sweeps.table.words import what_is_counted

EDITED = {
    "corpus_sha256": "corpus_sha256: runs of one config have read different texts, the file was "
    "edited between them; they are not folded",
    "code": "code: runs of one config were trained with different code of your own (run.json has "
    "the hash of each module); they are not folded",
}


def notes(table: Table) -> list[str]:
    """What each figure is (unit, split, which tokens, over which seeds), a line each."""
    protocol = {"full": _full_pass(table.files), "evals": _evaluations(table.files)}
    lines = [
        f"{name}: {METRICS[name].unit}, {METRICS[name].protocol.format(**protocol)}"
        for name in dict.fromkeys((table.metric, LOSS, BEST))
    ]
    counted = table.runs[table.runs["counted"]]
    seeds = counted.groupby("setting")["seed"].agg(list)
    seeds = seeds[seeds.map(len) > 1]
    if len(seeds):
        are_same = len({canonical(sorted(map(shown, of_setting))) for of_setting in seeds}) == 1
        which = f"seeds {listed(seeds.iloc[0])}" if are_same else "seeds"
        lines.append(f"±: mean and standard deviation (n - 1) over the {which} that are done")
    lines += [*_flattering(table), *_saved(table)]
    done = table.runs[table.runs["status"] == "done"]
    if repeated := len(done) - len(counted):
        lines.append(f"{repeated} done before with the same seed: only the newest of each counts")
    lines += [EDITED[key] for key in table.keys if key in EDITED]
    lines += _machines([run for run in table.files if run.status == "done"])
    amounts = [
        f"{done[quantity].iloc[0]:{digits}} {heading}"
        for quantity, heading, digits in (
            ("step", "steps", ","),
            ("tokens", "tokens", ","),
            ("flops", "FLOPs", ".3g"),
        )
        if len(done) and done[quantity].fillna(0).gt(0).all() and not table.varies(quantity)
    ]
    if amounts:
        lines.append(f"each run: {', '.join(amounts)} of training")
    return [*lines, *what_is_counted([table.files[i].record for i in done.index])]


def _flattering(table: Table) -> list[str]:
    """Of which settings the mean is left out, or leaves something out, that tells of the loss."""
    lines = []
    lives = (table.runs["counted"] & ~table.runs["diverged"]).groupby(table.runs["setting"]).any()
    if n := int((lives & (table.settings["diverged"] > 0)).sum()):
        which = "a setting has" if n == 1 else f"{n} settings have"
        lines.append(f"{which} no mean: a seed diverged, and the others alone would flatter it")
    for status in ("pruned", "paused"):
        early = (table.runs["status"] == status).groupby(table.runs["setting"]).any()
        if n := int((early & (table.settings["n"] > 0)).sum()):
            which = "a setting" if n == 1 else f"{n} settings"
            lines.append(
                f"the mean of {which} is without seeds that were {status}, which flatters it"
            )
    return lines


def _saved(table: Table) -> list[str]:
    """What was spent of the steps that all would take to their ends, where runs have paused."""
    pauses = {i: f.record["pause_at"] for i, f in enumerate(table.files) if "pause_at" in f.record}
    if not any(pauses.values()):  # they went on after something else
        return []
    paused = list(pauses)
    ends = [(table.files[i].config or {}).get("trainer.max_steps") for i in paused]
    whole = sum(end for end in ends if isinstance(end, int))
    if not whole:
        return []
    spent = int(table.runs["step"][paused].sum())
    runs = table.runs.loc[paused]
    stood = runs.loc[runs["status"] == "paused", "step"].value_counts().sort_index()
    where = [f"{n} paused at step {step:,}" for step, n in stood.items()]
    where.append(f"{(runs['status'] == 'done').sum()} came to the end")
    return [
        f"{', '.join(where)}; {spent:,} of the {whole:,} steps of all runs to their ends "
        f"({spent / whole:.0%})"
    ]


def listed(values: Sequence[Any]) -> str:
    """Values in order; three whole numbers or more that follow each other as `1 to 64`."""
    numbers = sorted(v for v in values if isinstance(v, int))
    parts: list[list[Any]] = []
    for value in [*numbers, *sorted((v for v in values if not isinstance(v, int)), key=shown)]:
        if parts and isinstance(value, int) and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(
        f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(shown, part))
        for part in parts
    )


def _machines(runs: Sequence[RunFiles]) -> list[str]:
    """What the runs were computed on, where it is not the same for all."""
    lines = []
    for key in COMPUTED_ON:
        values = {shown(on[key]) for run in runs for on in run.computed_on if key in on}
        if len(values) > 1:
            lines.append(
                f"{key}: {', '.join(sorted(values))} among these runs, so their last digits may "
                "differ for that alone"
            )
    return lines


def _agreed(runs: Sequence[RunFiles], keys: Sequence[str]) -> list[Any] | None:
    """The values of some keys, if all readable configs have the same."""
    values = [[run.config.get(key) for key in keys] for run in runs if run.config is not None]
    return values[0] if len(set(map(canonical, values))) == 1 else None


def _full_pass(runs: Sequence[RunFiles]) -> str:
    agreed = _agreed(runs, ("data.block_size", "eval.stride"))
    windows = "data.block_size and eval.stride of each run"
    if agreed is not None:
        windows = f"windows of {agreed[0]} tokens {agreed[1] or agreed[0]} apart"
    if (full := _agreed(runs, ("eval.full",))) is None:
        return f"not of the same tokens, so not to be compared: eval.full differs ({windows})"
    if full[0] is False:
        return "none: eval.full=false"
    which = "every token of val but the first"
    if full[0] not in (None, True):  # what is as ever stands in no fingerprint
        which = f"the first {full[0]:,} tokens of val, or all that it has, but the very first"
    return f"{which} predicted once ({windows})"


def _evaluations(runs: Sequence[RunFiles]) -> str:
    agreed = _agreed(runs, ("eval.protocol", "eval.iters", "data.batch_size", "data.block_size"))
    if agreed is None:
        return "on tokens of val as each run's eval and data say"
    protocol, iters, batch_size, block_size = agreed
    if protocol == "full":
        return "each a full pass over val"
    return f"each {iters} random batches of {batch_size} × {block_size} tokens of val"
