"""Memory: what is free, what this process has taken at most, and what a run takes beyond what a probe shows."""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from tamis.model.load import resolve_device

MARGIN = 1.2  # of a forecast peak over what a probe has: over many batches, allocators come to hold some more
KEPT_ROWS = 65_536  # whose tokens a process keeps once it has read them
SHARD_CELL_BYTES = 28  # of each number of a shard while it is scaled and written
_ENCODED_ROW_BYTES = 600  # of an example's tokens in memory, beside 5 bytes a token


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_bytes() -> int:
    """What this process may have in all: what is available, and what it has already."""
    import psutil

    return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)


def gpu(device: str) -> torch.device | None:
    """The GPU that the model goes to; None for a CPU."""
    found = resolve_device(device)
    return found if found.type == "cuda" else None


def gpu_peak_bytes(device: torch.device | None) -> int:
    """The most GPU memory that this process has reserved."""
    return 0 if device is None else int(torch.cuda.max_memory_reserved(device))


def gpu_free_bytes(device: torch.device) -> int:
    """What this process may have of it."""
    return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def weights_bytes(n_weights: int, dtype: torch.dtype, quantization: str) -> int:
    """A base model's weights as they are held; of a quantised one about, with its scales."""
    return round(n_weights * {"none": dtype.itemsize, "8bit": 1.1, "4bit": 0.6}[quantization])


def held_tokens_bytes(n_rows: int, n_tokens: int) -> int:
    """Tokenised rows that are kept in memory."""
    return _ENCODED_ROW_BYTES * n_rows + 5 * n_tokens


def selector_bytes(selector: str, sizes: Mapping[str, int], options: Mapping[str, Any], limit: int) -> int:
    """What a selector holds, similarities that are mapped from the disk included: at most `limit` where it heeds it.

    sizes: n_targets, n_pool, dim, n_picks. Features that are read block by block do not count: they are small, and the
    probe has them.
    """
    n_targets, n_pool, dim, n_picks = (sizes[name] for name in ("n_targets", "n_pool", "dim", "n_picks"))
    cells, per_row = n_targets * n_pool, 64 * n_pool
    if selector == "round_robin":
        return min(limit, 4 * cells) + 4 * cells + per_row
    if selector == "unbalanced_transport":
        return (8 * cells if 8 * cells <= limit else 0) + 4 * cells + per_row
    if selector in ("knn_uniform", "knn_kde"):
        near = n_targets * max(2, min(int(options.get("n_neighbors", 5000)), n_pool // 10))
        features = min(limit, 4 * min(near, n_pool) * (dim + 1)) if selector == "knn_kde" else 0
        return 4 * cells + 100 * near + features + per_row
    if selector == "matching_pursuit":
        return min(limit, 4 * n_pool * n_picks) + 8 * n_picks**2 + per_row
    if selector == "tagcos":
        return min(limit, 8 * n_pool * dim) + per_row
    if selector == "facility_location":
        return 16 * n_pool * min(n_pool, int(options.get("n_neighbors", 256))) + per_row
    if selector == "random":
        return per_row
    return 8 * cells + per_row
