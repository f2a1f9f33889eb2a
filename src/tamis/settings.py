"""The settings of each stage, a pydantic model each; `config` puts them together and reads them."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tamis.methods import SELECTORS, parse_method, parse_selector

MAX_SEED = 2**32 - 1  # of NumPy


def _percentage(value: Any) -> str:
    number = re.fullmatch(r"(\d{1,3}(?:\.\d{1,18})?)%", str(value), re.ASCII)
    if number is None or float(number[1]) > 100:
        raise ValueError(f"expected a percentage such as 5%, got {value!r}")
    return str(value)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def home(path: str) -> Path:
    """A path with a leading ~ or ~user as the shell means it; a user there is not stays as written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises where there is no such user


def memory_bytes(text: str) -> int:
    """8GB or 500 MB as bytes (of 1024³ and 1024² each)."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT])i?B?\s*", text, re.ASCII | re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"expected an amount of memory such as 8GB or 500MB, got {text!r}")
    return int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2].upper())))


def _amount(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Amount = Annotated[str, BeforeValidator(_amount)]
Paths = Annotated[list[str], BeforeValidator(_as_list)]
Percentage = Annotated[str, BeforeValidator(_percentage)]


class Stage(BaseModel):
    """Unknown keys are refused; nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class TargetConfig(Stage):
    """One of several targets."""

    files: Paths = Field([], description="files of the few examples that show it")
    weight: float = Field(1.0, gt=0, description="its part of the budget, against the others'")


class DataConfig(Stage):
    """What is read, and how."""

    pool: Paths = Field([], description="candidate files (globs allowed), or hf://NAME?config=C&split=S&revision=R")
    target: Paths = Field([], description="files of the few examples that show the capability")
    targets: dict[str, TargetConfig] = Field(
        {}, description="NAME: {files, weight}, in place of target: several, each with a part of the budget"
    )
    evaluation: Paths = Field([], description="files of test rows that no pick may give away")
    fields: dict[str, Annotated[list[str], BeforeValidator(_as_list)]] = Field(
        {}, description="NAME: COLUMN(s), where fields are not recognised"
    )
    format: str | None = Field(None, description="read every row as this format, such as preference")
    on_bad_row: Literal["skip", "error"] = Field(
        "skip", description="a row that cannot be read: skip and report, or stop"
    )
    max_bad_rows: Percentage = Field("5%", description="more bad rows than this share of a file stop the run")
    limit: int | None = Field(None, ge=1, description="only the first rows of the pool, for trial runs")
    keep_duplicates: bool = Field(False, description="equal rows are candidates more than once")

    @model_validator(mode="after")
    def _one_way(self) -> "DataConfig":
        if self.target and self.targets:
            raise ValueError("expected target or targets, got both; name the one among the others")
        return self


class ModelConfig(Stage):
    """The base model that looks at the data."""

    name: str | None = Field(None, description="folder in Hugging Face format, or hub name")
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on CPU, bfloat16 on GPU")
    device: str = "auto"
    quantization: Literal["none", "8bit", "4bit"] = Field("none", description="of the base model, by bitsandbytes")
    device_map: str | dict[str, str | int] | None = Field(
        None, description="auto, balanced or {module: device}: a model spread over several GPUs, in place of device"
    )
    trust_remote_code: bool = False
    template: str | None = Field(None, description="'plain', a jinja file, or none for the tokenizer's own")
    max_tokens: int | None = Field(None, ge=8, description="default min(2048, the model's positions)")

    @model_validator(mode="after")
    def _one_place(self) -> "ModelConfig":
        if self.device_map is not None and self.device != "auto":
            raise ValueError(f"expected device or device_map, got {self.device!r} and {self.device_map!r}")
        return self


class EngineConfig(Stage):
    """Where features, similarities, clusters and a study's cells are computed."""

    kind: Literal["auto", "local", "ray"] = Field("auto", description="auto: ray where workers or address are given")
    address: str | None = Field(None, description="of a Ray cluster: auto or HOST:PORT; none: this host, by itself")
    workers: int | str | None = Field(
        None, description="processes, each with its model: 4, or 2-16 as there is work; by default one a GPU, or CPU"
    )
    gpus_per_worker: int | None = Field(
        None,
        ge=0,
        description="of each of Ray's workers; by default one where the cluster has any, more for device_map",
    )
    threads_per_worker: int | None = Field(None, ge=1, description="threads of a worker, and CPUs it takes from Ray")

    @model_validator(mode="after")
    def _sensible(self) -> "EngineConfig":
        few, many = self.pool_size or (1, 1)
        if not 1 <= few <= many:
            raise ValueError(f"expected workers such as 4, or 2-16, got {self.workers!r}")
        if self.kind == "local" and (many > 1 or self.address is not None):
            raise ValueError("expected engine.kind=ray with engine.workers or engine.address: local is this process")
        return self

    @property
    def is_ray(self) -> bool:
        """Whether work is done by Ray's workers."""
        return self.kind == "ray" or (self.kind == "auto" and (self.address or self.workers) is not None)

    @property
    def pool_size(self) -> tuple[int, int] | None:
        """Fewest and most workers, where a number is given."""
        if self.workers is None:
            return None
        few, dash, many = str(self.workers).partition("-")
        if not (few + (many if dash else "1")).isdecimal() or len(few + many) > 9:
            raise ValueError(f"expected workers such as 4, or 2-16, got {self.workers!r}")
        return int(few), int(many if dash else few)


class TrainingConfig(Stage):
    """What warm-up and fine-tuning have in common. The defaults are the paper's (LESS, section 4.1)."""

    tuning: Literal["lora", "full"] = Field("lora", description="what is trained: a LoRA adapter, or every weight")
    epochs: int = Field(4, ge=0, description="passes over the rows")
    learning_rate: float = Field(2e-5, gt=0)
    batch_size: int = Field(32, ge=1)
    micro_batch_size: int = Field(4, ge=1, description="rows through the model at once; divides batch_size")
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    lora_rank: int = Field(128, ge=1)
    lora_alpha: int = Field(512, gt=0)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    lora_targets: str | list[str] = Field("attention", description="attention, all-linear, or module names")
    activation_checkpointing: bool = Field(False, description="less memory, a third more time; for features too")

    @model_validator(mode="after")
    def _whole_steps(self) -> "TrainingConfig":
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"expected a batch_size that is a multiple of micro_batch_size, got {self.batch_size} "
                f"and {self.micro_batch_size}"
            )
        return self


class WarmupConfig(TrainingConfig):
    """Warm-up. Tiny models want a far larger learning rate."""

    checkpoints: str | None = Field(None, description="a finished warm-up's folder, used instead of a warm-up")
    share: Percentage = Field("5%", description="share of the pool it trains on")
    min_examples: int = Field(500, ge=1, description="but at least so many, where there are")
    epochs: int = Field(4, ge=0, description="0: no warm-up; gradients are taken at the base model")

    @field_validator("share")
    @classmethod
    def _some(cls, value: str) -> str:
        if float(value.removesuffix("%")) == 0:
            raise ValueError(f"expected a percentage above 0, got {value!r}")
        return value


class FinetuneConfig(TrainingConfig):
    """Training on a selection: the same loop, the same defaults."""

    model: str | None = Field(None, description="model to train: folder or hub name, if not the one that selected")
    epochs: int = Field(4, ge=1, description="passes over the selection")
    steps: int | None = Field(None, ge=1, description="so many optimizer steps, however many rows, in place of epochs")
    order: Literal["shuffled", "picked"] = Field("shuffled", description="anew each epoch, or always as picked")
    weighted: bool = Field(True, description="rows count by the selector's weights, where it gives any")
    merged: bool = Field(False, description="write a whole model, the adapter added to its weights")


class RepresentConfig(Stage):
    """What an example looks like."""

    checkpoints: list[int] | None = Field(
        None, description="gradient: which of the checkpoints, as [4] or [-1], the last; default all"
    )
    adam: Literal["torch", "less", "sgd", "sign"] = Field("torch", description="step direction of pool examples")
    projection: Literal["sketch", "rademacher", "none"] = "sketch"
    dim: int = Field(8192, ge=1)
    projection_seed: int = Field(0, ge=0, le=MAX_SEED)
    normalize: bool = Field(True, description="false: dot products, with the rows' norms, in place of cosines")
    store_dtype: Literal["float16", "int8", "sign"] = Field(
        "float16", description="how pool rows are kept: 2, 1 or ⅛ bytes a number"
    )
    encoder: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="embed: folder or hub name of a sentence encoder"
    )
    smoothing: float = Field(10_000, gt=0, description="dsir: n-grams of the pool that are added to a target's")
    prefer: Literal["highest", "lowest", "middle"] = Field(
        "highest", description="loss, perplexity, ifd: which rows come first"
    )
    batch_tokens: int = Field(4096, ge=1, description="padded tokens in one batch")
    shard_rows: int = Field(512, ge=1, description="rows in one shard: what a crash may cost")

    @field_validator("checkpoints")
    @classmethod
    def _some(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and (not value or 0 in value):
            raise ValueError(f"expected checkpoints counted from 1, or from the last as -1, got {value}")
        return value


class ScoreConfig(Stage):
    """How firm the picks are: `tamis score` with draws of the target."""

    bootstrap: int = Field(0, ge=0, description="draws of target rows that tell how firm each pick is; 0: none")
    projection_seeds: int = Field(1, ge=1, description="projections, from projection_seed on, that take turns")

    @model_validator(mode="after")
    def _enough(self) -> "ScoreConfig":
        if self.bootstrap and self.bootstrap < max(2, self.projection_seeds):
            raise ValueError(
                f"expected a bootstrap of 2 draws or more, and one for each of projection_seeds "
                f"({self.projection_seeds}); got {self.bootstrap}"
            )
        return self


class PickConfig(Stage):
    """Which examples to take."""

    method: str | None = Field(None, description="default: less with a target, tagcos without")
    budget: Amount = Field("5%", description="500 (examples), 5% (of usable rows) or 200000tok (supervised tokens)")
    options: dict[str, Any] = Field({}, description="the selector's own options, such as reduce: max")
    similarity: str | None = Field(None, description="a .npy [target, pool] of one's own, in place of a representation")
    include: Paths = Field([], description="files of ids or row_ids, one a line: taken first, whatever the method says")
    exclude: Paths = Field([], description="files of ids or row_ids, one a line: never taken")
    min_tokens: int | None = Field(None, ge=1, description="rows with fewer supervised tokens are no candidates")
    max_tokens: int | None = Field(None, ge=1, description="rows with more supervised tokens are no candidates")
    quotas: dict[str, Amount] = Field({}, description="SOURCE: at most 500, 20% (of the budget) or 9000tok of it")
    floors: dict[str, Amount] = Field({}, description="SOURCE: at least so much of it")
    near_duplicates: float | None = Field(
        None, gt=0, le=1, description="skip rows this similar to one picked (Jaccard similarity of 5 words), as 0.8"
    )
    keep_leaks: bool = Field(False, description="rows that share words with target or evaluation rows stay candidates")

    @field_validator("method")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value not in (None, *SELECTORS):
            parse_method(str(value))
        return value

    @model_validator(mode="after")
    def _fitting(self) -> "PickConfig":
        if self.method is not None:
            (parse_method if self.similarity is None else parse_selector)(self.method)
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"expected min_tokens up to max_tokens, got {self.min_tokens} and {self.max_tokens}")
        return self


class EvaluateConfig(Stage):
    """How a model is scored on test rows."""

    task: Literal["loss", "exact_match", "numeric", "choice", "f1", "code"] = Field(
        "loss", description="what an answer is scored by; loss: by the mean loss alone"
    )
    max_new_tokens: int = Field(256, ge=1, description="an answer ends there, if not before")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest token each time; above: sampled, by the seed")
    batch_tokens: int = Field(4096, ge=1, description="padded tokens in one batch, those still to be written included")
    limit: int | None = Field(None, ge=1, description="only the first rows of the test set, for trial runs")
    run_code: bool = Field(False, description="task code: run what the model writes, in a sandbox")
    adapter: str | None = Field(None, description="folder of a PEFT adapter that belongs to the model")
    harness: Paths = Field([], description="tasks of lm-eval that are run too")
    include_path: str | None = Field(None, description="folder of lm-eval task files of one's own, whose Python runs")
