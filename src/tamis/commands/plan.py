"""tamis plan: what a run will take, as a table or as JSON."""

import json as json_
import sys
import time
from typing import TYPE_CHECKING

import typer

from tamis.errors import InputError

if TYPE_CHECKING:
    from tamis.pipeline import Pipeline


def plan(run: "Pipeline", price: float | None, probe_seconds: float, json: bool) -> None:
    """Print the plan of a run; InputError where it cannot fit."""
    start = time.perf_counter()
    from tamis.planning import plan as make
    from tamis.planning.table import lines, table

    importing = time.perf_counter() - start
    made = make(run.config, price=price, probe_seconds=probe_seconds, progress=run.progress, start_seconds=importing)
    if json:
        typer.echo(json_.dumps(made.to_json(), indent=2))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(table(made))
        for line in lines(made):
            console.print(line, markup=False, highlight=False, soft_wrap=not sys.stdout.isatty())
    if made.refused:
        raise InputError("; ".join(made.refused))
