"""FLOPs of the stages by formula; a multiplication with an addition counts as two.

    forward            2·N·T + 4·L·d·Σw² + 2·V·S      N weights of the linear layers (an adapter's included), T tokens
                                                      (padding included), L layers of attention width d, w the width of
                                                      each row's batch, V weights of the output embedding, S supervised
                                                      tokens: logits are computed there alone
    backward           as forward, attention twice: gradients of the layers' inputs, and of the adapter's own weights
                       (2·N_adapter·T more); of full tuning those of every weight (2·N·T + 2·V·S more)
    projection         2·P a row (sketch) or 2·P·dim (rademacher), P trained coordinates
    similarity         2·targets·pool·dim, for each checkpoint
    selector           see `selector_flops`

Not counted: norms, activations, softmax, Adam's step, reading and writing. Every expert of a mixture counts as used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tamis.model.load import LoraSettings, ModelSource, add_lora, empty_model, trainable


@dataclass(frozen=True, slots=True)
class Shape:
    """What the formulas need of a model; `n_weights` are all of it, `trained` the coordinates by name."""

    n_weights: int
    n_body: int
    n_head: int
    n_layers: int
    attention_width: int
    hidden_width: int
    trained: Mapping[str, int]
    is_full: bool

    @property
    def n_trained(self) -> int:
        """Coordinates of the trained parameters."""
        return sum(self.trained.values())


@dataclass(frozen=True, slots=True)
class Load:
    """What goes through a model: rows, their tokens, padded tokens, Σ rows × width² of batches, supervised tokens."""

    n_rows: float = 0.0
    n_tokens: float = 0.0
    n_padded: float = 0.0
    squares: float = 0.0
    n_supervised: float = 0.0

    def times(self, factor: float) -> "Load":
        """So many times as much."""
        return Load(*(factor * getattr(self, name) for name in self.__slots__))


def shape_of(source: ModelSource, lora: LoraSettings | None) -> Shape:
    """The shape of a model with the adapter it is to get (None: all of it is trained), made without any weights."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = empty_model(source)
        config = model.config.get_text_config()  # type: ignore[union-attr, operator]
        head: Any = model.get_output_embeddings()  # type: ignore[operator]
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in looked_up]
        n_head = 0 if head is None else head.weight.numel()
        n_body = sum(p.numel() for p in matrices if head is None or p is not head.weight)
        n_weights = sum(p.numel() for p in model.parameters())
        model = model.requires_grad_(True) if lora is None else add_lora(model, lora, 0)
        trained = {name: parameter.numel() for name, parameter in trainable(model).items()}
    n_heads = int(getattr(config, "num_attention_heads", 0) or 0)
    width = int(getattr(config, "hidden_size", 0) or 0)
    head_dim = int(getattr(config, "head_dim", None) or (width // n_heads if n_heads else 0))
    n_layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    return Shape(n_weights, n_body, n_head, n_layers, n_heads * head_dim, width, trained, lora is None)


def forward(shape: Shape, load: Load, *, with_adapter: bool = False, with_head: bool = True) -> float:
    """One forward pass."""
    n_body = shape.n_body + (shape.n_trained if with_adapter and not shape.is_full else 0)
    attention = 4 * shape.n_layers * shape.attention_width * load.squares
    return 2 * n_body * load.n_padded + attention + (2 * shape.n_head * load.n_supervised if with_head else 0)


def training(shape: Shape, load: Load, *, recomputed: bool = False) -> float:
    """Forward and backward of a training, or of gradient features."""
    once = forward(shape, load, with_adapter=True)
    attention = 4 * shape.n_layers * shape.attention_width * load.squares
    if shape.is_full:
        of_weights = 2 * shape.n_body * load.n_padded + 2 * shape.n_head * load.n_supervised
    else:
        of_weights = 2 * shape.n_trained * load.n_padded
    again = forward(shape, load, with_adapter=True, with_head=False) if recomputed else 0
    return 2 * once + attention + of_weights + again


def projecting(shape: Shape, n_rows: float, kind: str, dim: int) -> float:
    """Projection of the rows' gradients."""
    return {"sketch": 2.0, "rademacher": 2.0 * dim, "none": 1.0}[kind] * shape.n_trained * n_rows


def encoding(encoder: nn.Module, load: Load) -> float:
    """A sentence encoder's forward pass, about: attention is left out."""
    looked_up = {id(m.weight) for m in encoder.modules() if isinstance(m, nn.Embedding)}
    n_weights = sum(p.numel() for p in encoder.parameters() if p.ndim >= 2 and id(p) not in looked_up)
    return 2.0 * n_weights * load.n_padded


def similarity_flops(n_targets: int, n_pool: int, dim: int, n_checkpoints: int) -> float:
    """Target × pool inner products."""
    return 2.0 * n_targets * n_pool * dim * n_checkpoints


def selector_flops(
    selector: str, *, n_targets: int, n_pool: int, dim: int, n_picks: int, options: Mapping[str, Any]
) -> float:
    """What a selector's time grows with; of one that sorts, comparisons. Rows of several checkpoints are read as one.

    k_center, herding 2·pool·dim·picks; matching_pursuit the same (products of all rows with each pick); tagcos 2·pool·
    dim·clusters, and its pursuits together 2·pool·dim·picks/clusters; facility_location 2·pool²·dim; knn_kde 2·U²·dim,
    U the rows that are a near neighbour of some target; unbalanced_transport 4·targets·pool for up to 100 steps;
    the others targets·pool·log₂ pool.
    """
    cells = max(1, n_targets) * n_pool
    products = 2.0 * n_pool * dim
    if selector in ("k_center", "herding", "matching_pursuit"):
        return products * n_picks
    if selector == "tagcos":
        n_clusters = max(1, min(int(options.get("n_clusters", 100)), n_pool))
        return products * (n_clusters + n_picks / n_clusters)
    if selector == "facility_location":
        return products * n_pool
    if selector == "knn_kde":
        near = min(n_pool, max(1, n_targets) * max(2, min(int(options.get("n_neighbors", 5000)), n_pool // 10)))
        return 2.0 * near * near * dim + cells
    if selector == "unbalanced_transport":
        return 400.0 * cells
    return cells * max(1.0, math.log2(max(2, n_pool)))
