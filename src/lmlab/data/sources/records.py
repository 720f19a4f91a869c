"""Documents in files: each record of a JSONL or Parquet file, or each file of text.

What is broken is yielded in its place, as the error that says where: whoever reads raises or
counts it.
"""

from __future__ import annotations

import codecs
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lmlab.data.sources.blocks import (
    COMPRESSED,
    BrokenError,
    Progress,
    blocks,
    import_extra,
    unchanged,
)
from lmlab.errors import LabError, first_line

JSONL, PARQUET = ".jsonl", ".parquet"
LONGEST = 1 << 26  # bytes of a document, which is held in memory
BLOCK_BYTES = 1 << 20
ROWS = 256  # of a Parquet file, read at a time

Document = str | BrokenError


def kind_of(path: Path) -> str:
    """.jsonl or .parquet, whatever it is compressed by; "" for a file of text."""
    suffix = suffix_of(path)
    return suffix if suffix in (JSONL, PARQUET) else ""


def suffix_of(path: Path) -> str:
    """What a name ends in, but for how it is compressed."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def text_of_file(path: Path, name: str, progress: Progress) -> Iterator[Document]:
    """The one document that a file of text is."""
    held: list[bytes] = []
    n_bytes = 0
    try:
        for block in blocks(path, name, progress, BLOCK_BYTES):
            n_bytes += len(block)
            if n_bytes > LONGEST:
                raise BrokenError(f"{name}: {_too_long()}")
            held.append(block)
    except BrokenError as error:
        yield error
        return
    raw = b"".join(held)
    text = _decoded(raw.removeprefix(codecs.BOM_UTF8))
    if isinstance(text, str):
        yield _checked(text, name, "it")
        return
    byte = text.start + len(raw) - len(text.object)
    yield BrokenError(f"{name} is not UTF-8: {text.reason} at byte {byte}")


def texts_of_lines(path: Path, name: str, progress: Progress, field: str) -> Iterator[Document]:
    """What each object of a JSONL file has at `field`. Lines without anything are passed over."""
    number = 0
    try:
        for begins, line in _lines(blocks(path, name, progress, BLOCK_BYTES)):
            number += 1
            place = f"{name}, record {number} at byte {begins}"
            if line is None:
                yield BrokenError(f"{place}: {_too_long()}")
            elif not line.isspace() and line:
                yield _of_line(line, begins, place, field)
    except BrokenError as error:
        yield BrokenError(f"{error} (record {number + 1})")


def _lines(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Where each line begins, and what it holds; None where that is too long for a document."""
    begins, n_bytes, held = 0, 0, bytearray()
    for piece in pieces:
        for i, part in enumerate(piece.split(b"\n")):
            if i:
                yield begins, bytes(held) if n_bytes <= LONGEST else None
                begins, n_bytes, held = begins + n_bytes + 1, 0, bytearray()
            n_bytes += len(part)
            held += part if n_bytes <= LONGEST else b""
    if n_bytes:
        yield begins, bytes(held) if n_bytes <= LONGEST else None


def _of_line(line: bytes, begins: int, place: str, field: str) -> Document:
    """The text in a line of JSON."""
    if begins == 0:
        line = line.removeprefix(codecs.BOM_UTF8)
    text = _decoded(line)
    if not isinstance(text, str):
        byte = begins + text.start
        return BrokenError(f"{place} is not UTF-8: {text.reason} at byte {byte}")
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        byte = begins + len(text[: error.pos].encode())
        return BrokenError(f"{place} is no JSON: {error.msg.removesuffix(' at')} at byte {byte}")
    except (ValueError, RecursionError) as error:  # a number, or a nesting, beyond all measure
        return BrokenError(f"{place} is no JSON: {first_line(error)}")
    if not isinstance(record, dict) or field not in record:
        there = ", ".join(record) if isinstance(record, dict) else json.dumps(record)
        return BrokenError(f"{place} has no field {field!r} (corpus.field), but {there[:100]}")
    return _checked(record[field], place, f"its field {field!r}")


def texts_of_rows(path: Path, name: str, progress: Progress, column: str) -> Iterator[Document]:
    """What each row of a Parquet file has in a column.

    Raises:
        LabError: if it has no such column, or one that holds no texts.
    """
    number = 0
    try:
        for values in _batches(path, name, progress, column):
            for value in values:
                number += 1
                place = f"{name}, record {number}"
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    yield BrokenError(f"{place} is not UTF-8: {error.reason} at byte {error.start}")
                else:
                    yield _checked(text, place, f"its column {column!r}")
    except BrokenError as error:
        yield BrokenError(f"{error} (record {number + 1})")


def _batches(path: Path, name: str, progress: Progress, column: str) -> Iterator[Any]:
    """The values of a column, some rows at a time."""
    pyarrow = import_extra("pyarrow", "data", name)
    parquet = import_extra("pyarrow.parquet", "data", name)
    n_bytes, noted, done = path.stat().st_size, 0, 0
    with _seekable(path, name) as file:
        try:
            table = parquet.ParquetFile(file, buffer_size=BLOCK_BYTES, pre_buffer=False)
            n_rows = table.metadata.num_rows
            _check_column(pyarrow, table.schema_arrow, column, name)
            for batch in table.iter_batches(ROWS, columns=[column], use_threads=False):
                yield batch.column(0)
                done += batch.num_rows
                progress(n_bytes * done // n_rows - noted)
                noted = n_bytes * done // n_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise BrokenError(
                f"{name} is no Parquet file, or damaged: {first_line(error)}"
            ) from error


def _check_column(pyarrow: Any, schema: Any, column: str, name: str) -> None:
    if column not in schema.names:
        there = ", ".join(schema.names)
        raise LabError(f"{name} has no column {column!r} (corpus.column), but {there[:200]}")
    kind = schema.field(column).type
    of_values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if str(of_values) not in ("string", "large_string", "string_view"):
        raise LabError(f"{name} has a column {column!r} of {kind}, and no texts (corpus.column)")


@contextmanager
def _seekable(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file, or where it is compressed what it holds, in which one may go to and fro."""
    if path.suffix not in COMPRESSED:
        with unchanged(path, name) as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:
        for block in blocks(path, name, lambda n_bytes: None, BLOCK_BYTES):
            whole.write(block)
        whole.seek(0)
        yield whole


def _decoded(raw: bytes) -> str | UnicodeDecodeError:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return error


def _checked(text: Any, place: str, what: str) -> Document:
    """A document, or what is wrong with it."""
    if not isinstance(text, str):
        return BrokenError(f"{place}: {what} is no text, but {json.dumps(text)[:100]}")
    if not text:
        return BrokenError(f"{place}: {what} is empty")
    if "\0" in text:
        byte = len(text[: text.index("\0")].encode(errors="surrogatepass"))
        return BrokenError(f"{place}: {what} holds a NUL at byte {byte}: no text does")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a pair of surrogates, as JSON may spell it
        half = f"U+{ord(text[error.start]):04X}"
        return BrokenError(f"{place}: {what} holds {half}, which is no character")
    return text


def _too_long() -> str:
    return f"a document of more than {LONGEST >> 20} MiB"
