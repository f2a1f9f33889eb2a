"""A tiny random Llama, the same at every call."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def random_llama(**settings: Any) -> LlamaForCausalLM:
    """Frozen, in evaluation mode; settings override its configuration."""
    defaults = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**defaults, **settings})).requires_grad_(False).eval()
