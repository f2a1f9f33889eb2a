"""Folders that hold a table, its figure and a page, but no selection."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamis.data.selection import check_free, writing_folder
from tamis.errors import InputError
from tamis.remote import Place


def check_place(folder: Place) -> None:
    """InputError unless a report may be written as this folder; one does not take a selection's place."""
    check_free(folder)
    if (folder / "picks.parquet").exists():
        raise InputError(f"{folder}: this folder holds a selection, which would be replaced; choose another --out")


@contextmanager
def writing_report(folder: Place) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well; an earlier report there is replaced."""
    check_place(folder)
    with writing_folder(folder) as temporary:
        yield temporary
