"""The runs of a sweep, read again where their files have changed, and no more than is needed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lmlab.errors import LabError
from lmlab.runs.directory import RECORD, RunDirectory
from lmlab.sweeps.table.reading import RunFiles, read_run


class Runs:
    """Those in the folder of one sweep."""

    def __init__(self, sweep: Path):
        self.sweep = sweep
        self._seen: dict[Path, tuple[tuple[int, int], RunFiles | None]] = {}

    def look(self) -> list[RunFiles]:
        """As they are now. A config, which takes longest to read, is there where a run is at work;
        a run that cannot be read is left out."""
        seen = {}
        with suppress(OSError):
            for path in self.sweep.iterdir():
                with suppress(OSError):
                    if path.is_symlink():
                        continue
                    about = (path / RECORD).lstat()
                    stamp = about.st_mtime_ns, about.st_size
                    before = self._seen.get(path)
                    if before is None or before[0] != stamp:
                        seen[path] = stamp, _read(path)
                    else:
                        seen[path] = stamp, before[1] and before[1].as_it_stands()
        self._seen = seen
        return [run for _, run in seen.values() if run is not None]


def _read(path: Path) -> RunFiles | None:
    run = RunDirectory(path)
    with suppress(LabError):
        if (record := run.unchecked_record).get("status") == "running":
            return read_run(path)
        return RunFiles(path, str(record.get("status")), record, None)
    return None
