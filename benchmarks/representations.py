"""Every representation on real rows: what it picks, what it costs, how far it agrees with every other.

    python -m benchmarks.representations --target gsm8k=gsm8k/dev.jsonl --target code=code/dev.jsonl \\
        --wanted gsm8k=gsm8k --wanted code=mbpp,codealpaca --out DIR data.pool=FILE model.name=DIR …

Every representation × {top_k, round_robin} at 5%, and random picks. Settings are those of `tamis select`. DIR gets the
workspace, each selection, results.json, tables.md and overlap.svg. Seconds are of processor time.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tamis.config import load_config, parse_override
from tamis.pipeline import Pipeline
from tamis.progress import make
from tamis.report.figures import agreement_figure, save_figure

REPRESENTATIONS = ("gradient", "rds", "embed", "bm25", "dsir", "loss", "perplexity", "ifd")
SELECTORS = ("top_k", "round_robin")
METHODS = (*(f"{name}+{selector}" for name in REPRESENTATIONS for selector in SELECTORS), "random")
Result = dict[str, Any]


class Clock:
    """Plain progress that also counts each stage's seconds of processor time, which other work does not lengthen."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = make("plain")

    @contextmanager
    def stage(self, name: str, n_tokens: int) -> Iterator[Callable[[int], None]]:
        start = time.process_time()
        with self._inner.stage(name, n_tokens) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start

    def note(self, text: str) -> None:
        self._inner.note(text)


def run(out: Path, targets: dict[str, str], settings: dict[str, Any]) -> list[Result]:
    """One selection for each target and method, what is cached being used again."""
    results = []
    for method in METHODS:
        for target, file in targets.items():
            folder = out / "picks" / target / method
            given = {
                "pick.budget": "5%",
                **settings,
                "data.target": [file],
                "pick.method": method,
                "workspace": str(out / "workspace"),
                "out": str(folder),
            }
            clock = Clock()
            one = Pipeline(load_config(None, given), clock)
            selection = one.pick()
            one.write(selection)
            stores = [store for name in ("pool_rows", "target_rows") for store in _stores(one, name)]
            results.append(
                {
                    "method": method,
                    "target": target,
                    "ids": selection.ids,
                    "sources": dict(Counter(e.source for e in selection.examples)),
                    "pool": dict(Counter(one.candidates.sources)),
                    "tokens": float(np.median([n for n in selection.n_tokens if n is not None])),
                    "seconds": dict(clock.seconds),
                    "stores": {store.folder.name: _bytes(store.folder) for store in stores},
                    "similarity": _bytes(out / "workspace" / "similarity" / f"{selection.manifest['similarity']}.npy"),
                }
            )
    return results


def _stores(one: Pipeline, name: str) -> Sequence[Any]:
    rows = vars(one).get(name)  # cached, if the method looked at any
    return [] if rows is None else list(rows.stores)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size if path.exists() else 0


def tables(results: Sequence[Result], wanted: dict[str, list[str]]) -> str:
    """Markdown: costs, composition by target, overlap with the gradient's picks and with every other's."""
    names = _names(results)
    return "\n\n".join(
        [
            "## Cost\n\n" + costs(results),
            *(f"## Picks for {name}\n\n" + composition(results, name, wanted.get(name, [])) for name in names),
            "## Overlap\n\n" + overlaps(results),
        ]
    )


def costs(results: Sequence[Result]) -> str:
    """Processor seconds by stage (what is found again costs none), and bytes of the stores."""
    head = ("representation", "warm-up s", "pool rows s", "target rows s", "score s", "pick s", "store MB")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in REPRESENTATIONS:
        mine = [r for r in results if r["method"].startswith(f"{name}+")]
        seconds: dict[str, float] = dict.fromkeys(("warm up", "pool", "target", "score", "pick"), 0.0)
        for result in mine:
            for stage, value in result["seconds"].items():
                seconds[next(kind for kind in seconds if stage.startswith(kind))] += value
        stores = {folder: n for r in mine for folder, n in r["stores"].items()}
        cells = [f"{value:.1f}" for value in seconds.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(stores.values()) / 1e6:.1f} |")
    return "\n".join(lines)


def composition(results: Sequence[Result], target: str, wanted: Sequence[str]) -> str:
    """Share of each source among the picks."""
    mine = [r for r in results if r["target"] == target]
    pool: dict[str, int] = mine[0]["pool"]
    sources = [source for source, _ in Counter(pool).most_common()]
    n_pool = sum(pool.values())
    head = ["method", *(["wanted"] if wanted else []), *(f"**{s}**" if s in wanted else s for s in sources), "tokens"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, counts, tokens in [("pool", pool, None), *((r["method"], r["sources"], r["tokens"]) for r in mine)]:
        n = n_pool if name == "pool" else sum(counts.values())
        share = [f"{100 * counts.get(source, 0) / n:.0f}" for source in sources]
        total = [f"**{100 * sum(counts.get(s, 0) for s in wanted) / n:.0f}**"] if wanted else []
        lines.append("| " + " | ".join([name, *total, *share, "" if tokens is None else f"{tokens:.0f}"]) + " |")
    return "\n".join(lines)


def overlap(results: Sequence[Result], target: str) -> np.ndarray:
    """Jaccard similarity of the picks of every two methods."""
    picks = [set(r["ids"]) for r in results if r["target"] == target]
    return np.array([[len(a & b) / len(a | b) for b in picks] for a in picks])


def overlaps(results: Sequence[Result]) -> str:
    """For each method the Jaccard similarity with every other, mean over the targets, in hundredths."""
    mean = np.mean([overlap(results, name) for name in _names(results)], axis=0)
    head = ["", *METHODS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in zip(METHODS, mean, strict=True):
        lines.append("| " + " | ".join([name, *(f"{100 * value:.0f}" for value in row)]) + " |")
    return "\n".join(lines)


def _names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(r["target"] for r in results))


def main() -> None:
    """Run what is missing, then write the tables and the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.representations", description=__doc__)
    parser.add_argument("--target", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--wanted", action="append", default=[], metavar="NAME=SOURCE,SOURCE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE")
    given = parser.parse_args()
    targets = dict(pair.split("=", 1) for pair in given.target)
    wanted = {name: sources.split(",") for name, sources in (pair.split("=", 1) for pair in given.wanted)}
    given.out.mkdir(parents=True, exist_ok=True)
    results = run(given.out, targets, dict(parse_override(setting) for setting in given.settings))
    (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "tables.md").write_text(tables(results, wanted) + "\n")
    mean = np.mean([overlap(results, name) for name in targets], axis=0)
    save_figure(agreement_figure(METHODS, mean, np.full_like(mean, np.nan)), given.out, "overlap")


if __name__ == "__main__":
    main()
