"""Gradient features: Π Γ(∇ℓ(z; θ)) of every example z, over the trained parameters: a LoRA adapter's, or all.

ℓ is the mean cross-entropy of the supervised tokens, Γ a step direction (`adam`), Π a projection. A tap on each trained
layer forms the examples' own gradients from the layer's inputs and output gradients of a whole batch (`taps`), and
passes each on, block by block, Adam → projection → accumulator, inside the backward pass: of the batch × parameters
matrix only one layer's part exists at a time, and of a large layer only that of a few examples. No weight gradient is
computed besides. (Of an output layer that shares the embedding's weight, inputs and output gradients are kept until
the embedding's are there: Adam's division takes their sum.)

Not covered: parameters of other layers than `taps` lists, shared parameters but for that one, layers that run more than
once a pass or regroup tokens (experts of a mixture). When the taps are set, the gradients of a tiny batch are compared
with autograd's, and a parameter whose gradients differ is named in an error before any work starts.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.batch import Batch, check_causal, collate, example_losses
from tamis.model.load import input_device, trainable
from tamis.representations.adam import Direction
from tamis.representations.projection import Projection
from tamis.representations.tap_check import TapCheck
from tamis.representations.taps import Forming, Gradients, Sink, Site, Tap, inputs_of, sites

_PART_BYTES = 2**30  # of one layer's gradients, formed at once; a LoRA layer's are far below


class GradientFeatures:
    """Feature rows of batches, for one model, direction and projection. A context manager: taps are removed on exit.

    The trained parameters are frozen while it is open: the taps take the place of their gradients.
    """

    def __init__(self, model: nn.Module, direction: Direction, projection: Projection) -> None:
        self._model, self._direction, self._projection = model, direction, projection
        self._sites = sites(model)
        self._parameters = trainable(model)
        if direction.names is not None and (odd := sorted(direction.names ^ self._parameters.keys())):
            raise ModelError(f"Adam moments and trainable parameters differ, first in {odd[0]!r}")
        self._sink: Sink | None = None  # of the pass that is under way
        self._n_rows = 0
        self._open = ExitStack()

    def __enter__(self) -> "GradientFeatures":
        device = input_device(self._model)
        try:
            for site in self._sites:
                handle = site.layer.register_forward_hook(self._hook(site), with_kwargs=True)
                self._open.callback(handle.remove)
            check_causal(self._model, device)
            self._check_taps(device)
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
                self._open.callback(parameter.requires_grad_, True)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._open.close()

    def _hook(self, site: Site) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], Tensor]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            if self._sink is None or not torch.is_grad_enabled():
                return output
            inputs = inputs_of(site, args, kwargs)
            if isinstance(site.layer, nn.Embedding) and len(output) == 1:
                # Positions, looked up once for all rows: each row is to have an output gradient of its own
                output = output.expand(self._n_rows, *output.shape[1:])
            if not output.requires_grad:
                output.requires_grad_()  # the first layer: nothing below it needs a gradient
            return Tap.apply(output, site, self._sink, *inputs)  # type: ignore[no-any-return, no-untyped-call]

        return hook

    def _backward(self, batch: Batch, sink: Sink, weight: Tensor | None = None) -> None:
        """One pass over the batch, the layers of which are shown to the sink; rows are weighted in the loss."""
        self._sink, self._n_rows = sink, len(batch.input_ids)
        try:
            with torch.enable_grad():
                losses = example_losses(self._model, batch)
                loss = losses.sum() if weight is None else losses @ weight.to(losses)
                loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self._sink = None

    def _check_taps(self, device: torch.device) -> None:
        """Each row of a batch of two against autograd; see TapCheck."""
        vocab = self._model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        ids = np.arange(11, dtype=np.int32) * 5 % vocab
        rows = [Encoded(part, part >= 0, 0) for part in (ids[:6], ids[6:])]
        batch = collate(rows, device)
        for row in range(len(rows)):
            with TapCheck(self._parameters, batch, row) as check:
                self._backward(batch, check.sink, torch.eye(len(rows))[row])

    def __call__(self, batch: Batch) -> Float32[Tensor, "batch dim"]:
        """Feature rows, float32, not yet scaled to unit; not finite where the example's loss or gradient is not."""
        out = torch.zeros(len(batch.input_ids), self._projection.dim, device=batch.input_ids.device)
        form = Forming(batch)

        def sink(site: Site, inputs: tuple[Tensor, ...], delta: Tensor) -> None:
            for name, gradients in form(site, inputs, delta):
                self._add(out, name, gradients)

        self._backward(batch, sink)
        return out

    def _add(self, out: Tensor, name: str, gradients: Gradients) -> None:
        n_at_once = max(1, _PART_BYTES // (4 * self._parameters[name].numel()))
        for first in range(0, len(out), n_at_once):
            rows = out[first : first + n_at_once]
            # Rows are summed up on one device, wherever the layer is
            gradient = gradients(first, first + len(rows)).to(out.device)
            block = self._projection.block(len(rows))
            for start in range(0, gradient.shape[1], block):
                part = self._direction.apply_(name, start, gradient[:, start : start + block])
                self._projection.add_(rows, name, start, part)

    def rows(self, encoded: Sequence[Encoded]) -> Float32[np.ndarray, "batch dim"]:
        """Feature rows of one batch of examples, as an array on the CPU."""
        found: np.ndarray = self(collate(encoded, input_device(self._model))).cpu().numpy()
        return found


class _Discard:
    """A projection to nothing: for a check of the layers alone."""

    dim = 1

    def block(self, n_rows: int) -> int:
        return 2**62

    def add_(self, out: Tensor, name: str, offset: int, values: Tensor) -> None:
        pass


def check_layers(model: nn.Module) -> None:
    """ModelError, naming the layer, unless per-example gradients of all trainable parameters can be formed."""
    with GradientFeatures(model.eval(), Direction("sgd"), _Discard()):
        pass
