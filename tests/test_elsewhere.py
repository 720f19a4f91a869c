"""Without what only Unix has: a run is trained, refused to a second process, resumed and evaluated,
and a sweep is trained.

This is no Windows. It shows that nothing on the main path asks for these modules and functions.
"""

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


@pytest.fixture
def command(tmp_path, text):
    """command("train", …): in a Python without those, with locale C; status and what it said."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
    warn = ["-X", "warn_default_encoding"]  # where a file is opened in the locale's encoding
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}", "OMP_NUM_THREADS": "1"}

    def run(name: str, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *warn, str(ROOT / f"scripts/{name}.py"), *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_blocks_are_real(command, tmp_path):
    probe = """
import importlib, os, signal
for name in ("fcntl", "resource", "termios", "pwd"):
    try:
        importlib.import_module(name)
    except ImportError:
        print("no", name)
print(hasattr(os, "sysconf"), hasattr(signal, "pthread_sigmask"))
"""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [
        *["no", "fcntl", "no", "resource", "no", "termios", "no", "pwd"],
        "False",
        "False",
    ]


def test_a_run_needs_nothing_that_only_unix_has(command, tmp_path):
    status, _, err = command("train", *SMALL, "run_dir=run")
    ours = [line for line in err.splitlines() if str(ROOT / "src") in line]
    assert (status, ours) == (0, []), err
    run = RunDirectory(tmp_path / "run")
    assert run.record["status"] == "done"
    with run.locked():
        run.step_checkpoint(8).unlink()
        run.update(status="running", step=4)
        status, _, err = command("train", f"run={tmp_path / 'run'}")
        assert status == 2
        assert f"error: run={tmp_path / 'run'} is being trained by another process" in err
    assert command("train", f"run={tmp_path / 'run'}")[0] == 0
    assert run.record["step"] == 8
    assert command("evaluate", f"run={tmp_path / 'run'}")[0] == 0


def test_a_sweep_needs_nothing_that_only_unix_has(command, tmp_path):
    status, out, err = command("train", "-m", *SMALL, "seed=1,2", "sweep.name=two")
    assert status == 0, err
    assert "2/2 done" in out
    for path in (tmp_path / "outputs").rglob("*"):
        assert not set(path.name) & set('<>:"|?*\\'), path  # Windows refuses these


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "aux.txt", "lpt9.seed=1"])
def test_no_folder_is_called_like_a_device_of_windows(name):
    assert path_name(name) == f"_{name}"
    assert path_name(f"a{name}") == f"a{name}"
