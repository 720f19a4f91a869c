"""The lab, called from a program that is itself one of Hydra's."""

from pathlib import Path

from forked import Forked
from small import TINY

PROGRAM = """
import logging, sys, warnings
from dataclasses import dataclass

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

import lmlab
sys.path.append({here!r})
from hydra_state import hydra_state
from lmlab.config.words.hydra_inside import is_1_4, version_base

SMALL = {small!r}


@dataclass
class Config:
    lr: float = 0.01
    seeds: tuple = (1, 2)
    name: str = "${{hydra:job.name}}"


ConfigStore.instance().store(name="mine", node=Config)


def state():
    return (*hydra_state(), list(logging.getLogger().handlers))


@hydra.main(config_path=None, config_name="mine", **version_base())
def main(cfg):
    before = state()
    sweep = lmlab.sweep(*SMALL, seed=cfg.seeds, optimizer={{"lr": cfg.lr}})
    assert len(sweep.runs) == 2
    assert state() == before
    run = lmlab.train(*SMALL, optimizer={{"lr": cfg.lr}})
    assert run.config["optimizer"]["lr"] == 0.01
    for wrong in ("model=hed", "nothing=1"):
        try:
            lmlab.train(*SMALL, wrong)
        except lmlab.LabError:
            pass
        else:
            raise AssertionError(wrong)
    assert state() == before
    assert cfg.name == HydraConfig.get().job.name


sys.argv[1:] = ["hydra.run.dir=host"]
main()
with warnings.catch_warnings():  # 1.4 has one of every version_base
    warnings.simplefilter("ignore")
    hydra.initialize(version_base="1.3" if is_1_4() else "1.2", config_path=None)
held = state()
assert len(lmlab.sweep(*SMALL, seed=[1, 2]).runs) == 2
assert state() == held
hydra.compose("mine")
"""


def test_from_a_hydra_app_and_beside_one(tmp_path, tinyshakespeare_path):
    small = [
        *TINY,
        "model=bigram",
        "trainer.accelerator=cpu",
        f"corpus.path={tinyshakespeare_path}",
    ]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(small=small, here=str(Path(__file__).parent)))
    ended = Forked([], tmp_path, script=program)
    out, err = ended.communicate(timeout=200)
    assert ended.returncode == 0, out + err
    assert err == ""
