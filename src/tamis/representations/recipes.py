"""The recipes of rows that a language model makes: gradients, hidden states (RDS+), losses.

A recipe is a frozen description of what a row is, given its example; its digest names the store. It also holds what a
worker needs to make rows, and is what an engine sends to its workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tamis.data.chat import Encoded
from tamis.model.batch import check_causal
from tamis.model.checkpoint import Checkpoint, load_model_at, load_moments, load_weights
from tamis.model.load import (
    ModelSource,
    check_number_format,
    enable_activation_checkpointing,
    input_device,
    load_base,
    trainable,
)
from tamis.representations.adam import Direction, Form
from tamis.representations.compute import BatchRows
from tamis.representations.gradient import GradientFeatures
from tamis.representations.hidden import weighted_mean
from tamis.representations.loss import loss_alone, loss_given_prompt
from tamis.representations.projection import Kind, Several, projection
from tamis.store import StoreDtype
from tamis.store.recipe import with_store_dtype


@dataclass(frozen=True, slots=True)
class GradientRecipe:
    """Gradient features at one checkpoint; with several projection seeds, one store for each, of one backward pass."""

    source: ModelSource
    checkpoint: Checkpoint
    form: Form
    kind: Kind
    dim: int
    projection_seeds: tuple[int, ...]
    template: str  # fingerprint of tokenizer, template and truncation
    max_tokens: int
    dtype: str
    store_dtype: StoreDtype = "float16"
    what: str = "gradient"
    remedy: str = "use a smaller model.max_tokens, warmup.activation_checkpointing=true or model.quantization=4bit"

    def to_dicts(self) -> list[dict[str, Any]]:
        """See Recipe."""
        return [
            with_store_dtype(
                {
                    "kind": "gradient",
                    "checkpoint": self.checkpoint.fingerprint,
                    "base_model": self.checkpoint.base_digest,
                    "template": self.template,
                    "max_tokens": self.max_tokens,
                    "adam": self.form,
                    "projection": {"kind": "none"}
                    if self.kind == "none"
                    else {"kind": self.kind, "dim": self.dim, "seed": seed},
                    "dim": self.dim,
                    "dtype": self.dtype,
                },
                self.store_dtype,
            )
            for seed in self.projection_seeds
        ]

    def load(self, *, activation_checkpointing: bool) -> BatchRows:
        """See Recipe."""
        check_number_format(self.source, self.dtype)
        model = load_model_at(self.source, self.checkpoint)
        device = input_device(model)
        if activation_checkpointing:
            enable_activation_checkpointing(model)
        moments = load_moments(self.checkpoint, device)  # for sgd and sign too: it checks the weights' fingerprint
        sizes = {name: parameter.numel() for name, parameter in trainable(model).items()}
        seeds = [projection(self.kind, self.dim, seed, sizes, device) for seed in self.projection_seeds]
        project = seeds[0] if len(seeds) == 1 else Several(tuple(seeds))
        features = GradientFeatures(model, Direction(self.form, moments), project)
        features.__enter__()  # the taps stay for as long as the worker lives
        return features.rows


@dataclass(frozen=True, slots=True)
class ForwardRecipe:
    """What a forward pass of the base model tells of an example.

    rds         RDS+: the position-weighted mean of the last hidden layer
    loss        one number: the mean loss of the supervised tokens; loss_alone: the same without the prompt
    """

    kind: Literal["rds", "loss", "loss_alone"]
    source: ModelSource
    base_digest: str
    dim: int
    template: str
    max_tokens: int
    dtype: str
    store_dtype: StoreDtype = "float16"
    remedy: str = "use a smaller model.max_tokens or model.quantization=4bit"

    @property
    def what(self) -> str:
        """See Recipe."""
        return "hidden state" if self.kind == "rds" else "loss"

    def to_dicts(self) -> list[dict[str, Any]]:
        """See Recipe."""
        recipe = {
            "kind": self.kind,
            "base_model": self.base_digest,
            "template": self.template,
            "max_tokens": self.max_tokens,
            "dim": self.dim,
            "dtype": self.dtype,
        }
        return [with_store_dtype(recipe, self.store_dtype)]

    def load(self, *, activation_checkpointing: bool) -> BatchRows:
        """See Recipe. There is no backward pass, so there are no activations to save."""
        check_number_format(self.source, self.dtype)
        model = load_base(self.source)
        device = input_device(model)
        check_causal(model, device)
        function = {"rds": weighted_mean, "loss": loss_given_prompt, "loss_alone": loss_alone}[self.kind]

        @torch.no_grad()
        def batch_rows(items: Sequence[Encoded]) -> np.ndarray:
            rows: np.ndarray = function(model, items, device).float().cpu().numpy()
            return rows

        return batch_rows


def feature_dim(kind: Kind, dim: int, checkpoint: Checkpoint) -> int:
    """Length of a gradient row: dim, or without projection the number of trained parameters."""
    if kind != "none":
        return dim
    return sum(weight.numel() for weight in load_weights(checkpoint).values())
