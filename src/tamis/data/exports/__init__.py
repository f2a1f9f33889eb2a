"""A selection in the formats of other trainers, with a README that says what each of them does not take over."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tamis.data.exports.axolotl import for_axolotl
from tamis.data.exports.llama_factory import for_llama_factory
from tamis.data.exports.rows import Export, for_messages, for_parquet
from tamis.data.exports.trl import for_trl
from tamis.data.picked import Picked, read_picked
from tamis.data.selection import writing_folder
from tamis.errors import InputError
from tamis.remote import Place, RemotePath
from tamis.remote.folders import reading

TRAINERS: dict[str, Callable[[Picked, Path], Export]] = {
    "llama-factory": for_llama_factory,
    "axolotl": for_axolotl,
    "trl": for_trl,
    "messages": for_messages,
    "parquet": for_parquet,
}

OTHER_FIELDS = (
    "fields of rows and turns other than source, role, content, tool calls, tools and which turns are learnt (name, "
    "tool_call_id, reasoning_content and the like): selected.jsonl has the rows whole"
)


def export(folder: Place, trainer: str, out: Place | None = None) -> tuple[Place, Export]:
    """Write the selection of a folder for a trainer of `TRAINERS`, as a folder: FOLDER-TRAINER unless `out` is given.

    Of a remote selection that is by default in this directory, because trainers read local files; where `out` is
    remote, paths in it are those of a copy in the directory where the trainer starts.

    InputError for an unknown trainer, a folder that is no selection, an `out` that holds one or something else.
    """
    if trainer not in TRAINERS:
        raise InputError(f"--for: expected one of {', '.join(TRAINERS)}, got {trainer!r}")
    folder = folder.resolve()
    beside = folder.parent if isinstance(folder, Path) else Path()
    out = (beside / f"{folder.name}-{trainer}" if out is None else out).absolute()
    if (out / "picks.parquet").exists():
        raise InputError(f"{out}: this folder holds a selection, which an export would replace; choose another --out")
    with reading(folder) as here:
        picked = read_picked(here)
    made = TRAINERS[trainer](picked, Path(out.name) if isinstance(out, RemotePath) else out)
    if isinstance(out, RemotePath):
        made = replace(made, usage=f"copy {out} to ./{out.name}, then {made.usage}")
    made.lost.extend([*_weights_lost(picked, trainer), OTHER_FIELDS])
    n_rows = len(picked.examples) - made.n_left_out
    facts = {"export": trainer, "selection": str(folder), "n_rows": n_rows, "lost": made.lost}
    lost = "".join(f"- {line}\n" for line in made.lost)
    readme = f"# {n_rows:,} rows for {trainer}\n\n{made.usage}\n\nNot taken over:\n\n{lost}"
    with writing_folder(out) as temporary:
        for name, data in made.files.items():
            (temporary / name).write_bytes(data)
        (temporary / "README.md").write_text(readme, encoding="utf-8")
        manifest = {**facts, "manifest": picked.manifest}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
    return out, made


def _weights_lost(picked: Picked, trainer: str) -> list[str]:
    if picked.weights is None:
        return []
    what = "its loaders know none" if trainer in ("messages", "parquet") else f"{trainer} does not read it"
    return [f"the selector's weights are in the column `weight`, but {what}: every row counts the same"]
