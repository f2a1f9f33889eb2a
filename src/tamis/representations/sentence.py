"""EMBED: a sentence encoder over an example's text, by sentence-transformers (extra `embed`)."""

import contextlib
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import ModelError
from tamis.model.load import LOADING_ERRORS, resolve_device
from tamis.representations.compute import BatchRows
from tamis.store import StoreDtype
from tamis.store.recipe import with_store_dtype

_CHARACTERS_A_TOKEN = 3  # only to cut batches


@dataclass(frozen=True, slots=True)
class Words:
    """A text and about how many tokens the encoder reads of it."""

    text: str
    n_tokens: int
    n_supervised: int = 0  # an encoder has no loss


@dataclass(frozen=True, slots=True)
class SentenceRecipe:
    """Embeddings of the conversation as lines of `role: content`."""

    encoder: str
    digest: str
    dim: int
    max_tokens: int
    device: str
    trust_remote_code: bool
    store_dtype: StoreDtype = "float16"
    what: str = "embedding"
    remedy: str = "use a smaller represent.encoder, or model.device=cpu"

    @classmethod
    def of(cls, encoder: str, *, device: str, trust_remote_code: bool, store_dtype: StoreDtype) -> "SentenceRecipe":
        """The recipe of an encoder, which is loaded to ask it for its length and width.

        ModelError for what is no encoder, or not a whole one.
        """
        device = str(resolve_device(device))
        model, digest = load_encoder(encoder, device, trust_remote_code)
        length = model.get_max_seq_length() or 512
        return cls(encoder, digest, model.get_embedding_dimension(), length, device, trust_remote_code, store_dtype)

    def to_dicts(self) -> list[dict[str, Any]]:
        """See Recipe."""
        recipe = {"kind": "embed", "encoder": self.digest, "max_tokens": self.max_tokens, "dim": self.dim}
        return [with_store_dtype(recipe, self.store_dtype)]

    def load(self, *, activation_checkpointing: bool) -> BatchRows:
        """See Recipe."""
        model, _ = load_encoder(self.encoder, self.device, self.trust_remote_code)

        def batch_rows(items: Sequence[Words]) -> np.ndarray:
            texts = [item.text for item in items]
            rows: np.ndarray = model.encode(texts, batch_size=len(texts), show_progress_bar=False)
            return rows.astype(np.float32)

        return batch_rows

    def words(self, text: str) -> Words:
        """A text as an item of this recipe."""
        return Words(text, min(self.max_tokens, 2 + len(text) // _CHARACTERS_A_TOKEN))


@lru_cache(maxsize=1)
def load_encoder(name: str, device: str, trust_remote_code: bool) -> tuple[Any, str]:
    """A sentence-transformers model from a folder or the hub, and its digest; the last one is kept.

    ModelError where there is none, where weights are missing (they would be random) or are pickles.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError('method embed needs sentence-transformers: pip install "tamis[embed]"')
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # the run has its own
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ModelError(f"cannot load a sentence encoder from {name!r}: there is no such folder")
    if Path(name).is_dir():
        _check_files(Path(name))
    try:
        model = SentenceTransformer(
            name, device=device, trust_remote_code=trust_remote_code, model_kwargs={"use_safetensors": True}
        )
        missing = _missing_weights(model)
        if model.encode(["one", "another text"], show_progress_bar=False).shape != (2, model.get_embedding_dimension()):
            raise ValueError("its embeddings have another length than it says")
    except LOADING_ERRORS as error:
        said = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in said:
            said = f"{name} brings code of its own; --trust-remote-code runs it, if you trust where it is from"
        raise ModelError(
            f"cannot load a sentence encoder from {name!r} (represent.encoder): expected a folder or a hub name that "
            f"sentence-transformers reads. The loader said: {said[:300]}"
        ) from error
    if missing:
        raise ModelError(
            f"{name}: the weights of {len(missing)} parameters are missing, the first is {missing[0]}: copy the "
            "encoder's files again"
        )
    return model, _digest(name, model)


def _check_files(folder: Path) -> None:
    for pickled in folder.rglob("pytorch_model.bin"):
        if not any(pickled.parent.glob("*.safetensors")):
            raise ModelError(f"{pickled}: weights as a pickle, which is not read; save this encoder as safetensors")
    if not any(p.name.startswith(("tokenizer", "vocab")) or p.suffix == ".model" for p in folder.rglob("*")):
        raise ModelError(f"{folder}: no tokenizer in it (tokenizer.json); copy the encoder's files again")


def _missing_weights(model: Any) -> list[str]:
    """Parameters of its transformer that the files lack, but for a pooler, which is not used."""
    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:
        return []
    _, info = type(transformer).from_pretrained(
        transformer.name_or_path, device_map="meta", use_safetensors=True, output_loading_info=True
    )
    return sorted(key for key in info["missing_keys"] if "pooler" not in key)


def _digest(name: str, model: Any) -> str:
    """128-bit digest (hex) of what defines the encoder: its files, or its commit on the hub."""
    digest = hashlib.blake2b(digest_size=16)
    folder = Path(name)
    if not folder.is_dir():
        commit = None
        with contextlib.suppress(AttributeError, IndexError):
            commit = model[0].auto_model.config._commit_hash
        if commit is None:
            raise ModelError(f"{name}: its commit on the hub is not known; download it and give its folder")
        return hashlib.blake2b(f"{name}@{commit}".encode(), digest_size=16).hexdigest()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "README"))):
        with path.open("rb") as file:
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
