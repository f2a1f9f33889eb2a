"""Agreement of selections: of methods, models, checkpoints, dims or number formats, two by two."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from tamis.config import load_config
from tamis.errors import InputError, TamisError, printable
from tamis.remote import Place, RemotePath, is_url, locate
from tamis.remote.folders import reading
from tamis.report.figures import agreement_figure, save_figure
from tamis.report.html import render_page
from tamis.report.pages import writing_report
from tamis.selectors.top_k import pool_scores
from tamis.similarity import load_similarity

_MOST_ROWS = 10**9  # no pool is larger; the hypergeometric distribution of such numbers would take for ever
_WRITERS = "give the --out folder of `tamis select` or `tamis pick`"
_NOT_COMPARED = ("out", "workspace")
_N_VALUE = 60  # characters shown of a setting's value
HEADER = ("selection", "and", "picks", "shared", "Jaccard", "by chance", "ρ of shared", "ρ of pool")


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One number for each pool row, and the rows' ids, each once."""

    ids: Shaped[np.ndarray, " pool"]
    values: Float64[np.ndarray, " pool"]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A selection as it is compared: its ids in pick order, settings by key; `scores` where there still are any."""

    name: str
    folder: Place
    ids: list[Hashable]
    n_usable: int
    pool_digest: str
    method: str
    budget: str
    settings: dict[str, str]
    scores: Scores | None

    @property
    def place(self) -> str:
        """The folder as text."""
        return _utf8(str(self.folder.absolute()))


@dataclass(frozen=True, slots=True)
class Pair:
    """What two selections have in common.

    by_chance   the Jaccard similarity that random picks of these sizes have on average; None for different pools
    rank_rho    Spearman's ρ of the ranks of the shared picks; None for fewer than three
    pool_rho    Spearman's ρ of the scores of the `n_joined` pool rows that both know; None where it cannot be known
    differ      the settings they differ in, as "represent.dim: 512 / 8192"
    note        a sentence where the numbers want one
    """

    a: str
    b: str
    n_a: int
    n_b: int
    n_shared: int
    jaccard: float
    by_chance: float | None
    rank_rho: float | None
    pool_rho: float | None
    n_joined: int | None
    differ: tuple[str, ...]
    note: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As a line of a table, below HEADER."""
        numbers = (self.jaccard, self.by_chance, self.rank_rho, self.pool_rho)
        picks = f"{self.n_a:,}" if self.n_a == self.n_b else f"{self.n_a:,} / {self.n_b:,}"
        shown = ("" if number is None else f"{number:.3f}" for number in numbers)
        return (self.a, self.b, picks, f"{self.n_shared:,}", *shown)


# ---- read ----------------------------------------------------------------------------------------------------------


def read_selections(arguments: Sequence[str]) -> list[Compared]:
    """The selections of FOLDER or NAME=FOLDER arguments; names default to the shortest that tell the folders apart.

    A pool row's score is the mean of its similarities to all target rows, whatever groups they are of: the folder of a
    selection does not say which row is of which group. A similarity of one's own, outside the workspace, has no ids to
    join by and counts as none.

    InputError for fewer than two, for a folder that is no selection or damaged, for a name given twice; DamagedError
    for a damaged similarity.
    """
    if len(arguments) < 2:
        raise InputError(f"expected two or more selections to compare, got {len(arguments)}; {_WRITERS} of each")
    given = [_split(argument) for argument in arguments]
    folders = [folder for _, folder in given]
    names = [name or short for (name, _), short in zip(given, _short_names(folders), strict=True)]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"two selections are called {twice[0]!r}; name them: NAME={folders[0]}")
    known: dict[Place, Scores | None] = {}
    found = []
    for name, folder in zip(names, folders, strict=True):
        with reading(folder) as here:
            found.append(replace(_read(name, here, known), folder=folder))
    return found


def _split(argument: str) -> tuple[str, Place]:
    name, equals, folder = argument.partition("=")
    if not equals or is_url(argument) or Path(argument).exists():
        return "", _folder(argument)
    if not name or not folder:
        raise InputError(f"expected FOLDER or NAME=FOLDER, got {argument!r}")
    return _utf8(name), _folder(folder)


def _folder(text: str) -> Place:
    found = locate(text)
    if isinstance(found, RemotePath) and not found.is_dir():
        raise InputError(f"{text}: no such folder; {_WRITERS}")
    return found


def _short_names(folders: Sequence[Place]) -> list[str]:
    parts = [Path(str(folder.absolute())).parts for folder in folders]
    n_parts = 1
    while n_parts < max(map(len, parts)) and len({part[-n_parts:] for part in parts}) < len(parts):
        n_parts += 1
    return [_utf8(str(Path(*part[-n_parts:]))) for part in parts]


def _utf8(name: str) -> str:
    """A file's name may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read(name: str, folder: Path, known: dict[Place, Scores | None]) -> Compared:
    for file in ("picks.parquet", "manifest.json", "config.yaml"):
        if not (folder / file).is_file():
            what = "no such folder" if not folder.exists() else f"no selection: it holds no {file}"
            raise InputError(f"{folder}: {what}; {_WRITERS}")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        n_usable, pool_digest = int(manifest["n_usable"]), str(manifest["pool"]["digest"])
        method, budget, stem = str(manifest["method"]), str(manifest["budget"]), manifest["similarity"]
        if not 0 <= n_usable <= _MOST_ROWS:
            raise ValueError(f"n_usable is {n_usable}")
    except (ValueError, LookupError, TypeError, OverflowError, OSError) as error:
        raise InputError(
            f"{folder / 'manifest.json'}: damaged, or of another program ({error!r}); select anew into this folder"
        ) from error
    try:
        config = load_config(folder / "config.yaml")
    except TamisError as error:
        raise InputError(f"{error}; select anew into {folder}") from error
    ids = _picked_ids(folder / "picks.parquet")
    if n_usable < len(ids):
        raise InputError(f"{folder}: {len(ids):,} picks of {n_usable:,} usable rows; select anew into this folder")
    scores = None
    if stem is not None:
        path = locate(config.workspace) / "similarity" / f"{stem}.npy"
        scores = known[path] if path in known else known.setdefault(path, _scores(path))
    settings = {key: value for key, value in _flat(config.model_dump()) if key.partition(".")[0] not in _NOT_COMPARED}
    return Compared(name, folder, ids, n_usable, pool_digest, method, budget, settings, scores)


def _picked_ids(path: Path) -> list[Hashable]:
    """Ids by rank. Where equal rows are candidates more than once, the second of an id is (id, 1), and so on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(columns=["id", "rank"]).sort_by("rank")
        ids = table["id"].to_pylist()
    except (pa.ArrowException, OSError, LookupError) as error:
        raise InputError(
            f"{path}: damaged, or no table of picks ({' '.join(str(error).split())}); select anew into its folder"
        ) from error
    if not ids or not all(isinstance(id_, str) for id_ in ids):
        raise InputError(f"{path}: expected picks with ids, found {len(ids)} rows; select anew into its folder")
    n_times: Counter[str] = Counter()
    numbered: list[Hashable] = []
    for id_ in ids:
        numbered.append((id_, n_times[id_]) if n_times[id_] else id_)
        n_times[id_] += 1
    return numbered


def _scores(path: Place) -> Scores | None:
    if not path.exists():
        return None
    matrix, _, pool_ids = load_similarity(path)
    if pool_ids is None:
        return None
    values = pool_scores(matrix)
    ids, first = np.unique(pool_ids, return_index=True)  # rows of one id have one score
    return Scores(ids, values[first])


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}".lstrip("."))
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield key, text if value not in (None, []) else "none"


# ---- compare -------------------------------------------------------------------------------------------------------


def compare(selections: Sequence[Compared]) -> list[Pair]:
    """Every two of the selections, in the order given."""
    return [_pair(a, b) for a, b in itertools.combinations(selections, 2)]


def _pair(a: Compared, b: Compared) -> Pair:
    places = {id_: place for place, id_ in enumerate(b.ids)}
    shared = [(place, places[id_]) for place, id_ in enumerate(a.ids) if id_ in places]
    one_pool = a.pool_digest == b.pool_digest
    n_union = len(a.ids) + len(b.ids) - len(shared)
    pool_rho, n_joined = None, None
    if a.scores is not None and b.scores is not None:
        _, in_a, in_b = np.intersect1d(a.scores.ids, b.scores.ids, assume_unique=True, return_indices=True)
        pool_rho, n_joined = spearman(a.scores.values[in_a], b.scores.values[in_b]), len(in_a)
    note = (
        ""
        if one_pool
        else "different pools: joined by id, and chance is not known"
        + (f"; {n_joined:,} rows are in both" if n_joined is not None else "")
    )
    return Pair(
        a=a.name,
        b=b.name,
        n_a=len(a.ids),
        n_b=len(b.ids),
        n_shared=len(shared),
        jaccard=len(shared) / n_union,
        by_chance=jaccard_by_chance(len(a.ids), len(b.ids), max(a.n_usable, b.n_usable)) if one_pool else None,
        rank_rho=spearman(*np.array(shared, np.float64).T) if len(shared) >= 3 else None,
        pool_rho=pool_rho,
        n_joined=n_joined,
        differ=tuple(_differences(a.settings, b.settings)),
        note=note,
    )


def _differences(a: dict[str, str], b: dict[str, str]) -> Iterator[str]:
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key, "not set"), b.get(key, "not set")
        if one != other:
            yield f"{key}: {_cut(one)} / {_cut(other)}"


def _cut(text: str) -> str:
    return text if len(text) <= _N_VALUE else "…" + text[1 - _N_VALUE :]  # of paths the end tells more


def jaccard_by_chance(n_a: int, n_b: int, n_pool: int) -> float:
    """E[x / (n_a + n_b − x)] where x rows are in both of two random sets of these sizes: x is hypergeometric."""
    from scipy.stats import hypergeom

    if not 1 <= min(n_a, n_b) <= max(n_a, n_b) <= n_pool:
        raise ValueError(f"expected sets of 1 to {n_pool} rows, got {n_a} and {n_b}")
    n_shared = np.arange(max(0, n_a + n_b - n_pool), min(n_a, n_b) + 1)
    share = n_shared / (n_a + n_b - n_shared)
    return float(share @ hypergeom.pmf(n_shared, n_pool, n_a, n_b))


def spearman(a: Float64[np.ndarray, " row"], b: Float64[np.ndarray, " row"]) -> float | None:
    """Spearman's ρ, ties by their mean rank; None for fewer than three rows, or where all of one are equal."""
    from scipy.stats import spearmanr

    if len(a) < 3 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(spearmanr(a, b).statistic)


# ---- write ---------------------------------------------------------------------------------------------------------


def lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """The pairs as text in columns; below each what the two differ in."""
    table = [HEADER, *(tuple(map(printable, pair.cells)) for pair in pairs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
        if number:
            yield from (f"    {printable(line)}" for line in _remarks(pairs[number - 1]))


def _remarks(pair: Pair) -> Iterator[str]:
    if pair.note:
        yield pair.note
    yield from pair.differ or ["no setting differs"]


def write(folder: Place, selections: Sequence[Compared], pairs: Sequence[Pair]) -> None:
    """agreement.csv, agreement.svg, .png and .pdf, report.html and manifest.json; the folder appears whole."""
    names = [one.name for one in selections]
    jaccard, pool_rho = np.full((2, len(names), len(names)), np.nan)
    for pair in pairs:
        cells = [names.index(pair.a), names.index(pair.b)], [names.index(pair.b), names.index(pair.a)]
        jaccard[cells], pool_rho[cells] = pair.jaccard, np.nan if pair.pool_rho is None else pair.pool_rho
    with writing_report(folder) as temporary:
        with (temporary / "agreement.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            numbers = [name for name in Pair.__slots__ if name not in ("differ", "note")]
            writer.writerow([*numbers, "differ", "note"])
            for pair in pairs:
                writer.writerow([*(getattr(pair, name) for name in numbers), "; ".join(pair.differ), pair.note])
        svg = save_figure(agreement_figure(names, jaccard, pool_rho), temporary, "agreement")
        page = render_page("agreement.html.j2", selections=selections, pairs=pairs, header=HEADER, figure=svg)
        (temporary / "report.html").write_text(page, encoding="utf-8")
        manifest = {"selections": {one.name: one.place for one in selections}}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
