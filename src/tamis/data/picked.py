"""A selection's folder, read back: the picked conversations with their weights, and what they were picked for."""

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.config import Config, load_config
from tamis.data.example import Example
from tamis.data.files import read
from tamis.data.template import PLAIN_TEMPLATE, template_text
from tamis.errors import InputError

_PARTS = ("selected.jsonl", "picks.parquet", "manifest.json", "config.yaml")


@dataclass(frozen=True, slots=True)
class Picked:
    """A selection in pick order.

    examples   conversations; `source` is that of the pool's row
    weights    training weight of each, where the selector gave any
    config     settings of the selection, those of `finetune` among them
    manifest   its manifest
    """

    examples: list[Example]
    weights: list[float | None] | None
    config: Config
    manifest: dict[str, Any]

    @property
    def model(self) -> str | None:
        """The model that `finetune` names, or that it was picked for, if any; a folder with its whole path."""
        name = self.config.finetune.model or self.config.model.name
        return str(Path(name).resolve()) if name and Path(name).is_dir() else name

    @property
    def max_tokens(self) -> int | None:
        """Tokens at which rows were cut, where there was a model."""
        found: int | None = self.manifest.get("model", {}).get("max_tokens")
        return found

    @property
    def template(self) -> str | None:
        """The chat template it was picked with, as Jinja; None where that was the tokenizer's own, or none."""
        if self.config.model.template is not None:
            return template_text(None, self.config.model.template)
        return PLAIN_TEMPLATE if self.manifest.get("model", {}).get("template") == "plain" else None


def read_picked(folder: Path) -> Picked:
    """The selection that `tamis select` wrote as this folder.

    Rows are read as they were from the pool: those of each of its files by themselves, since `format` and `fields`
    need not fit all. InputError where a file is missing or damaged, or a row is not the one that was picked.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in _PARTS:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: expected a selection of `tamis select`, but it has no {name}")
    config = load_config(folder / "config.yaml")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        picks = pq.read_table(folder / "picks.parquet", columns=["id", "file", "weight", "source"]).to_pydict()
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{folder}: manifest.json or picks.parquet cannot be read ({error}); select again") from error
    lines = [line + b"\n" for line in (folder / "selected.jsonl").read_bytes().split(b"\n") if line.strip()]
    if len(lines) != len(picks["id"]):
        raise InputError(
            f"{folder}: selected.jsonl has {len(lines):,} rows, picks.parquet {len(picks['id']):,}; select again"
        )
    examples = _examples(lines, picks["file"], config)
    for number, (example, id_, source) in enumerate(zip(examples, picks["id"], picks["source"], strict=True), 1):
        if example is None or example.id != id_:
            raise InputError(f"{folder / 'selected.jsonl'} row {number}: not the row that was picked; select again")
        examples[number - 1] = replace(example, source=source)
    given = picks["weight"] if any(weight is not None for weight in picks["weight"]) else None
    return Picked([example for example in examples if example is not None], given, config, manifest)


def _examples(lines: list[bytes], files: list[str], config: Config) -> list[Example | None]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, file in enumerate(files):
        places[file].append(place)
    found: list[Example | None] = [None] * len(lines)
    fields = {name: tuple(columns) for name, columns in config.data.fields.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        for of_file in places.values():
            path.write_bytes(b"".join(lines[place] for place in of_file))
            result = read([str(path)], fields=fields, format_name=config.data.format)
            for example in result.examples:
                found[of_file[example.row - 1]] = example
    return found
