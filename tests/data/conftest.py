"""Small helpers of the data tests: files made of rows, and a tokenizer trained in code."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = [
    *("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]"),
]
LINES = ["Two and two are four.", "Be brief.", "How much is two and three?", "Five.", "user assistant system"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """write(name, *rows) -> path: a file of JSON rows (bytes stay as they are), gzipped if its name says so."""

    def write_rows(name: str, *rows: Any) -> str:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows]
        data = b"".join(lines)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write_rows


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """make_tokenizer(**special_tokens): a fresh byte-level BPE tokenizer without chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    text = backend.to_str()

    def make(**special: str) -> PreTrainedTokenizerFast:
        tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **special}
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(text), additional_special_tokens=SPECIAL[3:], **tokens
        )

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return make_tokenizer()
