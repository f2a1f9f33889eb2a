"""The pretraining text is what it says, and the script gives a model that loads."""

import random
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tamis.testbed import SKILLS
from tamis.testbed.pretrain import ALL_WORDS, documents, main, note


def test_nine_notes_in_ten_are_right() -> None:
    rng = random.Random(0)
    n_right = 0
    for text in (note(rng) for _ in range(2000)):
        name, question = text.split(": ")
        listed, answer = question.split(" = ")
        assert set(listed.split()) <= set(ALL_WORDS)
        n_right += answer == SKILLS[name].answer(listed.split()).replace(",", "")
    # 0.9 and a little more: now and then a wrong one draws its own skill, or two skills agree.
    assert 0.88 < n_right / 2000 < 0.94


def test_no_document_looks_like_a_conversation() -> None:
    requests = [r for skill in SKILLS.values() for r in (*skill.pool_requests, *skill.target_requests)]
    for text in islice(documents(random.Random(0)), 2000):
        assert "<|" not in text
        assert not any(request in text.lower() for request in requests)


def test_script_is_seeded_and_its_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for name in ("a", "b"):
        monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(tmp_path / name), "--steps", "2"])
        main()
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert len(AutoTokenizer.from_pretrained(tmp_path / name)) == model.config.vocab_size == 1024
        weights.append(model.lm_head.weight)
    assert torch.equal(*weights)
