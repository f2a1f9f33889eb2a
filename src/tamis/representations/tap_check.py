"""Whether the gradients that taps form are autograd's: every trained parameter, on a tiny batch."""

from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn

from tamis.model.batch import Batch
from tamis.representations.taps import Forming, Site, refuse

_TOLERANCE = 1e-3  # with room for TF32
_COARSE_TOLERANCE = 3e-2  # where anything is in bfloat16 or float16


class TapCheck:
    """Compares, in a backward pass of one row's loss in a batch of several, what taps form with autograd's gradients.

    That row's must be equal to autograd's and every other row's zero, up to rounding: of what is summed, |δ|'s share,
    since a gradient may be zero by cancelling (of a key's bias it is). ModelError naming the first parameter where this
    is not so. A context manager around the pass; parameters are compared one by one as they come, none is kept.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], batch: Batch, row: int) -> None:
        self._parameters, self._row, self._n_rows = parameters, row, len(batch.input_ids)
        self._form, self._form_sizes = Forming(batch), Forming(batch)
        self._formed: dict[str, tuple[Tensor, float, float]] = {}
        self._n_formed = dict.fromkeys(parameters, 0)
        self._compared: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> "TapCheck":
        for name, parameter in self._parameters.items():
            self._open.callback(setattr, parameter, "grad", parameter.grad)
            parameter.grad = None

            def compare(parameter: Tensor, name: str = name) -> None:
                self._compare(name, parameter)

            handle = parameter.register_post_accumulate_grad_hook(compare)  # type: ignore[no-untyped-call]
            self._open.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if kind is None:
            for name in self._parameters:
                if name not in self._compared:
                    self._refuse_count(name)

    def sink(self, site: Site, inputs: tuple[Tensor, ...], delta: Tensor) -> None:
        """See taps.Sink."""
        formed = dict(self._form(site, inputs, delta))
        held = [delta, *(x for x in inputs if x.is_floating_point()), *site.layer.parameters(recurse=False)]
        is_coarse = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in held)
        for name, sizes in self._form_sizes(site, inputs, delta.abs()):
            rows = formed[name](0, self._n_rows)
            size = max(float(rows.norm()), float(sizes(0, self._n_rows).norm()))
            self._formed[name] = rows, size, _COARSE_TOLERANCE if is_coarse else _TOLERANCE
            self._n_formed[name] += 1

    def _compare(self, name: str, parameter: Tensor) -> None:
        """When autograd's gradient is there, which is after the layers that have it were tapped."""
        assert parameter.grad is not None
        expected, parameter.grad = parameter.grad.flatten().float(), None
        self._compared.add(name)
        if self._n_formed[name] != 1:
            self._refuse_count(name)
        rows, size, tolerance = self._formed.pop(name)
        rows[self._row] -= expected.to(rows.device)
        error = float(rows.norm())
        if not error <= tolerance * size:
            refuse(name, f"they differ from autograd's by {error:.2g}, where terms of size {size:.2g} are summed")

    def _refuse_count(self, name: str) -> None:
        refuse(name, f"its layer ran {self._n_formed[name]} times in one pass, expected once")
