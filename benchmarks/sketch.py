"""The sketch of gradients that exist already, against reading them once."""

from typing import Any

import torch

from benchmarks.common import Report, Settings, Side, measure, ratios
from benchmarks.workload import DEFAULTS
from tamis.representations.projection import projection

_BYTES = 2**29  # far above any last-level cache that one core reaches


def run(settings: Settings) -> Report:
    """One row a batch size: the more rows, the fewer calls for the same bytes."""
    return Report(
        title="sketch of a [batch, param] float32 gradient against a plain sum over it",
        target="at most 2 times its seconds",
        rows=[_compare(settings, n_rows) for n_rows in ([4] if settings.quick else [4, 16, 64])],
    )


def _compare(settings: Settings, n_rows: int) -> dict[str, Any]:
    dim = 64 if settings.quick else DEFAULTS.dim
    n_chunks = (2**20 if settings.quick else _BYTES) // (4 * n_rows * dim)
    n = n_chunks * dim
    values = torch.randn(n_rows, n, device=settings.device)
    project = projection("sketch", dim, 0, {"w": n}, settings.device)
    out = torch.zeros(n_rows, dim, device=settings.device)
    block = project.block(n_rows)

    def sketch() -> None:
        for start in range(0, n, block):
            project.add_(out, "w", start, values[:, start : start + block])

    measured = measure({"read": Side(values.sum), "sketch": Side(sketch)}, settings)
    read, ours = measured["read"].seconds, measured["sketch"].seconds
    n_bytes = 4 * values.numel()
    return {
        "case": f"{n_rows} rows of {n:,}, dim {dim}",
        "read GB/s": n_bytes / min(read) / 1e9,
        "sketch GB/s": n_bytes / min(ours) / 1e9,
        **ratios(ours, read),
        "bytes": n_bytes,
        "read seconds": read,
        "sketch seconds": ours,
    }
