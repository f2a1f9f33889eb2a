"""What cannot fit, each as a sentence that names the setting to change."""

from collections.abc import Iterator, Mapping

import torch

from tamis.config import Config
from tamis.errors import InputError
from tamis.planning import memory
from tamis.planning.disk import Place
from tamis.planning.forecast import Plan

_REMEDIES = {
    "weights": "hold the model in fewer bytes (model.quantization=4bit, model.dtype=bfloat16) or take a smaller one",
    "shard": "set a smaller represent.shard_rows or represent.dim",
    "selector": "say how much it may take (memory=4GB), or choose a selector that holds less (pick.method)",
    "tokens": "set a smaller model.max_tokens",
    "batch": "set a smaller represent.batch_tokens, model.max_tokens or warmup.micro_batch_size, or "
    "warmup.activation_checkpointing=true",
}
_DISK_REMEDIES = {
    "features": "set a smaller represent.dim, represent.store_dtype=int8, or another workspace",
    "checkpoints": "set a smaller warmup.epochs or warmup.lora_rank, or another workspace",
    "similarity": "name another workspace",
    "out": "name another folder (--out)",
    "texts": "set TMPDIR to a folder that has more",
    "probe": "set TMPDIR to a folder that has more",
}


def check_weights(config: Config, n_bytes: int, device: torch.device | None) -> None:
    """InputError for a model whose weights, and what its training holds of each, are more than is free."""
    where, free = "memory", memory.free_bytes()
    if device is not None and config.model.device_map is None:
        where, free = f"memory on {device}", memory.gpu_free_bytes(device)
    if n_bytes > free:
        full = ", or warmup.tuning=lora" if config.warmup.tuning == "full" else ""
        raise InputError(
            f"{config.model.name}: its weights take {size(n_bytes)} of {where}, and {size(free)} are free: "
            f"{_REMEDIES['weights']}{full}"
        )


def refusals(plan: Plan, parts: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each limit that the plan is above. parts: what takes the memory of one process."""
    if plan.host_bytes > plan.host_free:
        yield (
            f"the run takes {size(plan.host_bytes)} of memory, and {size(plan.host_free)} are free: "
            + (f"set fewer engine.workers (it is {plan.n_workers}), or " if plan.n_workers > 1 else "")
            + _remedy(plan.host_bytes // plan.n_workers, parts)
        )
    if plan.gpu_bytes is not None and plan.gpu_free is not None and plan.gpu_bytes > plan.gpu_free:
        on_gpu = {name: n_bytes for name, n_bytes in parts.items() if name == "weights"}
        yield (
            f"the run takes {size(plan.gpu_bytes)} of GPU memory, and {size(plan.gpu_free)} are free: "
            + _remedy(plan.gpu_bytes, on_gpu)
        )
    for place in plan.disk:
        if place.needed > place.free:
            yield no_room(place)


def no_room(place: Place) -> str:
    """Of a file system with less room than is needed."""
    most = max(place.used_by, key=lambda what: place.used_by[what])
    return (
        f"{place.folder}: the run writes {size(place.needed)} there ({most}: {size(place.used_by[most])}), "
        f"and {size(place.free)} are free: free some, or {_DISK_REMEDIES[most]}"
    )


def _remedy(n_bytes: int, parts: Mapping[str, int]) -> str:
    """That for the largest part; what is in no other part is the batches'."""
    sizes = {**parts, "batch": n_bytes - sum(parts.values())}
    return _REMEDIES[max(sizes, key=lambda part: sizes[part])]


def size(n_bytes: int) -> str:
    """3.2 GB: decimal units."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= divisor:
            return f"{n_bytes / divisor:,.1f} {unit}"
    return f"{n_bytes / 1e3:,.1f} kB"
