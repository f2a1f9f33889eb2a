"""Tiny random models of several families, and the gradients of one row by autograd and transformers' own loss."""

from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from tamis.data.chat import Encoded
from tamis.model.load import trainable

_COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GATED = {**_COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama tied": ("Llama", {**_GATED, "tie_word_embeddings": True}),
    "llama untied": ("Llama", {**_GATED, "tie_word_embeddings": False}),
    "qwen2: biases of q, k, v": ("Qwen2", {**_GATED, "tie_word_embeddings": True}),
    "qwen3: norms of q and k": ("Qwen3", {**_GATED, "tie_word_embeddings": True}),
    "olmo2: norms of all heads": ("Olmo2", {**_GATED, "tie_word_embeddings": False}),
    "gemma2: 1 + w, scaled": ("Gemma2", {**_GATED, "tie_word_embeddings": True}),
    "gemma3: scaled embedding": ("Gemma3", {**_GATED, "tie_word_embeddings": True}),
    "cohere: layer norm": ("Cohere", {**_GATED, "use_qk_norm": True}),
    "smollm3": ("SmolLM3", {**_GATED, "tie_word_embeddings": True}),
    "neox: LayerNorm with bias": ("GPTNeoX", {**_COMMON, "intermediate_size": 48, "tie_word_embeddings": False}),
    "phi: bias of the head": ("Phi", {**_COMMON, "intermediate_size": 48, "tie_word_embeddings": False}),
    "gpt2: Conv1D, positions": (
        "GPT2LMHead",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1},
    ),
    "opt: shifted positions": (
        "OPT",
        {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": True},
    ),
    "falcon": ("Falcon", {**_COMMON, "new_decoder_architecture": False, "bias": True, "parallel_attn": False}),
}


def family(name: str) -> nn.Module:
    """In evaluation mode, all parameters trainable, none of them at a special value."""
    kind, settings = FAMILIES[name]
    model_class = getattr(transformers, f"{kind}ForCausalLM", None) or getattr(transformers, f"{kind}Model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = model_class(model_class.config_class(**settings))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(True).eval()


def plain_gradient(model: nn.Module, example: Encoded) -> dict[str, torch.Tensor]:
    """One row, transformers' own loss, autograd."""
    model.zero_grad()
    ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(example.mask)[None], ids, -100)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in trainable(model).items()}
    model.zero_grad()
    return found


def flat(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([parts[name].flatten() for name in sorted(parts)])
