"""Embeddings by a real sentence encoder, whose files come with an offline package."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tamis.errors import ModelError
from tamis.representations import sentence
from tamis.representations.compute import rows_in_batches
from tamis.representations.sentence import SentenceRecipe, load_encoder

TEXTS = [
    "user: How much is 2 and 2?\nassistant: It is 4.",
    "user: Is a fig a fruit?\nassistant: Yes.",
    "user: Write a function that adds two numbers.\nassistant: def add(a, b):\n    return a + b",
    "user: " + "very " * 300 + "long\nassistant: Yes.",
    "user: été?\nassistant: 夏 ☀",
    "user: a\nassistant: b",
]


@pytest.fixture(autouse=True)
def _forget() -> None:
    load_encoder.cache_clear()


@pytest.fixture(scope="session")
def recipe(encoder: str) -> SentenceRecipe:
    return SentenceRecipe.of(encoder, device="cpu", trust_remote_code=False, store_dtype="float16")


def rows(recipe: SentenceRecipe, texts: list[str], batches: list[list[int]]) -> np.ndarray:
    items = [recipe.words(text) for text in texts]
    return rows_in_batches(recipe.load(activation_checkpointing=False), items, batches, lambda _: None)


def test_rows_are_mean_pooled_token_states_of_the_model(recipe: SentenceRecipe, encoder: str) -> None:
    """Transformers alone, one text at a time: this encoder's row is the unit mean over its real tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    found = rows(recipe, TEXTS, [list(range(len(TEXTS)))])
    assert (found.shape, found.dtype) == ((len(TEXTS), recipe.dim), np.float32)
    for text, row in zip(TEXTS, found, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=recipe.max_tokens, return_tensors="pt")
        with torch.no_grad():
            mean = model(**tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_padding_batches_and_order_do_not_matter(recipe: SentenceRecipe) -> None:
    alone = rows(recipe, TEXTS, [[i] for i in range(len(TEXTS))])
    for batches in ([list(range(6))], [[5, 3], [0, 4, 1], [2]], [[i] for i in reversed(range(6))]):
        np.testing.assert_allclose(rows(recipe, TEXTS, batches), alone, atol=1e-6)
    turned = rows(recipe, TEXTS[::-1], [list(range(6))])[::-1]
    np.testing.assert_allclose(turned, alone, atol=1e-6)


def test_the_recipe_knows_the_files_and_not_where_they_are(
    recipe: SentenceRecipe, encoder: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    again = SentenceRecipe.of(str(copy), device="cpu", trust_remote_code=False, store_dtype="float16")
    assert again.to_dicts() == recipe.to_dicts()
    assert recipe.to_dicts()[0].keys() == {"kind", "encoder", "max_tokens", "dim"}
    settings = copy / "config.json"
    settings.write_text(settings.read_text() + "\n")
    load_encoder.cache_clear()
    other = SentenceRecipe.of(str(copy), device="cpu", trust_remote_code=False, store_dtype="int8")
    assert other.digest != recipe.digest
    assert other.to_dicts()[0]["store_dtype"] == "int8"


def test_what_is_no_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ModelError, match="there is no such folder"):
        load_encoder(str(tmp_path / "none"), "cpu", False)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"cannot load a sentence encoder from .*\(represent.encoder\)"):
        load_encoder(str(tmp_path), "cpu", False)
    for device in ("foo", "cuda"):
        if device == "foo" or not torch.cuda.is_available():
            with pytest.raises(ModelError, match=r"unknown device|sees no GPU"):
                SentenceRecipe.of("any", device=device, trust_remote_code=False, store_dtype="float16")
    found: Any = sentence.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        sentence.importlib.util,  # type: ignore[attr-defined]
        "find_spec",
        lambda name: None if name == "sentence_transformers" else found(name),
    )
    with pytest.raises(ModelError, match=r'pip install "tamis\[embed\]"'):
        load_encoder("any", "cpu", False)


def test_an_encoder_that_is_not_whole_is_refused(encoder: str, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(encoder, tmp_path / name))

    cut = copy("cut") / "model.safetensors"
    weights = load_file(cut)
    save_file({k: w for k, w in weights.items() if "layer.1." not in k}, cut, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights of 16 parameters are missing, the first is encoder.layer.1"):
        load_encoder(str(cut.parent), "cpu", False)
    short = copy("short") / "model.safetensors"
    short.write_bytes(short.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load a sentence encoder"):
        load_encoder(str(short.parent), "cpu", False)
    mute = copy("mute")
    for path in [*mute.glob("tokenizer*"), *mute.glob("vocab*")]:
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer in it"):
        load_encoder(str(mute), "cpu", False)
    pickled = copy("pickled")
    (pickled / "2_Dense").mkdir()
    (pickled / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="weights as a pickle, which is not read"):
        load_encoder(str(pickled), "cpu", False)


def test_every_file_counts(encoder: str, tmp_path: Path) -> None:
    digests = {load_encoder(encoder, "cpu", False)[1]}
    for name in ("README.md", "modeling.py", "more.safetensors"):
        folder = Path(shutil.copytree(encoder, tmp_path / name.replace(".", "_")))
        (folder / name).write_bytes(b"#")
        digests.add(sentence._digest(str(folder), None))
    assert len(digests) == 3  # what a README says does not count
