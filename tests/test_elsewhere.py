"""Without what only Unix has: a run is trained, refused to a second process, resumed and evaluated,
and a sweep is trained.

This is no Windows. It shows that nothing on the main path asks for these modules and functions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmlab.files import path_name
from lmlab.runs.directory import RunDirectory

ROOT = Path(__file__).parents[1]

# Python reads this as it starts. filelock and platformdirs ask what the system is called, and on
# Windows do without these; so they are imported first.
SITECUSTOMIZE = """
import os, signal, sys
import filelock, platformdirs

BLOCKED = {"fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

filelock.FileLock
filelock.lock_descriptor
for name in BLOCKED:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Blocked())
for name in ("sysconf", "fork", "getuid", "geteuid", "nice", "mkfifo", "killpg", "setsid"):
    delattr(os, name)
for name in ("pthread_sigmask", "pthread_kill", "sigwait", "setitimer"):
    delattr(signal, name)
"""
SMALL = ["model=gpt", "model.n_layer=1", "model.n_head=2", "model.n_embd=8", "data.block_size=8"]
SMALL += ["corpus=file", "corpus.path=text.txt", "trainer.max_steps=8", "eval.every=4"]
SMALL += ["eval.iters=1", "trainer.accelerator=cpu", "callbacks.sample.max_new_tokens=5"]


# What is asked of it. A run that is locked is refused.
PROGRAM = """
import importlib, json, os, signal, sys
from pathlib import Path

for name in ("fcntl", "resource", "termios", "pwd"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"there is {name}")
assert not hasattr(os, "sysconf") and not hasattr(signal, "pthread_sigmask")

from lmlab import cli
from lmlab.runs.directory import RunDirectory


def command(*words):
    sys.argv = list(words)
    os.environ.pop("HYDRA_FULL_ERROR", None)  # which the command sets
    try:
        getattr(cli, words[0])()
    except SystemExit as end:
        return end.code
    return 0


SMALL = json.loads(sys.argv[1])
assert command("train", *SMALL, "run_dir=run") == 0
run = RunDirectory(Path("run"))
with run.locked():
    run.step_checkpoint(8).unlink()
    run.update(status="running", step=4)
    assert command("train", "run=run") == 2
assert command("train", "run=run") == 0
assert command("evaluate", "run=run") == 0
assert command("train", "-m", *SMALL, "seed=1,2", "sweep.name=two") == 0
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[Path, str, str]:
    """Where a Python without those, with locale C, has worked, and what it printed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    warn = ["-X", "warn_default_encoding"]  # where a file is opened in the locale's encoding
    environ = {**os.environ, "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    environ["PYTHONPATH"] = f"{folder}:{ROOT / 'src'}"
    done = subprocess.run(
        [sys.executable, *warn, "-c", PROGRAM, json.dumps(SMALL)],
        cwd=folder,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_a_run_needs_nothing_that_only_unix_has(told):
    folder, _, err = told
    assert [line for line in err.splitlines() if str(ROOT / "src") in line] == []
    assert "error: run=run is being trained by another process" in err
    record = RunDirectory(folder / "run").record
    assert (record["status"], record["step"]) == ("done", 8)


def test_a_sweep_needs_nothing_that_only_unix_has(told):
    folder, out, _ = told
    assert "2/2 done" in out
    for path in (folder / "outputs").rglob("*"):
        assert not set(path.name) & set('<>:"|?*\\'), path  # Windows refuses these


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "aux.txt", "lpt9.seed=1"])
def test_no_folder_is_called_like_a_device_of_windows(name):
    assert path_name(name) == f"_{name}"
    assert path_name(f"a{name}") == f"a{name}"
