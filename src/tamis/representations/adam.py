"""From a gradient to the step the optimizer would take: elementwise, block by block.

`torch`   Γ = (m'/(1−β₁ᵗ)) / (√(v'/(1−β₂ᵗ)) + ε),  m' = β₁m + (1−β₁)g,  v' = β₂v + (1−β₂)g²,  t = step + 1:
          −Δθ/lr of torch.optim.Adam (AdamW's decoupled decay does not depend on the example and is left out)
`less`    Γ = m' / √(v' + ε): what the published LESS code computes
`sgd`     Γ = g
`sign`    Γ = sign(g)

With their constants folded, the first two are one form: Γ = (a + c·g) / (√(b + d·g²) + e).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from tamis.model.checkpoint import Moments

Form = Literal["torch", "less", "sgd", "sign"]


@dataclass(frozen=True, slots=True)
class _Folded:
    a: dict[str, Float32[Tensor, " param"]]
    b: dict[str, Float32[Tensor, " param"]]
    c: float
    d: float
    e: float


class Direction:
    """Step direction of one checkpoint. `sgd` and `sign` need no moments."""

    def __init__(self, form: Form, moments: Moments | None = None) -> None:
        self.form = form
        self._folded: _Folded | None = None
        if form in ("sgd", "sign"):
            return
        if moments is None:
            raise ValueError(f"adam form {form!r} needs the checkpoint's moments")
        beta1, beta2 = moments.betas
        t = moments.step + 1
        m_scale, v_scale = (1 - beta1**t, 1 - beta2**t) if form == "torch" else (1.0, 1.0)
        shift = 0.0 if form == "torch" else moments.eps
        self._folded = _Folded(
            a={name: m * (beta1 / m_scale) for name, m in moments.exp_avg.items()},
            b={name: v * (beta2 / v_scale) + shift for name, v in moments.exp_avg_sq.items()},
            c=(1 - beta1) / m_scale,
            d=(1 - beta2) / v_scale,
            e=moments.eps if form == "torch" else 0.0,
        )

    @property
    def names(self) -> set[str] | None:
        """Parameters there are moments for; None where none are needed."""
        return None if self._folded is None else set(self._folded.a)

    def apply_(self, name: str, offset: int, gradient: Float32[Tensor, "rows param"]) -> Float32[Tensor, "rows param"]:
        """Γ of coordinates offset … of parameter `name`; overwrites and returns the gradient."""
        if self.form == "sgd":
            return gradient
        if self.form == "sign":
            return gradient.sign_()
        folded = self._folded
        assert folded is not None
        part = slice(offset, offset + gradient.shape[1])
        root = torch.addcmul(folded.b[name][part], gradient, gradient, value=folded.d).sqrt_()
        if folded.e:
            root.add_(folded.e)
        return gradient.mul_(folded.c).add_(folded.a[name][part]).div_(root)
