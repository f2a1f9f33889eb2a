"""The files that paths and patterns name."""

import glob
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from tamis.data.containers import HUB, READ, is_read, is_saved
from tamis.errors import InputError
from tamis.remote import Place, RemotePath, locate

_PATTERN = re.compile(r"[*?\[]")


def expand(paths: Sequence[str]) -> list[str]:
    """The files that paths and glob patterns name, each pattern's in sorted order, every file once.

    They may be URLs of any file system that fsspec knows. A folder that `datasets.save_to_disk` wrote stands for
    itself, as does a name that begins with hf://. InputError for a pattern that matches nothing, naming it and the
    nearest existing names, and for any other folder.
    """
    found: dict[Path | str, str] = {}
    for pattern in paths:
        if pattern.startswith(HUB):
            found.setdefault(pattern, pattern)
            continue
        path = locate(pattern)
        if isinstance(path, RemotePath):
            found |= {name: name for name in _remote(path)}
            continue
        if path.is_dir() and not is_saved(path):
            raise InputError(_folder(pattern, path))
        matches = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [name for name in matches if not Path(name).is_dir() or is_saved(Path(name))]
        if not files:
            raise InputError(f"{pattern}: no such file; {_nearest(path)}")
        for name in files:
            if os.fsencode(name).decode(errors="replace") != name:
                raise InputError(f"{name!r}: expected a name in UTF-8, which manifests can hold; rename the file")
            found.setdefault(Path(name).resolve(), name)
    return list(found.values())


def _remote(path: RemotePath) -> list[str]:
    matches = [path] if path.is_file() else path.matches() if _PATTERN.search(path.url) else []
    files = [str(match) for match in matches]
    if not files:
        if path.is_dir():
            raise InputError(_folder(str(path), path))
        raise InputError(f"{path}: no such file; {_nearest(path)}")
    return files


def _folder(pattern: str, path: Place) -> str:
    names = sorted(entry for entry in path.iterdir() if entry.is_file())
    read = next((entry for entry in names if is_read(entry)), None)
    if read is not None:
        suffixes = "".join(read.suffixes)
        return f"{pattern}: expected files, found a folder; say {pattern.rstrip('/')}/*{suffixes}"
    kinds = ", ".join(sorted({entry.suffix or "no extension" for entry in names})) or "nothing"
    return f"{pattern}: found a folder that holds {kinds}: {READ}"


def _nearest(path: Place) -> str:
    if not path.parent.is_dir():
        is_name = isinstance(path, Path) and len(path.parts) == 2 and not path.suffix
        hub = f", and a name on the hub begins with {HUB}" if is_name else ""
        return f"there is no folder {path.parent}{hub}"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file() and entry.name[0] != ".")
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        return f"nearest in {path.parent}: {', '.join(near)}"
    return f"{path.parent} holds {', '.join(names[:5]) or 'no files'}{', …' if len(names) > 5 else ''}"
