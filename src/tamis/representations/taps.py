"""Per-example gradients of a layer's parameters, from its inputs x and output gradients δ of a whole batch.

| layer                      | parameter | gradient of an example                                                  |
|----------------------------|-----------|-------------------------------------------------------------------------|
| Linear (Conv1D transposed) | weight    | Σ_t δ_t x_tᵀ                                                            |
| Embedding                  | weight    | row v: s · Σ_{t: token t is v} δ_t, s the scale some models give rows   |
| norm, y = w ⊙ f(x) + b     | weight    | Σ_t δ_t ⊙ f(x_t), with f(x) = y(x; w = 1) − y(x; w = 0); for 1 + w too  |
| any of them                | bias      | Σ_t δ_t                                                                 |

The output layer runs on the supervised positions of the batch, one row after the other (`model.batch`). Where it shares
its weight with the embedding, its part waits for the embedding's, and the two are summed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from tamis.errors import ModelError
from tamis.model.batch import Batch
from tamis.model.load import trainable

Gradients = Callable[[int, int], Tensor]
"""(first, last) → the gradients of examples first … last − 1, [rows, param], float32, one's own to overwrite."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A layer whose parameters are trained: {leaf: the parameter's stable name}. `in_head`: it is the output layer."""

    layer: nn.Module
    names: dict[str, str]
    in_head: bool
    is_tied: bool = False


Sink = Callable[[Site, tuple[Tensor, ...], Tensor], None]


class Tap(torch.autograd.Function):
    """Identity on a layer's output. In the backward pass it shows (site, inputs, output gradient) to a sink.

    The inputs are saved as autograd saves them, so activation checkpointing recomputes them like everything else.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, site: Site, sink: Sink, *inputs: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(*inputs)
        ctx.site, ctx.sink, ctx.n_inputs = site, sink, len(inputs)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> tuple[Tensor | None, ...]:  # noqa: D102
        ctx.sink(ctx.site, tuple(x.detach() for x in ctx.saved_tensors), grad[0])
        return grad[0], None, None, *[None] * ctx.n_inputs


# ---- which layers ------------------------------------------------------------------------------------------------


def refuse(name: str, why: str) -> NoReturn:
    """ModelError about a parameter."""
    is_adapter = ".lora_" in name
    remedy = "Leave this layer out of the adapter (warmup.lora_targets)" if is_adapter else "Use warmup.tuning=lora"
    raise ModelError(f"cannot form per-example gradients of {name!r}: {why}. {remedy}")


def sites(model: nn.Module) -> list[Site]:
    """The layers that hold the trainable parameters, each parameter at one of them.

    Raises ModelError naming the first parameter that is of another kind of layer, or shared by several (but for the
    embedding's, which the output layer may share).
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, leaf))
    head = model.get_output_embeddings()  # type: ignore[operator]
    in_head = set(head.modules()) if head is not None else set()
    names: dict[nn.Module, dict[str, str]] = {}
    tied: set[nn.Module] = set()
    for name, parameter in trainable(model).items():
        found = owners[id(parameter)]
        for owner, leaf in found:
            if not _covered(owner, leaf):
                refuse(
                    name,
                    f"it is {leaf!r} of a {type(owner).__name__}, and only weights and biases of Linear, Conv1D, "
                    "Embedding and norm layers are covered (no DoRA, adapted embeddings or mixture of experts)",
                )
            names.setdefault(owner, {})[leaf] = name
        if len(found) > 1:
            kinds = [type(owner).__name__ for owner, _ in found]
            if len(found) > 2 or not isinstance(found[0][0], nn.Embedding) or found[1][0] is not head:
                refuse(name, f"it is shared by {len(found)} layers ({', '.join(kinds)})")
            tied.add(found[1][0])
    if not names:
        raise ModelError("the model has no trainable parameter: load its adapter with is_trainable=True")
    return [Site(layer, mine, layer in in_head, layer in tied) for layer, mine in names.items()]


def _covered(layer: nn.Module, leaf: str) -> bool:
    if isinstance(layer, nn.Embedding):
        return leaf == "weight"
    return leaf in ("weight", "bias") and (isinstance(layer, nn.Linear | Conv1D) or _is_norm(layer))


def _is_norm(layer: nn.Module) -> bool:
    """By its name, for every family has its own. That it acts as one is what the check of all gradients sees to."""
    return "Norm" in type(layer).__name__ and not any(True for _ in layer.children())


# ---- in the forward pass -----------------------------------------------------------------------------------------


@torch.no_grad()
def inputs_of(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """What is to be kept of a layer's call: x; of an embedding the tokens, and its scale where it has one."""
    layer = site.layer
    if type(layer) is nn.Embedding or not isinstance(layer, nn.Embedding):
        if len(args) + len(kwargs) != 1 and _is_norm(layer):
            refuse(next(iter(site.names.values())), f"its layer takes {len(args) + len(kwargs)} inputs, expected one")
        return (args[0] if args else next(iter(kwargs.values())),)
    # Of its own kind: tokens may be shifted, or computed from something else, and rows scaled. Whatever it does is
    # linear in the weight, so rows of ones give the scale and rows of their own number the tokens.
    n_rows, width = layer.weight.shape
    number = torch.arange(n_rows, dtype=torch.float32, device=layer.weight.device)
    ones, numbers = torch.ones_like(number)[:, None].expand(n_rows, width), number[:, None].expand(n_rows, width)
    scale = functional_call(layer, {"weight": ones}, args, kwargs)[..., :1]
    tokens = functional_call(layer, {"weight": numbers}, args, kwargs)[..., :1] / scale
    return tokens[..., 0].round().long(), scale


# ---- in the backward pass ----------------------------------------------------------------------------------------


class Forming:
    """Forms the gradients of one batch, layer by layer as the backward pass shows them."""

    def __init__(self, batch: Batch) -> None:
        self._n_rows, self._width = batch.input_ids.shape
        self._bounds: list[int] = [0, *batch.n_predicted.cumsum(0).tolist()]
        self._waiting: dict[str, Gradients] = {}

    def __call__(self, site: Site, inputs: tuple[Tensor, ...], delta: Tensor) -> Iterator[tuple[str, Gradients]]:
        """(name, gradients) of each parameter that is complete with this layer's part."""
        layer, x, names = site.layer, inputs[0], site.names
        bounds = self._bounds if site.in_head else None
        if x.ndim == 2 and delta.ndim == 2 and not site.in_head and len(x) == self._n_rows * self._width:
            x, delta = (held.view(self._n_rows, self._width, -1) for held in (x, delta))  # rows were flattened (OPT)
        self._check_shape(site, x)
        if "bias" in names:
            yield names["bias"], _summed(delta, None, 1, bounds)
        if "weight" not in names:
            return
        name = names["weight"]
        if isinstance(layer, nn.Embedding):
            scale = inputs[1].float() if len(inputs) > 1 else 1.0
            yield name, _scattered(layer, x, delta * scale, self._waiting.pop(name, None))
        elif isinstance(layer, nn.Linear | Conv1D):
            gradients = _outer(delta, x, bounds) if isinstance(layer, nn.Linear) else _outer(x, delta, bounds)
            if site.is_tied:
                self._waiting[name] = gradients
            else:
                yield name, gradients
        else:
            yield name, _summed(delta, _unscaled(layer, x), layer.weight.ndim, bounds)  # type: ignore[arg-type]

    def _check_shape(self, site: Site, x: Tensor) -> None:
        n, shape, name = self._n_rows, tuple(x.shape), next(iter(site.names.values()))
        if site.in_head:
            if x.ndim != 2 or len(x) != self._bounds[-1]:
                refuse(name, f"expected input [supervised {self._bounds[-1]}, in], got {shape}")
        elif isinstance(site.layer, nn.Embedding):
            if x.ndim != 2 or len(x) not in (1, n):
                refuse(name, f"expected tokens [batch {n}, seq], got {shape}")
        elif x.ndim < 3 or len(x) != n:
            refuse(name, f"expected input [batch {n}, seq, in], got {shape}")


def _outer(a: Tensor, b: Tensor, bounds: Sequence[int] | None) -> Gradients:
    """Σ_t a_t b_tᵀ."""
    if bounds is None:
        a, b = a.flatten(1, -2), b.flatten(1, -2)
        return lambda first, last: torch.bmm(a[first:last].transpose(1, 2), b[first:last]).flatten(1).float()
    return lambda first, last: torch.stack(
        [(a[start:end].T @ b[start:end]).flatten() for start, end in pairwise(bounds[first : last + 1])]
    ).float()


def _summed(delta: Tensor, f: Tensor | None, n_axes: int, bounds: Sequence[int] | None) -> Gradients:
    """Σ_t δ_t ⊙ f_t over all but the first and the last n_axes axes; without f, Σ_t δ_t."""

    def form(first: int, last: int) -> Tensor:
        part = delta[first:last].float()
        if f is not None:
            part = part * f[first:last].float()
        return part.flatten(1, part.ndim - n_axes - 1).sum(1).flatten(1)

    if bounds is None:
        return form
    return lambda first, last: torch.stack(
        [delta[start:end].float().sum(0) for start, end in pairwise(bounds[first : last + 1])]
    )


@torch.no_grad()
def _unscaled(layer: nn.Module, x: Tensor) -> Tensor:
    one, zero = (
        {leaf: torch.full_like(p, fill if leaf == "weight" else 0.0) for leaf, p in layer.named_parameters()}
        for fill in (1.0, 0.0)
    )
    found: Tensor = functional_call(layer, one, (x,)) - functional_call(layer, zero, (x,))
    return found


def _scattered(layer: nn.Embedding, tokens: Tensor, delta: Tensor, more: Gradients | None) -> Gradients:
    """The rows δ_t added up at their tokens, upon `more` where that is given."""
    n_tokens, width = layer.weight.shape
    tokens = tokens.expand(len(delta), -1)  # positions are looked up once for all rows
    if layer.padding_idx is not None:
        delta = delta * (tokens != layer.padding_idx)[..., None]

    def form(first: int, last: int) -> Tensor:
        rows = delta[first:last].float().flatten(0, 1)
        start = n_tokens * torch.arange(last - first, device=tokens.device)
        place = (tokens[first:last] + start[:, None]).flatten()
        out = more(first, last) if more else rows.new_zeros(last - first, n_tokens * width)
        whole = out.view(-1, width)
        # On either device the one of two that adds in a fixed order
        if whole.device.type == "cpu":
            whole.index_add_(0, place, rows)
        else:
            whole.index_put_((place,), rows, accumulate=True)
        return out

    return form
