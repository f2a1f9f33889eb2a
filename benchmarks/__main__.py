"""`python -m benchmarks [names…]`: a table on the terminal and a JSON file in benchmarks/results/ for each."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import (
    features,
    large_pool,
    plan_reality,
    published_way,
    quantized,
    ray_overhead,
    select_store,
    selectors,
    sketch,
    store,
)
from benchmarks.common import Report, Settings, machine
from benchmarks.workload import DEFAULTS
from tamis.model.load import resolve_device

BENCHMARKS: dict[str, Callable[[Settings], Report]] = {
    "features": features.run,
    "large_pool": large_pool.run,
    "plan_reality": plan_reality.run,
    "published_way": published_way.run,
    "quantized": quantized.run,
    "ray_overhead": ray_overhead.run,
    "select_store": select_store.run,
    "selectors": selectors.run,
    "selectors_density": selectors.run_density,
    "selectors_pursuit": selectors.run_pursuit,
    "selectors_scoring": selectors.run_scoring,
    "selectors_million": selectors.run_million,
    "sketch": sketch.run,
    "store": store.run,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks named (default: all), one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that everything runs")
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch-tokens", type=int, default=DEFAULTS.batch_tokens, help="padded tokens in one batch")
    parser.add_argument("--model", metavar="DIR", help="a real model in place of random weights")
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="quantized: a real one in place of made-up rows")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {given.rounds}")

    torch.set_num_threads(given.threads)
    settings = Settings(
        device=resolve_device(given.device),
        rounds=1 if given.quick else given.rounds,
        batch_tokens=given.batch_tokens,
        quick=given.quick,
        model=given.model,
        scratch=given.out,
        workspace=given.workspace,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name in given.names or BENCHMARKS:
        facts = machine(settings.device)
        report = BENCHMARKS[name](settings)
        console.print(_table(name, report), f"target: {report.target}\n", sep="\n")
        result = {
            "benchmark": name,
            "quick": given.quick,
            "batch_tokens": given.batch_tokens,
            "machine": facts,
            **asdict(report),
        }
        (given.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def _table(name: str, report: Report) -> Table:
    """A column a case where there are few cases and many numbers, else a row a case."""
    keys = [key for key, value in report.rows[0].items() if key != "case" and not isinstance(value, list | dict)]
    cases = [row["case"] for row in report.rows]
    cells = [[f"{row[key]:,.3g}" if row[key] < 100 else f"{row[key]:,.0f}" for key in keys] for row in report.rows]
    across, down = cases, keys
    if len(cases) <= len(keys):
        cells = [list(column) for column in zip(*cells, strict=True)]
    else:
        across, down = keys, cases
    table = Table(title=Text(f"{name}: {report.title}"), title_justify="left")
    table.add_column(no_wrap=True)
    for head in across:
        table.add_column(Text(head), justify="right")
    for head, line in zip(down, cells, strict=True):
        table.add_row(Text(head), *line)
    return table


if __name__ == "__main__":
    main()
