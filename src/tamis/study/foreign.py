"""Result tables that others published, as `Results`: recognised by their columns, not by their names.

    dataset, method, num_samples, seed, …   a budget study: method at num_samples examples
    dataset, method, bin[, seed], …         a quantile study: bin 0 is nearest, by the distance that the method names
    dataset, …                              the model before any fine-tuning

… is dev and test (losses on query and test set), true_metric (in percent), or all of them. A file of losses and one of
metrics belong together where their names begin alike, up to a `_`, or where there is but one of each; what the names
share names the experiment.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tamis.errors import InputError
from tamis.remote import Place
from tamis.study import tables
from tamis.study.tables import BASELINES, BUDGET, QUANTILE, RESULT_COLUMNS, ZERO_SHOT, Results
from tamis.study.typed import COUNT, TEXT, numbers, text_table

_LOSSES, _METRIC = ("dev", "test"), "true_metric"
_KEYS = {  # kind: the columns that tell its rows apart
    BUDGET: ("dataset", "method", "num_samples", "seed"),
    QUANTILE: ("dataset", "method", "bin"),
    ZERO_SHOT: ("dataset",),
}


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    path: Path
    kind: str
    keys: tuple[str, ...]
    values: frozenset[str]
    rows: pd.DataFrame


def is_foreign(folder: Place) -> bool:
    """Whether a folder holds CSV files, of which none is a study's own."""
    return folder.is_dir() and not tables.is_study(folder) and any(folder.glob("*.csv"))


def read(folder: Path) -> Results:
    """Every CSV of a folder. InputError for one that is none of the shapes above, naming it and its columns."""
    files = [_file(path) for path in sorted(folder.glob("*.csv"))]
    if not files:
        raise InputError(f"{folder}: expected tables of results, found no .csv in it")
    experiments = []
    for kind in (BUDGET, QUANTILE):
        found = _joined([file for file in files if file.kind == kind])
        experiments += [
            rows.assign(experiment=kind if len(found) == 1 else f"{kind}:{name}") for name, rows in found.items()
        ]
    zero_shots = _joined([file for file in files if file.kind == ZERO_SHOT])
    if len(zero_shots) > 1:
        names = ", ".join(sorted(zero_shots))
        raise InputError(f"{folder}: expected one model before fine-tuning, found results of several: {names}")
    experiments += [rows.assign(experiment=BUDGET, method=ZERO_SHOT) for rows in zero_shots.values()]
    together = pd.concat(experiments, ignore_index=True)
    missing = {name: "" if of == TEXT else None for name, of in RESULT_COLUMNS.items() if name not in together}
    together = together.assign(**missing)[list(RESULT_COLUMNS)]
    together = together.astype({name: object if of == TEXT else of for name, of in RESULT_COLUMNS.items()})
    text = [name for name, of in RESULT_COLUMNS.items() if of == TEXT]
    together[text] = together[text].where(together[text].notna(), "")
    manifest = {"title": folder.name, "settings": "", "versions": {}, "n_pending": 0}
    return Results(together, manifest=manifest | {"files": [file.path.name for file in files]})


def _file(path: Path) -> _File:
    text = text_table(path)
    columns = list(text.columns)
    values = frozenset(columns) & {*_LOSSES, _METRIC}
    keys = set(columns) - values
    kind = next(
        (kind for kind, of in _KEYS.items() if set(of) == keys - ({"seed"} if kind == QUANTILE else set())), None
    )
    if kind is None or not values:
        shapes = "; or ".join(", ".join(of) for of in _KEYS.values())
        raise InputError(
            f"{path}: expected the columns {shapes}; with dev, test or true_metric besides; found {', '.join(columns)}"
        )
    made = pd.DataFrame({"target": text["dataset"].astype(object)})
    if kind != ZERO_SHOT:
        known = {name: name for name in BASELINES}
        made["method"] = [known.get(name.casefold(), name) for name in text["method"]]
    for name, to in (("bin", "bin"), ("seed", "seed"), ("num_samples", "n_examples")):
        if name in keys:
            made[to] = numbers(path, name, text[name], COUNT)
    if "n_examples" in made:
        made["budget"] = [str(n) for n in made["n_examples"]]
    for name, to in (("dev", "target_loss"), ("test", "test_loss"), (_METRIC, "score")):
        if name in values:
            made[to] = numbers(path, name, text[name])
    if "score" in made:
        if ((made["score"] < 0) | (made["score"] > 100)).any():
            raise InputError(f"{path}: expected a true_metric in percent, found values outside 0 to 100")
        made = made.assign(score=made["score"] / 100, metric=_METRIC)
    keys_made = tuple(name for name in ("target", "method", "bin", "seed", "n_examples", "budget") if name in made)
    if made.duplicated(list(keys_made)).any():
        row = int(made.duplicated(list(keys_made)).to_numpy().argmax()) + 2
        raise InputError(f"{path} line {row}: expected each {', '.join(_KEYS[kind])} once, found these again")
    return _File(path, kind, keys_made, values, made)


def _joined(files: list[_File]) -> dict[str, pd.DataFrame]:
    """Experiments of one kind by name: a file of losses beside the file of metrics that begins most alike."""
    found: dict[str, pd.DataFrame] = {}
    losses = [file for file in files if _METRIC not in file.values]
    metrics = [file for file in files if file.values == {_METRIC}]
    pairs = [(len(name), name, a, b) for a in losses for b in metrics if (name := _shared(a, b))]
    for _, name, a, b in sorted(pairs, key=lambda pair: (-pair[0], pair[1])):
        if a in losses and b in metrics and a.keys == b.keys:
            losses = [file for file in losses if file is not a]
            metrics = [file for file in metrics if file is not b]
            found[name] = a.rows.merge(b.rows, on=list(a.keys), how="outer", sort=False)
    if not found and len(losses) == len(metrics) == 1 and losses[0].keys == metrics[0].keys:  # whatever they are called
        both = losses.pop(), metrics.pop()
        found[both[0].path.stem] = both[0].rows.merge(both[1].rows, on=list(both[0].keys), how="outer", sort=False)
    alone = [file for file in files if file in losses or file in metrics or len(file.values) == 3]
    return found | {file.path.stem: file.rows for file in alone}


def _shared(a: _File, b: _File) -> str:
    parts: list[str] = []
    for one, other in zip(a.path.stem.split("_"), b.path.stem.split("_"), strict=False):
        if one != other:
            break
        parts.append(one)
    return "_".join(parts)
