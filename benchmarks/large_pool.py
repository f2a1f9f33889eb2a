"""`tamis select` on 100,000, 1,000,000 and 10,000,000 made-up rows, from files to picks: seconds by stage, peak memory.

The command is the user's, in a process of its own: hashed n-grams of 64 dims, no model. Rows are conversations of 20 to
60 words drawn by Zipf's law (Mandelbrot's form), in four files, of twelve sources; one in a thousand is about a topic:
every other word of it is one of five. Target: sixteen rows about that topic. The budget is as many rows as are about
it, so that the share of them among the picks says whether the picks are right (by chance 0.1%).

A run fails above 3 GB of resident memory (the kernel's count of the peak, mapped pages included), and where less than
0.8 of the picks are about the topic. About 1 KB of disk for each row is needed in the scratch folder.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import Report, Settings, command_alone

_LIMIT_MB = 3_000
_LEAST_FOUND = 0.8
_TOPIC = "topic-"  # how ids of rows about it begin
_ONE_IN = 1000
_N_TARGET, _N_FILES, _N_SOURCES, _N_WORDS, _N_TOPIC_WORDS = 16, 4, 12, 50_000, 5
_SETTINGS = {
    "pick.method": "ngrams+top_k",
    "pick.budget": f"{100 / _ONE_IN}%",
    "represent.dim": 64,
    "memory": "1GB",
}
_EVERY = 2  # word of a row about the topic is one of its words
_FLATTENED = 10  # weight of the word of rank k from 0: 1 / (k + this)
_CHUNK = 10_000


def run(settings: Settings) -> Report:
    """One row a size."""
    sizes = (2_000, 4_000) if settings.quick else (100_000, 1_000_000, 10_000_000)
    shard_rows = 1_024 if settings.quick else 65_536
    settings.scratch.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for n_rows in sizes:
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            rows.append(_measure(Path(folder), n_rows, shard_rows))
        for name in ("seconds", "CPU s", "peak MB"):
            rows[-1][f"{name}, × the first"] = rows[-1][name] / rows[0][name]
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return Report(
        title=f"select by n-grams hashed to {_SETTINGS['represent.dim']} dims, {_N_TARGET} target rows, budget 0.1%",
        target=f"at most {_LIMIT_MB:,} MB peak; nearly linear; {_LEAST_FOUND} of the picks are about the topic",
        rows=rows,
    )


def _measure(folder: Path, n_rows: int, shard_rows: int) -> dict[str, Any]:
    n_bytes = _make(folder, n_rows)
    given = {
        **_SETTINGS,
        "data.pool": [str(folder / "pool-*.jsonl")],
        "data.target": [str(folder / "target.jsonl")],
        "represent.shard_rows": shard_rows,
        "workspace": str(folder / "ws"),
        "out": str(folder / "picked"),
    }
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tamis.cli", "select", "--progress", "plain", *words]
    spent = command_alone(command, environment)
    manifest = json.loads((folder / "picked" / "manifest.json").read_text())
    picks = pq.read_table(folder / "picked" / "picks.parquet", columns=["row_id"])["row_id"].to_pylist()
    found = sum(row_id.startswith(_TOPIC) for row_id in picks) / len(picks)
    if spent.peak_mb > _LIMIT_MB:
        raise SystemExit(f"{n_rows:,} rows: expected at most {_LIMIT_MB:,} MB of memory, found {spent.peak_mb:,.0f} MB")
    if found < _LEAST_FOUND:
        raise SystemExit(f"{n_rows:,} rows: expected {_LEAST_FOUND} of the picks to be about the topic, found {found}")
    by_stage = {name.partition(" ")[0]: 0.0 for name in manifest["seconds"]}
    for name, of_stage in manifest["seconds"].items():
        by_stage[name.partition(" ")[0]] += of_stage
    return {
        "case": f"{n_rows:,} rows",
        "MB of text": n_bytes / 1e6,
        "seconds": spent.seconds,
        "CPU s": spent.cpu_seconds,
        **{f"{name} s": of_stage for name, of_stage in by_stage.items()},
        "other s": spent.seconds - sum(by_stage.values()),
        "rows/s": n_rows / spent.seconds,
        "peak MB": spent.peak_mb,
        "picks": len(picks),
        "about the topic": found,
    }


# ---- made up -------------------------------------------------------------------------------------------------------


def _make(folder: Path, n_rows: int) -> int:
    """Write pool and target; the pool's bytes."""
    rng = np.random.default_rng(0)
    letters = np.array(list("aeioubdfgklmnprstvz"))
    every = dict.fromkeys("".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(2 * _N_WORDS))
    words = np.array(list(every)[: _N_WORDS + _N_TOPIC_WORDS])
    paths = [folder / f"pool-{number}.jsonl" for number in range(_N_FILES)]
    rows = _rows(rng, words, n_rows, _ONE_IN)
    for number, path in enumerate(paths):
        n_here = n_rows * (number + 1) // _N_FILES - n_rows * number // _N_FILES
        with path.open("w") as file:
            file.writelines(line for _, line in zip(range(n_here), rows, strict=False))
    with (folder / "target.jsonl").open("w") as file:
        file.writelines(_rows(rng, words, _N_TARGET, 1))
    return sum(path.stat().st_size for path in paths)


def _rows(rng: np.random.Generator, words: np.ndarray, n_rows: int, one_in: int) -> Iterator[str]:
    """Lines of JSON, of which the last of every `one_in` is about the topic."""
    weights = np.cumsum(1 / np.arange(_FLATTENED, _FLATTENED + _N_WORDS))
    for start in range(0, n_rows, _CHUNK):
        lengths = rng.integers(20, 61, min(_CHUNK, n_rows - start))
        drawn = np.searchsorted(weights, weights[-1] * rng.random(int(lengths.sum())))
        is_about = np.arange(start + 1, start + len(lengths) + 1) % one_in == 0
        turn = np.arange(len(drawn)) % _EVERY == 0
        about = np.repeat(is_about, lengths) & turn
        drawn[about] = _N_WORDS + rng.integers(_N_TOPIC_WORDS, size=int(about.sum()))
        text, ends = words[drawn].tolist(), np.cumsum(lengths).tolist()
        for place, (end, length) in enumerate(zip(ends, lengths.tolist(), strict=True)):
            row, middle = start + place, end - length // 2
            name = _TOPIC if is_about[place] else "row-"
            yield (
                f'{{"id": "{name}{row}", "source": "source-{row % _N_SOURCES}", "messages": ['
                f'{{"role": "user", "content": "{" ".join(text[end - length : middle])}"}}, '
                f'{{"role": "assistant", "content": "{" ".join(text[middle:end])}"}}]}}\n'
            )
