"""The embedded testbed: a tiny pretrained model, and a generated pool in which every row's skill is known."""

from pathlib import Path

from tamis.testbed.generate import make_pool, make_target, write_testbed
from tamis.testbed.skills import SKILLS, Skill
from tamis.testbed.topics import HELD_OUT_TOPICS, TOPICS

__all__ = [
    "HELD_OUT_TOPICS",
    "MODEL",
    "MODELS",
    "SKILLS",
    "TOPICS",
    "Skill",
    "make_pool",
    "make_target",
    "write_testbed",
]

MODEL: Path = Path(__file__).parent / "model"
"""The folder of the shipped model: 🤗 format, with its tokenizer."""

MODELS = {"small": MODEL, "larger": MODEL.parent / "larger"}
"""Both shipped models; the larger one has three times the parameters, for selecting with one and training another."""
