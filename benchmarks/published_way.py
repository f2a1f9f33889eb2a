"""Gradient features against the loop of the published LESS code.

That code takes one example at a time: backward, all gradients as one vector, Adam's direction of it; every 16 vectors
it multiplies them with a dense Rademacher matrix, made anew each time in blocks of 128 columns because the whole
matrix fits nowhere. (On a GPU it does the same in a fused kernel where `fast_jl` is installed; not covered.)

All blocks cost the same, so a few are timed and counted as all. The row "signs free of charge" leaves out the making of
the matrix: no dense projection, however clever about its signs, does without the product.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Report, Settings, Side, measure, ratios
from benchmarks.features import user_batch
from benchmarks.workload import Workload, workload
from tamis.model.load import trainable

_INTERVAL = 16  # gradients projected together
_BLOCK = 128  # columns of the matrix made at a time


def run(settings: Settings) -> Report:
    """One row as published, one without the cost of the signs."""
    work = workload(settings, rank=4 if settings.quick else 128, dtype="auto", n_batches=1)
    published = _Published(work, n_timed=1 if settings.quick else 2)
    sides = {
        "gradients": Side(published.gradients),
        "signs": Side(published.signs),
        "product": Side(published.product),
        "tamis": Side(work.tamis, within=work.features),
    }
    seconds = {name: side.seconds for name, side in measure(sides, settings).items()}
    return Report(
        title="gradient features (Adam, sketch) against a batch-size-1 loop with a dense Rademacher product",
        target="at least 20 times its examples/s, as published",
        rows=[
            published.row("as published", seconds, with_signs=True),
            published.row("signs free of charge", seconds, with_signs=False),
        ],
    )


class _Published:
    def __init__(self, work: Workload, n_timed: int) -> None:
        self._work, self._n_timed = work, n_timed
        self._n_blocks = -(-work.dim // _BLOCK)
        self._batches = [user_batch([e], work.device) for e in work.encoded]
        self._parameters = list(trainable(work.model).values())
        self._m = torch.cat(list(work.moments.exp_avg.values()))
        self._v = torch.cat(list(work.moments.exp_avg_sq.values()))
        dtype = self._parameters[0].dtype
        self._matrix = torch.ones(len(self._m), _BLOCK, dtype=dtype, device=work.device)
        self._generator = torch.Generator(work.device)
        self._rows: Tensor = torch.zeros(
            max(len(self._batches), _INTERVAL), len(self._m), dtype=dtype, device=work.device
        )

    def gradients(self) -> None:
        """Adam's direction of every example, one by one (the published form: ε inside the root)."""
        beta1, beta2 = self._work.moments.betas
        for row, batch in enumerate(self._batches):
            loss = self._work.model(**batch, use_cache=False).loss
            g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, self._parameters)]).float()
            m, v = beta1 * self._m + (1 - beta1) * g, beta2 * self._v + (1 - beta2) * g**2
            self._rows[row] = m / torch.sqrt(v + self._work.moments.eps)

    def signs(self) -> None:
        """Make the timed blocks of the matrix."""
        for block in range(self._n_timed):
            self._generator.manual_seed(block)
            self._matrix.bernoulli_(0.5, generator=self._generator).mul_(2).sub_(1)

    def product(self) -> list[Tensor]:
        """Multiply the first 16 with the timed blocks; the one in memory stands for each."""
        return [self._rows[:_INTERVAL] @ self._matrix for _ in range(self._n_timed)]

    def row(self, case: str, seconds: dict[str, list[float]], *, with_signs: bool) -> dict[str, Any]:
        """The whole loop's time, from its parts."""
        n = len(self._batches)
        scale = self._n_blocks / self._n_timed * n / _INTERVAL
        parts = zip(seconds["gradients"], seconds["signs"], seconds["product"], strict=True)
        loop = [g + scale * (p + (s if with_signs else 0.0)) for g, s, p in parts]
        tamis = seconds["tamis"]
        return {
            "case": f"{case}; {self._work.name}",
            "published examples/s": n / min(loop),
            "tamis examples/s": n / min(tamis),
            **ratios(loop, tamis),
            "examples": n,
            "adapter parameters": len(self._m),
            "blocks": self._n_blocks,
            "blocks timed": self._n_timed,
            "seconds": seconds,
        }
