"""Settings: one pydantic model per stage. YAML file, then KEY=VALUE arguments, then flags; unknown keys are refused."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from tamis.errors import InputError
from tamis.methods import REPRESENTATIONS, SELECTORS, Method, parse_method, parse_selector

# What PyYAML raises: besides its own errors, those of Python's dates, numbers and stack
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_SECRET = re.compile(r"://[^/@\s]*:[^/@\s]+@|\bhf_[A-Za-z0-9]{16,}|[?&](token|key|password|secret)=", re.IGNORECASE)
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


def _absolute(path: str) -> str:
    """A path that means the same from any working directory; a name on the hub stays as it is."""
    if not path.startswith("hf://"):
        return str(home(path).absolute())
    name, mark, query = path.removeprefix("hf://").partition("?")
    return f"hf://{Path(name).absolute()}{mark}{query}" if Path(name).is_dir() else path


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


class _Stage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class TargetConfig(_Stage):
    """One of several targets."""

    files: Paths = Field([], description="files of the few examples that show it")
    weight: float = Field(1.0, gt=0, description="its part of the budget, against the others'")


class DataConfig(_Stage):
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


class ModelConfig(_Stage):
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


class WarmupConfig(_Stage):
    """Warm-up (LESS, section 4.1). The defaults are the paper's; tiny models want a far larger learning rate."""

    checkpoints: str | None = Field(None, description="a finished warm-up's folder, used instead of a warm-up")
    share: Percentage = Field("5%", description="share of the pool it trains on")
    min_examples: int = Field(500, ge=1, description="but at least so many, where there are")
    tuning: Literal["lora", "full"] = Field("lora", description="what is trained: a LoRA adapter, or every weight")
    epochs: int = Field(4, ge=0, description="0: no warm-up; gradients are taken at the base model")
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

    @field_validator("share")
    @classmethod
    def _some(cls, value: str) -> str:
        if float(value.removesuffix("%")) == 0:
            raise ValueError(f"expected a percentage above 0, got {value!r}")
        return value

    @model_validator(mode="after")
    def _whole_steps(self) -> "WarmupConfig":
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"expected a batch_size that is a multiple of micro_batch_size, got {self.batch_size} "
                f"and {self.micro_batch_size}"
            )
        return self


class RepresentConfig(_Stage):
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


class ScoreConfig(_Stage):
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


class PickConfig(_Stage):
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


class Config(_Stage):
    """A whole run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    warmup: WarmupConfig = WarmupConfig()
    represent: RepresentConfig = RepresentConfig()
    score: ScoreConfig = ScoreConfig()
    pick: PickConfig = PickConfig()
    memory: str | None = Field(None, description="8GB: what similarities and features may take; default half of free")
    workspace: str = Field(".tamis", description="where checkpoints, features and similarities are kept")
    out: str | None = Field(None, description="folder for the selection")
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str | None) -> str | None:
        if value is not None:
            memory_bytes(value)
        return value

    @property
    def method(self) -> Method:
        """The method, by default one that suits what is given."""
        if self.pick.similarity is not None:
            return parse_selector(self.pick.method or "top_k")
        return parse_method(self.pick.method or ("less" if self.data.target or self.data.targets else "tagcos"))

    def to_yaml(self) -> str:
        """The settings as YAML that replays the run from any working directory: local paths are made absolute."""
        tree = self.model_dump()
        tree["data"]["pool"] = [_absolute(path) for path in self.data.pool]
        tree["data"]["target"] = [_absolute(path) for path in self.data.target]
        tree["data"]["evaluation"] = [_absolute(path) for path in self.data.evaluation]
        for target in tree["data"]["targets"].values():
            target["files"] = [_absolute(path) for path in target["files"]]
        tree["pick"]["method"] = self.method.name
        tree["pick"] |= {key: [_absolute(path) for path in tree["pick"][key]] for key in ("include", "exclude")}
        single = (
            ("model", "name"),
            ("model", "template"),
            ("warmup", "checkpoints"),
            ("represent", "encoder"),
            ("pick", "similarity"),
        )
        for group, key in single:
            if tree[group][key] is not None and Path(tree[group][key]).exists():
                tree[group][key] = str(Path(tree[group][key]).absolute())
        tree["workspace"] = str(Path(self.workspace).absolute())
        tree["out"] = self.out and str(Path(self.out).absolute())
        return yaml.safe_dump(tree, sort_keys=False)

    def unheeded(self) -> list[str]:
        """Settings other than their defaults that this method, or these other settings, leave without effect."""
        name = self.method.representation
        found = [
            f"represent.{key}"
            for key, value in self.represent
            if key not in ("batch_tokens", "shard_rows")
            and value != type(self.represent).model_fields[key].default
            and (name is None or key not in REPRESENTATIONS[name].heeds)
        ]
        if self.warmup.checkpoints is not None or name != "gradient":
            found += [f"warmup.{key}" for key in ("tuning", "epochs") if key in self.warmup.model_fields_set]
        if name == "embed" and self.model.device_map is not None:
            found.append("model.device_map")
        return found

    def check_options(self) -> None:
        """Refuse selector options the method does not have, values they cannot take, and settings it cannot heed."""
        method = self.method
        if not self.represent.normalize and method.representation is not None:
            if REPRESENTATIONS[method.representation].makes != "rows":
                raise InputError(f"represent.normalize=false: {method.representation} has no rows, so no norms")
            if SELECTORS[method.selector].distances:
                raise InputError(
                    f"represent.normalize=false: {method.selector} takes 1 − similarity for a distance, which wants "
                    "cosines; choose another selector"
                )
        allowed = SELECTORS[self.method.selector].options
        for key, value in self.pick.options.items():
            if key not in allowed:
                raise InputError(
                    f"method {self.method.name!r} has no option {key!r}; it has: {', '.join(allowed) or 'none'}"
                )
            choices = allowed[key]
            if isinstance(choices, type):
                is_fine = type(value) in (int, choices)
                expected = "a whole number" if choices is int else "a number"
            else:
                is_fine = any(type(value) is type(choice) and value == choice for choice in choices)
                expected = " or ".join(map(repr, choices))
            if not is_fine:
                raise InputError(f"pick.options.{key}: expected {expected}, got {str(value)[:80]!r}")


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """A Config from a YAML file and {"stage.key": value} overrides.

    Raises InputError naming the key, and the nearest known one where it is not known.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read this configuration file ({error.strerror})") from error
        except _NOT_YAML as error:
            raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise InputError(f"{path}: expected keys such as 'data:' and 'pick:', found a {type(loaded).__name__}")
        tree = loaded or {}
    for key, value in (overrides or {}).items():
        _set(tree, key, value)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, str(path) if path else "settings")) from error
    config.check_options()
    _check_texts(config, str(path) if path else "settings")
    return config


def _check_texts(config: Config, where: str) -> None:
    """Refuse text that no file or path can hold, and secrets: settings are written beside the results."""
    for name, text in _texts(config.model_dump()):
        key = _key(name)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(
                f"{where}: {key}: expected UTF-8 text without a zero character, got {text!r}; rename the file"
            )
        if _SECRET.search(text):
            raise InputError(
                f"{where}: {key}: expected no password or token, because settings are written beside results; leave "
                "it out, and log in with `hf auth login` or the environment variable HF_TOKEN"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a tree of settings, names of columns and options included, with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _texts(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)


def parse_override(text: str) -> tuple[str, Any]:
    """`pick.budget=10%` → ("pick.budget", "10%"); the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"expected KEY=VALUE, such as pick.budget=10%, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except _NOT_YAML:
        return key, value  # a bare % or @ is no YAML, but a fine string


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"cannot set {key!r}: {parent!r} is not a group of settings")
        tree = child
    tree[last] = value


def _key(key: str) -> str:
    """A key as one line, whatever a file calls it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in key)


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    place = _key(".".join(str(part) for part in first["loc"]))
    if first["type"] == "extra_forbidden":
        known = list(known_keys())
        near = difflib.get_close_matches(place, known, n=1, cutoff=0.5)
        near = near or [key for key in known if key.endswith("." + place.rsplit(".", 1)[-1])][:1]
        return f"{where}: unknown setting {place!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if first["type"] == "value_error":  # a message of our own, which names what was found
        return f"{where}: {place}: {first['ctx']['error']}"
    return f"{where}: {place}: {first['msg']} (got {first['input']!r})"


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterable[str]:
    """Every setting as "stage.key"."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name
