"""A selection: the picked examples in pick order, and the folder it is saved as."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.data.example import Example
from tamis.data.export import write_selected
from tamis.errors import InputError
from tamis.remote import Place, RemotePath
from tamis.remote.folders import UNFINISHED, check_writable, upload


@dataclass(frozen=True, slots=True)
class Selection:
    """Picks as examples.

    scores       what the selector ranked by; None for rows included by name
    weights      training weight of each pick, where the selector gives one
    taken_by     id of the target row that took each, where targets compete
    n_tokens     supervised tokens of each, where there was a model
    manifest     method, digests, counts
    facts        what its report tells beside, as plain data; nothing where it is not to be written
    """

    examples: list[Example]
    scores: list[float | None]
    weights: list[float | None] | None
    taken_by: list[str | None]
    n_tokens: list[int | None]
    manifest: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """Ids in pick order."""
        return [example.id for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def save(self, folder: Path, manifest: dict[str, Any], config: str) -> None:
        """Write selected.jsonl (the original rows), picks.parquet, config.yaml and manifest.json into a folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        write_selected(folder / "selected.jsonl", self.examples)
        weights = [None] * len(self) if self.weights is None else self.weights
        table = pa.table(
            {
                "id": self.ids,
                "row_id": pa.array([e.row_id for e in self.examples], pa.string()),
                "file": [e.file for e in self.examples],
                "row": [e.row for e in self.examples],
                "rank": list(range(1, len(self) + 1)),
                "score": pa.array(self.scores, pa.float64()),
                "weight": pa.array(weights, pa.float64()),
                "source": [e.source for e in self.examples],
                "tokens": pa.array(self.n_tokens, pa.int64()),
                "target": pa.array(self.taken_by, pa.string()),
            }
        )
        pq.write_table(table, folder / "picks.parquet")
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        (folder / "manifest.json").write_text(
            json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


@contextmanager
def writing_folder(folder: Place) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well; until then an earlier one stays as it was.

    Of several writers of one folder the last one's stays. Of a remote one the files are uploaded at the end, one by one
    and manifest.json last. InputError for a folder that holds something else than an earlier selection.
    """
    check_free(folder)
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="tamis-") as scratch:
            yield Path(scratch)
            upload(Path(scratch), folder, last="manifest.json")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _sync(path)
        while not _renamed(temporary, folder):
            pass
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    """A file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _renamed(temporary: Path, folder: Path) -> bool:
    """Put a folder in the place of another; False where another writer was faster, so that there is again one there."""
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # and `old` stays: it may be the only selection there is
        shutil.rmtree(old, ignore_errors=True)
        return False
    shutil.rmtree(old, ignore_errors=True)
    return True


def check_free(folder: Place) -> None:
    """InputError unless a selection may be written as this folder."""
    if isinstance(folder, RemotePath):
        _check_remote(folder)
        return
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir():
        raise InputError(f"{folder}: {parent} is a file, so no folder can be made below it; choose another --out")
    try:
        tempfile.TemporaryDirectory(dir=parent).cleanup()
    except OSError as error:
        raise InputError(f"{folder}: {parent} cannot be written to ({error.strerror}); choose another --out") from error
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{folder}: a selection replaces its folder, and this one is in use; choose another --out")
    if _is_foreign(folder):
        raise InputError(
            f"{folder}: this folder holds files that are no tamis selection (no manifest.json); choose another --out"
        )


def _check_remote(folder: RemotePath) -> None:
    if folder.is_file():
        raise InputError(f"{folder}: expected a folder to write to, found a file; choose another --out")
    names = {path.name for path in folder.iterdir()}
    if names and not names & {"manifest.json", UNFINISHED}:
        raise InputError(
            f"{folder}: this folder holds files that are no tamis selection (no manifest.json); choose another --out"
        )
    check_writable(folder)


def _is_foreign(folder: Path) -> bool:
    """Whether a folder holds something else than a selection; another writer may be renaming it away meanwhile.

    InputError where it is no folder. What is there is asked of one and the same folder, known by number and time.
    """
    with contextlib.suppress(FileNotFoundError):
        while True:
            before = folder.stat()
            if not stat.S_ISDIR(before.st_mode):
                raise InputError(f"{folder}: expected a folder to write to, found a file; choose another --out")
            names = [path.name for path in folder.iterdir()]
            after = folder.stat()
            if (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns):
                return bool(names) and "manifest.json" not in names
    return False
