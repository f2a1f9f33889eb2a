"""A plan on a terminal: a table by stage, totals, and what was assumed."""

from collections.abc import Iterator

from rich.table import Table

from tamis.planning.forecast import Plan, Stage, Tokens
from tamis.planning.limits import size

_UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6))


def table(plan: Plan) -> Table:
    """A row a stage, and one of the totals."""
    made = Table(title=f"plan: {plan.method}", title_justify="left")
    made.add_column("stage", no_wrap=True)
    for head in ("rows", "found", "tokens", "FLOPs", "time", "disk"):
        made.add_column(head, justify="right")
    for stage in plan.stages:
        made.add_row(*_cells(stage))
    total = Stage("all", flops=plan.flops, seconds=plan.seconds, disk_bytes=plan.disk_bytes)
    made.add_section()
    made.add_row(*_cells(total))
    return made


def _cells(stage: Stage) -> tuple[str, ...]:
    def number(n: int) -> str:
        return f"{n:,}" if n else "–"

    return (
        stage.name,
        number(stage.n_rows),
        number(stage.found),
        number(stage.n_tokens),
        scaled(stage.flops) if stage.flops else "–",
        duration(stage.seconds),
        size(stage.disk_bytes) if stage.disk_bytes else "–",
    )


def lines(plan: Plan) -> Iterator[str]:
    """The totals, then what was assumed, a sentence each."""
    yield _rows("pool", plan.pool)
    if plan.target is not None:
        yield _rows("target", plan.target)
    workers = f" on {plan.n_workers} workers" if plan.n_workers > 1 else ""
    cost = "" if plan.cost is None else f", {plan.cost:,.2f} at {plan.price:g} an hour"
    yield f"time: {duration(plan.seconds)}{workers}{cost}"
    yield f"memory: up to {size(plan.host_bytes)} of {size(plan.host_free)} free" + (
        ""
        if plan.gpu_bytes is None or plan.gpu_free is None
        else f"; on the GPU up to {size(plan.gpu_bytes)} of {size(plan.gpu_free)} free"
    )
    for place in plan.disk:
        what = ", ".join(place.used_by)
        yield f"disk: up to {size(place.needed)} of {size(place.free)} free at {place.folder} ({what})"
    yield "assumed:"
    for sentence in plan.assumed:
        yield f"  - {sentence}"


def _rows(what: str, tokens: Tokens) -> str:
    said = f"{what}: {tokens.n_rows:,} rows"
    if not tokens.n_tokenised:
        return said
    error = f" ± {tokens.standard_error:,.0f}" if tokens.standard_error else ""
    skipped = f"; {tokens.n_skipped:,} will be skipped" if tokens.n_skipped else ""
    return f"{said}, {tokens.n_tokens:,}{error} tokens, {tokens.n_supervised:,} of them supervised{skipped}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3:05 min, 2:10 h."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}:{minutes:02} h"


def scaled(number: float) -> str:
    """1.2T: in powers of a thousand."""
    return next((f"{number / scale:,.1f} {unit}" for unit, scale in _UNITS if number >= scale), f"{number:,.0f}")
