"""Gradient features: Π Γ(∇ℓ(z; θ)) of every example z, over the LoRA parameters.

ℓ is the mean cross-entropy of the supervised tokens, Γ a step direction (`adam`), Π a projection. A tap on each adapter
layer forms the examples' own gradients from the layer's inputs x and output gradients δ of a whole batch,
g_i = Σ_t δ_it x_itᵀ, and passes each on, block by block, Adam → projection → accumulator, inside the backward pass: of
the batch × parameters matrix only one layer's part exists at a time. No weight gradient is computed besides.

Not covered: trainable parameters other than the weights of bias-free `nn.Linear` layers called once a pass on
[batch, seq, in] (DoRA magnitudes, LoRA on embeddings, mixture-of-experts layers that regroup tokens). Such a layer is
named in an error before any work starts.
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

Sink = Callable[[str, Tensor, Tensor], None]


class _Tap(torch.autograd.Function):
    """Identity on a layer's output. In the backward pass it shows (input, output gradient) to a sink.

    The input is saved as autograd saves it, so activation checkpointing recomputes it like everything else.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, name: str, sink: Sink) -> Tensor:
        ctx.save_for_backward(x)
        ctx.name, ctx.sink = name, sink
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.sink(ctx.name, x.detach(), grad[0])
        return grad[0], None, None, None


def tapped_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """{stable parameter name: the nn.Linear it is the weight of}, for every trainable parameter.

    Raises ModelError naming the first parameter that is no such weight.
    """
    owners = {id(p): (m, leaf) for m in model.modules() for leaf, p in m.named_parameters(recurse=False)}
    layers: dict[str, nn.Linear] = {}
    for name, parameter in trainable(model).items():
        owner, leaf = owners[id(parameter)]
        if not isinstance(owner, nn.Linear) or leaf != "weight":
            raise ModelError(
                f"cannot form per-example gradients of {name!r}: it is {leaf!r} of a {type(owner).__name__}, and only "
                "weights of Linear layers are covered. Adapt Linear layers alone (plain LoRA without DoRA, "
                "modules_to_save or trainable biases)"
            )
        layers[name] = owner
    if not layers:
        raise ModelError("the model has no trainable parameter: load its adapter with is_trainable=True")
    return layers


class GradientFeatures:
    """Feature rows of batches, for one model, direction and projection. A context manager: taps are removed on exit.

    The adapter's parameters are frozen while it is open: the taps take the place of their gradients.
    """

    def __init__(self, model: nn.Module, direction: Direction, projection: Projection) -> None:
        self._model, self._direction, self._projection = model, direction, projection
        self._layers = tapped_layers(model)
        if direction.names is not None and (odd := sorted(direction.names ^ self._layers.keys())):
            raise ModelError(f"Adam moments and trainable parameters differ, first in {odd[0]!r}")
        self._out: Tensor | None = None
        self._seen: list[str] = []
        self._open = ExitStack()

    def __enter__(self) -> "GradientFeatures":
        parameters = [layer.weight for layer in self._layers.values()]
        device = input_device(self._model)
        for parameter in parameters:
            parameter.requires_grad_(False)
            self._open.callback(parameter.requires_grad_, True)
        for name, layer in self._layers.items():
            self._open.callback(layer.register_forward_hook(self._hook(name)).remove)
        try:
            check_causal(self._model, device)
            self._check_layers(device)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._open.close()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._out is None or not torch.is_grad_enabled():
                return output
            if not output.requires_grad:
                output.requires_grad_()  # the first layer: nothing below it needs a gradient
            return _Tap.apply(output, args[0], name, self._sink)  # type: ignore[no-any-return, no-untyped-call]

        return hook

    def _sink(self, name: str, x: Tensor, delta: Tensor) -> None:
        out = self._out
        assert out is not None
        self._seen.append(name)
        if x.ndim != 3 or len(x) != len(out):
            raise ModelError(
                f"cannot form per-example gradients of {name!r}: expected input [batch {len(out)}, seq, in], got "
                f"{tuple(x.shape)}. Leave this layer out of the adapter (warmup.lora_targets)"
            )
        # Rows are summed up on one device, wherever the layer is
        gradient = torch.bmm(delta.transpose(1, 2), x).flatten(1).float().to(out.device)
        block = self._projection.block(len(out))
        for start in range(0, gradient.shape[1], block):
            part = self._direction.apply_(name, start, gradient[:, start : start + block])
            self._projection.add_(out, name, start, part)

    def _check_layers(self, device: torch.device) -> None:
        vocab = self._model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        ids = np.arange(6, dtype=np.int32) % vocab
        self._seen.clear()
        self(collate([Encoded(ids, ids >= 0, 0)] * 2, device))
        for name in self._layers:
            if self._seen.count(name) != 1:
                raise ModelError(
                    f"cannot form per-example gradients of {name!r}: its layer ran {self._seen.count(name)} times in "
                    "one pass, expected once. Leave it out of the adapter (warmup.lora_targets)"
                )

    def __call__(self, batch: Batch) -> Float32[Tensor, "batch dim"]:
        """Feature rows, float32, not yet scaled to unit; not finite where the example's loss or gradient is not."""
        out = torch.zeros(len(batch.input_ids), self._projection.dim, device=batch.input_ids.device)
        self._out, self._seen = out, []
        try:
            with torch.enable_grad():
                example_losses(self._model, batch).sum().backward()  # type: ignore[no-untyped-call]
        finally:
            self._out = None
        return out


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


def unit_rows(
    features: Float32[np.ndarray, "rows dim"],
) -> tuple[Float32[np.ndarray, "rows dim"], Float32[np.ndarray, " rows"]]:
    """Rows scaled to L2 norm 1, and their norms; a zero or non-finite row stays as it is, its norm tells."""
    norm = np.linalg.norm(features.astype(np.float64), axis=1).astype(np.float32)
    scale = np.where((norm > 0) & np.isfinite(norm), norm, 1)
    return features / scale[:, None], norm


def gradient_rows(
    features: GradientFeatures,
    encoded: Sequence[Encoded],
    batches: Sequence[Sequence[int]],
    device: torch.device,
    advance: Callable[[int], None],
) -> Float32[np.ndarray, "rows dim"]:
    """Feature rows of `encoded` in its order, computed in batches of positions; `advance` gets tokens done."""
    rows: list[np.ndarray | None] = [None] * len(encoded)
    for batch in batches:
        for position, row in zip(
            batch, features(collate([encoded[i] for i in batch], device)).cpu().numpy(), strict=True
        ):
            rows[position] = row
        advance(sum(len(encoded[i].input_ids) for i in batch))
    return np.stack([row for row in rows if row is not None])
