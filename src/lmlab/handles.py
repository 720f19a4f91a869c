"""Runs and sweeps as a person who writes Python has them in hand."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config.words.python_words import checked_text, plain
from lmlab.console import shown_on
from lmlab.errors import LabError
from lmlab.files import open_to_read, path_typed
from lmlab.runs import directory as runs
from lmlab.runs.record import tokens_of_result

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from lmlab.data.tokenizer import Tokenizer
    from lmlab.sweeps.figures.charts import Chart
    from lmlab.sweeps.table.settings import Table
    from lmlab.training.beginning.restored import Trained


def folder_named(path: Any, key: str = "path") -> Path:
    """The folder that a caller means.

    Raises:
        LabError: if that is no path, or there is no folder.
    """
    named = plain(path, key)
    if not isinstance(named, str) or not named:
        raise LabError(f"{key}={named!r}: give a folder, such as outputs/<name>/<time>")
    try:
        folder = path_typed(named, key)
        is_there = folder.is_dir()
    except OSError as error:  # a name that is too long
        raise LabError(f"{key}={named[:100]}: {error.strerror or error}") from error
    if not is_there:
        raise LabError(f"{named}: no such folder; runs are kept in outputs/<name>/<time>")
    return folder


class Run:
    """A run directory: what was trained, and what can be done with it."""

    def __init__(self, path: str | Path):
        """Raises LabError if it is no run directory."""
        self._run = runs.RunDirectory.open(str(folder_named(path)))

    def __fspath__(self) -> str:
        """So that a run is taken wherever its path is."""
        return str(self.path)

    @property
    def path(self) -> Path:
        return self._run.path

    @property
    def status(self) -> str:
        """done, failed, paused, pruned, interrupted, running, or killed."""
        return self._run.status

    @property
    def config(self) -> dict[str, Any]:
        """The whole config that it was trained with."""
        return self._run.config

    @property
    def record(self) -> dict[str, Any]:
        """run.json: status, steps, tokens, versions, what it was computed on."""
        return self._run.record

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the last evaluation, by name; a run that is done has `val/loss_full`: nats per
        token, each token of val predicted once."""
        return dict(self.record.get("metrics", {}))

    @property
    def sample(self) -> str | None:
        """The last text that it made while it was trained."""
        return self._run.sample

    def curves(self) -> pd.DataFrame:
        """Every metric that was logged: a row for each step, a column for each metric.

        `seconds` (of training, evaluations included and pauses not), `tokens` and `flops` stand
        first: what training had taken when the row was written. Earlier runs lack them.

        Raises:
            LabError: if metrics.csv is not there, or no table.
        """
        import pandas as pd

        path = self.path / runs.METRICS
        try:
            with open_to_read(path, within=self.path) as file:
                return pd.read_csv(file, index_col="step")
        except (OSError, ValueError) as error:  # pandas' own are ValueErrors
            raise LabError(
                f"{path} cannot be read: {' '.join(str(error).split())[:200]}"
            ) from error

    def model(self, checkpoint: str = "last") -> nn.Module:
        """The trained model, idx (B, T) -> logits (B, T, vocab_size), in eval mode.

        `checkpoint` is `last`, `best`, `ema`, or a path.
        """
        return self._trained(checkpoint).model

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back: `encode`, `decode`, `vocab_size`."""
        return self._trained("last").tokenizer

    def generate(
        self,
        prompt: str | None = None,
        max_new_tokens: int = 500,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: bool = True,
        seed: int = 1337,
        checkpoint: str = "last",
    ) -> str:
        """The text that `scripts/generate.py` prints, prompt included.

        A model of documents stops where one ends, unless `stop=False`."""
        from lmlab.config import schema
        from lmlab.config.check import check_plain
        from lmlab.core.generate import samples, stream_text
        from lmlab.data.streams import own_default_generators

        asked = {
            "checkpoint": checkpoint,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "stop": stop,
            "seed": seed,
        }
        if isinstance(prompt, str):
            prompt = checked_text(prompt, "prompt", may_have_nul=True)
        config = check_plain(
            {**_plain(asked), "run": str(self.path), "prompt": prompt, "samples": 1},
            schema.Generate,
        )
        with own_default_generators():
            trained = self._trained(config.checkpoint)
            (tokens,) = samples(trained, config)
            return (prompt or "") + "".join(stream_text(trained.tokenizer, tokens))

    def evaluate(
        self,
        checkpoint: str = "last",
        stride: int | None = None,
        dynamic_lr: float | None = None,
        ensemble: Sequence[str | Path | Run] = (),
        weights: Sequence[float] | None = None,
        corpus: Mapping[str, Any] | None = None,
        tasks: str | Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """The metrics that `scripts/evaluate.py` prints: a pass over all of val.

        `stride` is how far its windows are apart, in tokens; None: as the run was configured. With
        a `dynamic_lr` there is `val/loss_dynamic` too: see `lmlab.training.dynamic.Dynamic`. With
        an `ensemble` of other runs, the mean of the probabilities of all is evaluated, by
        `weights`, this run's first. A text that has moved is named by `corpus={"path": …}`, or by
        other keys of its corpus, which the run then keeps. With `tasks="text"`, or other tasks by
        name as a config has them, their scores are there too, as `tasks/word/accuracy`.
        """
        from rich.console import Console

        from lmlab.config import schema
        from lmlab.config.check import check_plain
        from lmlab.core.evaluate import evaluate
        from lmlab.data.streams import own_default_generators

        asked = {
            "checkpoint": checkpoint,
            "stride": stride,
            "dynamic_lr": dynamic_lr,
            "ensemble": ensemble or None,
            "weights": weights,
            "corpus": corpus or {},
            "tasks": _tasks(tasks) if isinstance(tasks, str) else tasks or {},
        }
        config = check_plain(
            {**_plain(asked), "run": str(self.path), "accelerator": "auto"}, schema.Evaluate
        )
        with own_default_generators(), shown_on(Console(quiet=True)):
            return evaluate(config)

    def _trained(self, checkpoint: str | Path) -> Trained:
        from lmlab.data.streams import own_default_generators
        from lmlab.training.beginning.restored import restore

        which = plain(checkpoint, "checkpoint")
        if not isinstance(which, str):
            raise LabError(f"checkpoint={which!r}: last, best, ema, or a path")
        with own_default_generators():
            return restore(self._run, which)

    def __repr__(self) -> str:
        loss = self.metrics.get("val/loss_full")
        result = "" if loss is None else f", val/loss_full {loss:.4f}{self._of_some()}"
        return f"<Run {self.path}: {self.status} after {self.record.get('step', 0)} steps{result}>"

    def _of_some(self) -> str:
        """In brackets, of which val tokens val/loss_full is, where these are not all."""
        tokens = tokens_of_result(self.record)
        return "" if tokens.startswith("each") else f" ({tokens})"

    def _repr_html_(self) -> str:
        """In a notebook: the figures, and the curve."""
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.4f}</td></tr>"
            for name, value in sorted(self.metrics.items())
        )
        return (
            f"<p><b>{html.escape(str(self.path))}</b>: {html.escape(self.status)} after "
            f"{self.record.get('step', 0):,} steps{self._of_some()}</p>"
            f'<div style="display: flex; gap: 2em"><table>{rows}</table>{self._picture()}</div>'
        )

    def _picture(self) -> str:
        """The losses as an inline picture."""
        from matplotlib.figure import Figure  # without pyplot, which keeps what it draws

        curves = self.curves()
        figure = Figure(figsize=(5, 3), layout="constrained")
        ax = figure.subplots()
        for name in ("train/loss", "val/loss"):
            if name in curves and len(curve := curves[name].dropna()):
                ax.plot(curve.index, curve, label=name, marker="." if len(curve) < 30 else None)
        ax.set_xlabel("step")
        ax.set_ylabel("nats per token")
        ax.legend()
        return _inline(figure)


class Sweep:
    """A folder of runs."""

    def __init__(self, path: str | Path):
        """Raises LabError if there is no such folder."""
        self.path = folder_named(path)

    def __fspath__(self) -> str:
        """So that a sweep is taken wherever its path is."""
        return str(self.path)

    @property
    def runs(self) -> list[Run]:
        """Every run, those of the best setting first."""
        return [Run(directory) for directory in self._table().runs["directory"]]

    def table(self) -> pd.DataFrame:
        """A row for each setting, the best first: what is varied, how many seeds are done (n), and
        means and standard deviations over them (sd); see `lmlab.sweeps.table.settings`."""
        return self._table().settings.infer_objects()

    def run_table(self) -> pd.DataFrame:
        """A row for each run: see `lmlab.sweeps.table.settings.runs_frame`."""
        return self._table().runs.infer_objects()

    def differences(
        self,
        baseline: str | None = None,
        *,
        at: str | None = None,
        to: float | None = None,
        least: float | None = None,
    ) -> pd.DataFrame:
        """Each setting beside the `baseline`, "key=value,…" (None: the best), paired by seed: the
        difference, its 95 % interval, and p corrected for as many as are compared.

        `at` is a point of training instead of its end (`"30s"`, `"1000steps"`, `"2e6tokens"`,
        `"1e12flops"`); `to` compares the steps that it took to a loss.
        """
        from lmlab.sweeps.compare.differences import compare
        from lmlab.sweeps.compare.equal import at_point, to_loss
        from lmlab.sweeps.report.questions import Asked
        from lmlab.sweeps.table.values import is_number

        if at is not None and to is not None:
            raise LabError(f"at={at} and to={to}: one of them at a time")
        given = _plain({"baseline": baseline, "least": least, "at": at, "to": to})
        for name in ("baseline", "at"):
            if given[name] is not None and not isinstance(given[name], str):
                raise LabError(f"{name}={given[name]!r}: a text, such as {EXAMPLES[name]!r}")
        for name in ("least", "to"):
            if given[name] is not None and not is_number(given[name]):
                raise LabError(f"{name}={given[name]!r}: a number, such as {EXAMPLES[name]}")
        table = self._table()
        asked = Asked.parse(
            table,
            given["baseline"],
            given["least"],
            [] if at is None else [given["at"]],
            [] if to is None else [given["to"]],
        )
        measured, size = None, asked.least
        if asked.at:
            measured = at_point(table, asked.at[0])
        elif asked.to:
            measured, size = to_loss(table, asked.to[0], "steps"), None  # `least` is of losses
        answer = compare(table, None, asked.baseline, size, measured)
        return table.settings[table.keys].infer_objects().join(answer.settings)

    def figures(self) -> dict[str, Chart]:
        """The figures of the report, by name: Altair charts, which a notebook shows."""
        from lmlab.sweeps.report.leaderboard import leaderboard
        from lmlab.sweeps.report.questions import Asked

        table = self._table()
        sections = [leaderboard(table), *Asked(table).answers()]
        return {name: chart for section in sections for name, chart in section.figures.items()}

    def report(self) -> Path:
        """Write tables and pictures into the folder; the page that shows them all."""
        from rich.console import Console

        from lmlab.sweeps.reporting import PAGE, keep_all

        with shown_on(Console(quiet=True)):
            keep_all(self._table(), self.path)
        return self.path / PAGE

    def _table(self) -> Table:
        from lmlab.sweeps.table.settings import load

        return load([self.path])

    def __repr__(self) -> str:
        return f"<Sweep {self.path}: {len(self._table().runs)} runs>"

    def _repr_html_(self) -> str:
        table = self.table()
        return f"<p><b>{html.escape(str(self.path))}</b></p>{table.to_html(max_rows=20)}"


EXAMPLES = {"baseline": "optimizer.lr=0.001", "at": "30s", "least": 0.01, "to": 1.88}


def _tasks(option: str) -> dict[str, Any]:
    """The tasks of an option of conf/tasks."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    from lmlab.config.words.compose import composed
    from lmlab.config.words.explain import explain, is_explained

    words = [f"tasks={checked_text(option, 'tasks')}"]
    try:
        cfg = composed("evaluate", words)
        nodes: Any = OmegaConf.to_container(cfg.tasks, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise LabError(f"tasks={option}: it has to be told a path; give it as a mapping") from error
    except Exception as error:
        if is_explained(error):
            raise LabError(explain(error, "evaluate", words)) from error
        raise
    return nodes


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments as a config has them."""
    return {name: plain(value, name) for name, value in asked.items()}


def _inline(figure: Any) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img alt="loss by step" src="data:image/png;base64,{data}">'
