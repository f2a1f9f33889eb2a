"""A whole run's settings: YAML file, then KEY=VALUE arguments, then flags; unknown keys are refused."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from tamis.errors import InputError
from tamis.methods import REPRESENTATIONS, SELECTORS, Method, parse_method, parse_selector
from tamis.remote import is_url
from tamis.settings import (
    MAX_SEED,
    DataConfig,
    EngineConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PickConfig,
    RepresentConfig,
    ScoreConfig,
    Stage,
    WarmupConfig,
    home,
    memory_bytes,
)

# What PyYAML raises: besides its own errors, those of Python's dates, numbers and stack
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_SECRET = re.compile(r"://[^/@\s]*:[^/@\s]+@|\bhf_[A-Za-z0-9]{16,}|[?&](token|key|password|secret)=", re.IGNORECASE)


def absolute(path: str) -> str:
    """A path that means the same from any working directory; a URL or a name on the hub stays as it is."""
    if is_url(path):
        return path
    if not path.startswith("hf://"):
        return str(home(path).absolute())
    name, mark, query = path.removeprefix("hf://").partition("?")
    return f"hf://{Path(name).absolute()}{mark}{query}" if Path(name).is_dir() else path


class Config(Stage):
    """A whole run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    warmup: WarmupConfig = WarmupConfig()
    represent: RepresentConfig = RepresentConfig()
    score: ScoreConfig = ScoreConfig()
    pick: PickConfig = PickConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()
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
        tree["data"]["pool"] = [absolute(path) for path in self.data.pool]
        tree["data"]["target"] = [absolute(path) for path in self.data.target]
        tree["data"]["evaluation"] = [absolute(path) for path in self.data.evaluation]
        for target in tree["data"]["targets"].values():
            target["files"] = [absolute(path) for path in target["files"]]
        tree["pick"]["method"] = self.method.name
        tree["pick"] |= {key: [absolute(path) for path in tree["pick"][key]] for key in ("include", "exclude")}
        single = (
            ("model", "name"),
            ("model", "template"),
            ("warmup", "checkpoints"),
            ("represent", "encoder"),
            ("pick", "similarity"),
            ("finetune", "model"),
            ("evaluate", "adapter"),
            ("evaluate", "include_path"),
        )
        for group, key in single:
            if tree[group][key] is not None and Path(tree[group][key]).exists():
                tree[group][key] = str(Path(tree[group][key]).absolute())
        tree["workspace"] = absolute(self.workspace)
        tree["out"] = self.out and absolute(self.out)
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


AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """A Config from a YAML file and {"stage.key": value} overrides.

    Raises InputError naming the key, and the nearest known one where it is not known.
    """
    config = read_config(path, overrides, Config)
    config.check_options()
    return config


def read_config(
    path: str | Path | None, overrides: Mapping[str, Any] | None, kind: type[AnyConfig], where: str = "settings"
) -> AnyConfig:
    """Settings of one kind from a file and overrides; errors as `load_config`'s, at `where` if there is no file."""
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
        set_key(tree, key, value)
    where = str(path) if path else where
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, where, kind)) from error
    try:
        _check_texts(config, where)
    except RecursionError as error:
        raise InputError(f"{where}: expected plain values, but one of them holds itself") from error
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
            yield key, str(name)
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


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set "stage.key" in a tree of settings."""
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


def _explain(error: ValidationError, where: str, kind: type[BaseModel]) -> str:
    first = error.errors()[0]
    place = _key(".".join(str(part) for part in first["loc"]))
    if first["type"] == "extra_forbidden":
        known = list(known_keys(kind))
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
