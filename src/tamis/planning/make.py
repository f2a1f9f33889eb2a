"""A plan, made: look, probe, add up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tamis.config import Config
from tamis.engine import use_threads
from tamis.errors import InputError
from tamis.planning import memory
from tamis.planning.disk import Place, places, temporary_folder
from tamis.planning.forecast import Plan, Stage, Tokens
from tamis.planning.limits import refusals
from tamis.planning.rest import LARGE, rest, texts_bytes
from tamis.planning.rows import Lengths
from tamis.planning.seen import Seen, look
from tamis.planning.stages import OF_FEATURES, OF_WARM_UP, Paces, features, warming_up
from tamis.progress import Progress
from tamis.remote import is_url, locate
from tamis.representations.compute import Recipe

MAX_PROBE_SECONDS = 20.0  # with the half that may be added, 30
_BUSY = (
    0.7  # of its cores, below which the probe had company; a process alone, its threads waiting for one another: 0.9
)


def plan(
    config: Config,
    *,
    price: float | None = None,
    probe_seconds: float = 20.0,
    progress: Progress | None = None,
    start_seconds: float = 0.0,
) -> Plan:
    """What `select` with these settings will take. See the package's page.

    price           of an hour of one worker's machine
    probe_seconds   for all that is measured; half as many again where the machine is so slow that little fits
    start_seconds   that the program took to start, as the run will

    What does not fit is in `Plan.refused`. InputError for a price or a number of seconds out of range, a pool that
    cannot be read, and weights or files of the probe that do not fit; ModelError for a model that cannot be loaded.
    """
    if not 0 < probe_seconds <= MAX_PROBE_SECONDS:
        raise InputError(f"--probe-seconds: expected up to {MAX_PROBE_SECONDS:g}, got {probe_seconds:g}")
    if price is not None and not 0 <= price < float("inf"):
        raise InputError(f"--price: expected the price of an hour, such as 2.50, got {price:g}")
    seen = look(config, progress, probe_seconds)
    with TemporaryDirectory(prefix="tamis-plan-") as folder:
        scratch = Path(folder)
        warm_up, checkpoints, probed = warming_up(seen, scratch, probe_seconds)
        of_target, of_pool = (seen.recipes(what, checkpoints) for what in ("target", "pool"))
        paces = Paces(seen, probe_seconds * (OF_FEATURES if probed else OF_FEATURES + OF_WARM_UP))
        with _threads_of_a_worker(config):
            pool = features(seen, "pool", of_pool, paces)
            target = features(seen, "target", of_target, paces)  # after the pool's, whose pace it shares
        is_full = not any(stage.n_rows for stage in [*warm_up, *target, *pool])
        after, row_seconds, more_memory = rest(seen, (of_target, of_pool), is_full, scratch)
    rows = [replace(s, seconds=s.seconds + row_seconds * s.n_rows / seen.n_workers) for s in [*target, *pool]]
    n_read = len(seen.pool) + len(seen.target)
    start = Stage("start and read", "texts", n_read, seconds=start_seconds + seen.read_seconds)
    start = replace(start, passing_bytes=texts_bytes(seen))
    stages = (start, *warm_up, *rows, *after)
    made = _added_up(seen, stages, of_pool, more_memory)
    probed += paces.found.values()
    wall = sum(pace.wall for pace in probed)
    made = replace(made, price=price, core_share=sum(pace.cpu for pace in probed) / wall if wall else None)
    n_probed = sum(pace.n_tokens for pace in probed)
    return replace(made, assumed=tuple(_assumptions(seen, made, n_probed, probe_seconds)))


@contextmanager
def _threads_of_a_worker(config: Config) -> Iterator[None]:
    """What a worker computes is measured with the threads that it will have."""
    before, engine = torch.get_num_threads(), config.engine
    use_threads(engine.threads_per_worker or (1 if engine.is_ray else None))
    try:
        yield
    finally:
        use_threads(before)


def _added_up(seen: Seen, stages: tuple[Stage, ...], recipes: Sequence[Recipe], more_memory: dict[str, int]) -> Plan:
    engine, settings = seen.config.engine, seen.config.represent
    n_here = seen.n_workers if engine.is_ray and engine.address is None else 1
    peak = round(memory.MARGIN * memory.peak_bytes()) + sum(more_memory.values())
    made = Plan(
        method=seen.run.method.name,
        pool=_tokens(seen.lengths["pool"]),
        target=_tokens(seen.lengths["target"]) if len(seen.target) else None,
        stages=stages,
        n_workers=seen.n_workers,
        host_bytes=peak * n_here,
        host_free=memory.free_bytes(),
        gpu_bytes=None if seen.device is None else round(memory.MARGIN * memory.gpu_peak_bytes(seen.device)),
        gpu_free=None if seen.device is None else memory.gpu_free_bytes(seen.device),
        disk=tuple(_disk(seen.config, stages)),
        core_share=None,
        price=None,
        assumed=(),
        refused=(),
    )
    dim = recipes[0].dim if recipes else 0
    shard = memory.SHARD_CELL_BYTES * settings.shard_rows * dim
    parts = {"weights": seen.weights_bytes, "shard": shard, **more_memory}
    return replace(made, refused=tuple(refusals(made, parts)))


def _disk(config: Config, stages: Sequence[Stage]) -> list[Place]:
    """The file systems that are written to, as far as they are this host's."""
    folders = {"texts": str(temporary_folder()), "out": config.out or "."}
    needs = [
        (s.writes, locate(folders.get(s.writes, config.workspace)), s.disk_bytes + s.passing_bytes) for s in stages
    ]
    return places([(what, folder, n_bytes) for what, folder, n_bytes in needs if isinstance(folder, Path)])


def _tokens(found: Lengths) -> Tokens:
    return Tokens(
        found.n_rows,
        found.n_tokens,
        found.n_supervised,
        found.n_skipped,
        len(found.items),
        found.standard_error,
    )


def _assumptions(seen: Seen, made: Plan, n_probed: int, probe_seconds: float) -> Iterator[str]:
    pool, warmup = seen.lengths["pool"], seen.config.warmup
    yield "the run has this machine as the probe had it: as busy, with as many threads"
    n_threads = seen.config.engine.threads_per_worker or torch.get_num_threads()
    if seen.device is None and made.core_share is not None and made.core_share < _BUSY * n_threads:
        yield (
            f"other processes were busy: the probe had {made.core_share:.2f} of {n_threads} core(s); alone, the run "
            "would be faster by about as much"
        )
    if n_probed:
        yield f"{n_probed:,} padded tokens, measured within {probe_seconds:g} s, are like the rest"
    yield f"score, pick and write were run over up to {LARGE:,} rows, with made-up features"
    if seen.run.method.representation == "gradient" and warmup.checkpoints is None and warmup.epochs:
        yield "the warm-up runs to its end: no epoch of it is done yet, and it does not diverge"
    if pool.items and not pool.is_exact:
        error = pool.standard_error / max(1, pool.n_tokens)
        yield (
            f"{len(pool.items):,} random rows of {pool.n_rows:,} stand for the pool: its tokens are known to "
            f"± {error:.1%} (a standard error)"
        )
    if seen.n_workers > 1:
        yield (
            f"{seen.n_workers} workers, each as fast as this process alone and on a machine like this one; features "
            "and similarities are divided among them, the warm-up and the rest are not"
        )
    if made.price is not None:
        yield f"{seen.n_workers} × {made.price:g} an hour, for as long as the run takes"
    for name in ("workspace", "out"):
        if is_url(where := str(getattr(seen.config, name))):
            yield f"{where} has room for what is written to it: nobody asked"
