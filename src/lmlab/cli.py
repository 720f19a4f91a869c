"""The commands: Hydra composes, the config is checked, and only then is torch imported."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.errors import LabError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def conf_dir() -> Path:
    """The folder of configs: inside an installed package, beside src/ in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def train() -> Any:
    """lmlab-train: train one run, or with -m many."""
    _command("train", _train)


def evaluate() -> Any:
    """lmlab-evaluate: the loss of a run's checkpoint on every val token."""
    _command("evaluate", _evaluate)


def generate() -> Any:
    """lmlab-generate: text from a run's checkpoint."""
    _command("generate", _generate)


def _train(cfg: DictConfig) -> Any:
    from lmlab import schema
    from lmlab.config import check

    if cfg.run is not None:
        cfg = _continued(cfg.run)
    config = check(cfg, schema.Train)
    from lmlab.train import train

    return train(config)


def _continued(path: str) -> DictConfig:
    """The config stored in a run, with what the command line says besides `run=`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig, OmegaConf

    from lmlab.runs import Run

    cfg = OmegaConf.create(Run.open(path).config)
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if isinstance(OmegaConf.select(cfg, key), DictConfig) or key == "experiment":
            raise LabError(f"{key}={value}: a run is continued with its own {key}")
        OmegaConf.update(cfg, key, value)
    return cfg


def _evaluate(cfg: DictConfig) -> Any:
    from lmlab import schema
    from lmlab.config import check

    config = check(cfg, schema.Evaluate)
    from lmlab.evaluate import evaluate

    return evaluate(config)


def _generate(cfg: DictConfig) -> Any:
    from lmlab import schema
    from lmlab.config import check

    config = check(cfg, schema.Generate)
    from lmlab.generate import generate

    return generate(config)


def _command(name: str, task: Callable[[DictConfig], Any]) -> None:
    """Run one command; an error that the user can put right is one line and exit status 2.

    HYDRA_FULL_ERROR=1 shows tracebacks, as with any Hydra application.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise what it would print
    sys.argv[1:] = [_as_text(word) for word in sys.argv[1:]]
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)
    try:
        main(task)()
    except (LabError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        print(f"error: {_explain(error, name)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _as_text(word: str) -> str:
    """Quote the value of `run=` and `prompt=`: it is text, not a value in Hydra's grammar."""
    key, equals, value = word.partition("=")
    if not equals or key not in ("run", "prompt", "checkpoint"):
        return word
    escaped = re.sub(r"(\\*)(\"|$)", lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return f'{key}="{escaped}"'


def _explain(error: BaseException, name: str) -> str:
    """Hydra's message as one line, with the nearest name that exists."""
    from lmlab.config import nearest

    text = str(error)
    if isinstance(error, LabError):
        return text
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"unknown key {match[1]}{nearest(match[1], _known_keys(name))}"
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'\s+Available options in", text):
        group, wrong = match[1], match[2]
        options = re.findall(r"^\t([^_\s:]\S*)$", text, re.MULTILINE)
        return f"{group}={wrong}: no such option{nearest(wrong, options)} ({', '.join(options)})"
    return " ".join(text.split("\nSee https")[0].split())


def _known_keys(name: str) -> list[str]:
    """Every key of a command's config, with the groups and options that can be composed now."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from lmlab.config import keys

    GlobalHydra.instance().clear()
    groups = [w for w in sys.argv[1:] if re.fullmatch(r"[a-z_/]+=[\w/]+", w) and _is_group(w)]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(name, [w for w in groups])
    return list(keys(OmegaConf.to_container(cfg, resolve=False)))


def _is_group(override: str) -> bool:
    group, _, option = override.partition("=")
    return (conf_dir() / group / f"{option}.yaml").is_file()
