"""Files that are whole or not there, and that stay where they belong.

A folder of runs may come from somebody else. Its own path may lead anywhere, `outputs` to another
disk, say; but nothing *in* a run or a sweep is read or written through a link that leads out of it,
and nothing is waited for: what stands in the place of a file and is a pipe or a folder is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lmlab.errors import LabError

if TYPE_CHECKING:
    import filelock  # --help and a tab completion have no lock, and do without

DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file, to Windows


def path_name(text: str) -> str:
    """`text` as a file's name on any file system: plain characters, and never too many."""
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", text).strip("-.")
    if DEVICE.fullmatch(name):
        name = f"_{name}"
    if len(name) > 120:
        name = f"{name[:111]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return name


def path_typed(text: str, key: str) -> Path:
    """The path that somebody gave for a key: ~ is a home folder, unless a folder is called so.

    Raises:
        LabError: if nobody has such a home.
    """
    path = Path(text)
    try:
        return path if not text.startswith("~") or path.exists() else path.expanduser()
    except RuntimeError as error:
        raise LabError(f"{key}={text}: there is no such home folder") from error


APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
# How a folder is opened to open what lies in it, no link followed.
AS_FOLDER = sum(getattr(os, f, 0) for f in ("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"))

# What a killed write leaves: .run.json.1f0a93c2
UNFINISHED = re.compile(r"\..+\.(ckpt|json|yaml|csv|txt|tsv|pbtxt|bin)\.[a-z0-9_]{8}")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether `path`, in `folder`, is elsewhere once its links are followed.

    The folder itself may be reached through links, and a link may stay within it.
    """
    real, of_folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return not real.is_relative_to(of_folder)


def check_stays_in(folder: Path, path: Path) -> None:
    """Refuse a path in `folder` that a link leads out of it.

    Raises:
        LabError: naming where it leads.
    """
    if leads_out(path, folder):
        raise LabError(_out(path, folder))


def _out(path: Path, folder: Path) -> str:
    to = os.path.realpath(path)
    return f"{path} leads out of {folder} by a link, to {to}; put that in the place of the link"


@contextmanager
def atomic_file(
    path: Path, parents: bool = False, within: Path | None = None, waits: bool = True
) -> Iterator[BinaryIO]:
    """A file to write that appears at `path`, synced to disk, only when the block ends well. Where
    nobody `waits` for the disk, which takes milliseconds, a thread syncs it a moment later.

    Its folder must be there, unless `parents` are to be made: a run whose directory was moved away
    is not begun anew. A link at `path` is replaced, not followed; one on the way to it must not
    lead out of `within`.

    Raises:
        LabError: if it cannot be written (read-only folder, full disk); nothing is left behind.
    """
    if within is not None:
        check_stays_in(within, path.parent)
    temporary = _temporary(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # "x" leaves the permissions to the umask, which tempfile does not.
            with temporary.open("xb") as file:
                yield file
                file.flush()
                if waits:
                    os.fsync(file.fileno())
            _replace(temporary, path)  # once it is closed: Windows moves no open file
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error
    if not waits:
        threading.Thread(target=_sync, args=(path.absolute(),), name="sync").start()


def _sync(path: Path) -> None:
    with suppress(OSError):  # another has replaced or moved it, which is synced in its turn
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of another; Windows refuses while somebody reads that one."""
    for seconds in (0.01, 0.1, 1.0) if os.name == "nt" else ():
        with suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(seconds)
    temporary.replace(path)


def write_atomically(
    path: Path,
    content: bytes | memoryview,
    parents: bool = False,
    within: Path | None = None,
    waits: bool = True,
) -> None:
    """Put `content` at `path`: a reader finds the old file or the whole new one, never a part. See
    `atomic_file`."""
    with atomic_file(path, parents, within, waits) as file:
        file.write(content)


def link_or_copy(source: Path, path: Path) -> None:
    """Put a file that is only ever replaced at `path`, too: by another name for it, or by a copy
    where the file system has only one name for a file.

    Raises:
        LabError: if it cannot be written.
    """
    temporary = _temporary(path)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomically(path, source.read_bytes())
        return
    try:
        _replace(temporary, path)
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is still there if both were one file before
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def remove_unfinished(folder: Path, older_than: float = 0.0) -> None:
    """Delete what killed writes left in a folder, if nobody has touched it for so many seconds."""
    with suppress(OSError):  # a read-only disk, or another process that does the same
        for path in folder.glob(".*"):
            if not UNFINISHED.fullmatch(path.name) or not path.is_file():
                continue
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink(missing_ok=True)


def make_folder(path: Path, within: Path | None = None) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        LabError: if that is not possible, or a link leads it out of `within`.
    """
    if within is not None:
        check_stays_in(within, path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise LabError(f"cannot make the folder {path}: a file of that name is there") from None
    except OSError as error:
        raise LabError(f"cannot make the folder {path}: {error.strerror or error}") from error


def remove(path: Path, within: Path) -> None:
    """Delete a file, if it is there; a link goes, not what it leads to.

    Raises:
        LabError: if it cannot be deleted, or a link on the way to it leads out of `within`.
    """
    check_stays_in(within, path.parent)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LabError(f"cannot delete {path}: {error.strerror or error}") from error


def lock_at(path: Path, within: Path) -> filelock.FileLock:
    """A lock of the operating system's; taking it empties the file.

    Raises:
        LabError: if something is there that is no file of `within`, or no lock, which is empty.
    """
    import filelock

    check_place(path, within)
    if path.is_file() and path.stat().st_size:
        raise LabError(f"{path} is no lock of ours, for it is not empty; move it away")
    return filelock.FileLock(path)


def is_locked(path: Path, within: Path) -> bool:
    """Whether a process holds the lock at `path` now. Leaves no trace."""
    try:
        with open_to_read(path, within) as file:
            # Closing the file lets go of it. Another process that looks has it for a moment.
            return not any(_try_to_lock(file) for _ in range(3))
    except (OSError, ValueError):  # none is there, or what is no lock of ours
        return False


def _try_to_lock(file: BinaryIO) -> bool:
    import filelock

    taken = filelock.lock_descriptor(file.fileno(), blocking=False)
    if not taken:
        time.sleep(0.001)
    return taken


def check_place(path: Path, within: Path, is_folder: bool = False) -> None:
    """Whether a file (or a folder) of ours may be kept at `path`: there is none, or it is one.

    Raises:
        LabError: if anything else is there, or a link leads it out of `within`.
    """
    check_stays_in(within, path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise LabError(f"{path} is a link that leads nowhere; delete it") from None
        return
    except OSError as error:
        raise LabError(f"{path} cannot be used: {error.strerror or error}") from error
    if not (stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)):
        wanted = "folder" if is_folder else "file"
        raise LabError(f"{path} is {_kind(mode)}, where a {wanted} is to be; move it away")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


def open_to_append(path: Path, within: Path) -> BufferedWriter:
    """A file that is written on at its end, made if there is none.

    Raises:
        LabError: if it cannot be, or something else is there: see `check_place`.
    """
    check_place(path, within)
    try:
        if path.is_file() and path.stat().st_nlink > 1:
            write_atomically(path, path.read_bytes())  # its other names are not ours to change
        return os.fdopen(_opened(os.path.realpath(path), APPEND), "ab")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabError(f"cannot write {path}: {reason}") from error


def open_to_read(path: Path, within: Path | None = None) -> BufferedReader:
    """A regular file, read without waiting for anybody.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is no regular file, or a link leads it out of `within`.
    """
    real, folder = os.path.realpath(path), None
    if within is not None:
        folder = os.path.realpath(within)
        if not Path(real).is_relative_to(folder):
            raise ValueError(_out(path, within))
    check_regular(path)
    return os.fdopen(_opened(real, os.O_RDONLY, folder), "rb")


def _opened(real: str, flags: int, folder: str | None = None) -> int:
    """The descriptor of a regular file, by its real path: no link is followed any more, where the
    system can see to that (not on Windows). One that was put there a moment ago leads nowhere
    either: below `folder`, which is real too, each folder is opened in the one above it."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if folder is None or os.open not in os.supports_dir_fd:
        descriptor = os.open(real, flags, 0o666)
    else:
        *folders, name = Path(real).relative_to(folder).parts
        above = os.open(folder, os.O_RDONLY | AS_FOLDER)
        try:
            for part in folders:
                below = os.open(part, os.O_RDONLY | AS_FOLDER, dir_fd=above)
                os.close(above)
                above = below
            descriptor = os.open(name, flags, 0o666, dir_fd=above)
        finally:
            os.close(above)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    return descriptor


def read_small(path: Path, most: int, within: Path | None = None) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, or no regular file (reading a pipe may wait for ever), or a
            link leads it out of `within`.
    """
    with open_to_read(path, within) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it is {size:,} bytes long, and at most {most:,} are expected")
        return file.read()


def check_regular(path: Path, within: Path | None = None) -> None:
    """Whether a file may be opened without waiting for anybody.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is a pipe, a device, a socket or a folder, or a link leads it out of
            `within`.
    """
    if within is not None and leads_out(path, within):
        raise ValueError(_out(path, within))
    if not path.is_file():
        path.stat()  # raises, with the reason, if there is nothing
        raise ValueError("it is no regular file")
