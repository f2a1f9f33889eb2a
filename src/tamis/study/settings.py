"""The settings of a study: those of a run, and the grid they are varied over.

targets: NAME: {query: FILES, test: FILES, task: numeric}
models, methods: names, or NAME: {settings of a run that differ}, as {less-512: {pick.method: less, represent.dim: 512}}
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from tamis.config import Config, absolute, read_config, set_key
from tamis.errors import InputError
from tamis.methods import REPRESENTATIONS, parse_method
from tamis.selectors import parse_budget
from tamis.settings import MAX_SEED, Amount, EvaluateConfig, Paths, Stage
from tamis.study.tables import BASELINES, LENGTH_MATCHED

Baseline = Literal["zero-shot", "random", "random balanced", "random length-matched", "full pool"]
Variants = dict[str, dict[str, Any]]


def _variants(value: Any) -> Any:
    """Names alone, one or several, have no settings of their own."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        names = [str(name) for name in value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"expected each once, got {', '.join(sorted(twice))} again")
        return {name: {} for name in names}
    if isinstance(value, dict):
        return {name: settings or {} for name, settings in value.items()}
    return value


class StudyTarget(Stage):
    """One capability: query rows that the methods see, test rows that none does, and how answers are scored."""

    query: Paths = Field(description="files of the few examples that show it")
    test: Paths = Field(description="files of rows that models are tested on")
    task: Literal["loss", "exact_match", "numeric", "choice", "f1", "code"] | None = Field(
        None, description="how an answer is scored; default: evaluate.task"
    )


class QuantileConfig(Stage):
    """The pool in the order in which the query rows, taking turns, choose it; cut into bins; the first rows of each
    trained on."""

    representations: list[str] = Field(min_length=1, description="whose similarity orders the pool, as [gradient, rds]")
    bins: int = Field(10, ge=2)
    rows: int = Field(ge=1, description="of each bin, the first so many are trained on")

    @field_validator("representations")
    @classmethod
    def _with_distances(cls, value: list[str]) -> list[str]:
        fitting = [name for name, known in REPRESENTATIONS.items() if known.makes != "ranking"]
        names = [parse_method(name).representation for name in value]
        for name in names:
            if name not in fitting:
                raise ValueError(f"expected representations with a similarity to each query row, among "
                                 f"{', '.join(fitting)}; got {name!r}")  # fmt: skip
        return [str(name) for name in names]


class GridConfig(Stage):
    """What is compared."""

    title: str = ""
    targets: dict[str, StudyTarget] = Field({}, description="NAME: {query, test, task}")
    models: Annotated[Variants, BeforeValidator(_variants)] = Field(
        {}, description="names or folders of models, or NAME: {settings}; default: model.name alone"
    )
    methods: Annotated[Variants, BeforeValidator(_variants)] = Field({}, description="methods, or NAME: {settings}")
    baselines: list[Baseline] = Field(["zero-shot", "random"], description=f"among {', '.join(BASELINES)}")
    length_of: str | None = Field(
        None, description="the method whose lengths random length-matched has; default: first"
    )
    budgets: list[Amount] = Field(["5%"], min_length=1, description="examples, as 500 or 5%, or tokens, as 200000tok")
    seeds: list[Annotated[int, Field(ge=0, le=MAX_SEED)]] = Field(
        [0, 1, 2], min_length=1, description="of the training, and of random picks; one training a seed"
    )
    full_pool_seeds: int = Field(1, ge=1, description="seeds that the full pool is trained with, as it takes longest")
    quantile: QuantileConfig | None = Field(None, description="the quantile experiment, where it is wanted")

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_budget(text)
        return value

    @model_validator(mode="after")
    def _whole(self) -> "GridConfig":
        for what, values in (("budgets", self.budgets), ("seeds", self.seeds), ("baselines", self.baselines)):
            if len(set(values)) < len(values):
                raise ValueError(f"{what}: expected each once, got {', '.join(map(str, values))}")
        if taken := set(self.methods) & set(BASELINES):
            raise ValueError(f"methods: {', '.join(sorted(taken))} is the name of a baseline; give it another name")
        if self.length_of is not None and LENGTH_MATCHED not in self.baselines:
            raise ValueError(f"length_of: only the baseline {LENGTH_MATCHED} looks at it, which is not asked for")
        if LENGTH_MATCHED in self.baselines:
            if not self.methods:
                raise ValueError(f"baselines: {LENGTH_MATCHED} needs a method whose lengths it has")
            if self.length_of is not None and self.length_of not in self.methods:
                raise ValueError(f"length_of: expected one of {', '.join(self.methods)}, got {self.length_of!r}")
        return self


# What may differ between methods, and between models; of the rest a study has one
_OF_METHODS = ("pick.", "represent.", "warmup.", "finetune.", "memory", "seed")
_OF_MODELS = (*_OF_METHODS, "model.")
_NOT_OF_METHODS = ("pick.budget", "pick.similarity", "finetune.model", "finetune.merged")
_NOT_OF_MODELS = ("pick.method", "pick.budget", "pick.options", "pick.similarity", "finetune.merged")
_WITHOUT_EFFECT = {
    "pick": ("method", "budget", "options", "similarity"),
    "evaluate": ("harness", "adapter", "include_path"),
    "finetune": ("merged",),
}
_PATHS = ("model.name", "model.template", "finetune.model", "represent.encoder", "warmup.checkpoints")


class StudyConfig(Config):
    """A study: a run's settings and the grid."""

    study: GridConfig = GridConfig()

    def check(self) -> None:
        """InputError for what no single setting shows."""
        if not self.study.targets:
            raise InputError("no target given: say study.targets, as NAME: {query: FILES, test: FILES}")
        if self.data.target or self.data.targets or self.data.evaluation:
            raise InputError("a study's targets are study.targets; leave data.target, .targets and .evaluation out")
        for group, keys in _WITHOUT_EFFECT.items():
            if given := [key for key in keys if key in getattr(self, group).model_fields_set]:
                raise InputError(
                    f"{group}.{given[0]} has no effect on a study as a whole: see study.methods and study.budgets"
                )
        if not (self.study.methods or self.study.baselines or self.study.quantile):
            raise InputError("nothing to compare: say study.methods, study.baselines or study.quantile")
        target = next(iter(self.study.targets))
        for model, settings in self.models.items():
            _check_variant(f"study.models.{model}", settings, _OF_MODELS, _NOT_OF_MODELS)
            self.run(model, target)
            for method, varied in self.study.methods.items():
                _check_variant(f"study.methods.{method}", varied, _OF_METHODS, _NOT_OF_METHODS)
                self.run(model, target, self.study.budgets[0], method)

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Settings of each model by its name in tables: of a model without settings that of its folder."""
        if not self.study.models:
            if self.model.name is None:
                raise InputError("no model given: say model.name=FOLDER or hub name, or study.models for several")
            return {_short(self.model.name): {}}
        found: dict[str, dict[str, Any]] = {}
        for name, settings in self.study.models.items():
            short = name if settings else _short(name)
            if short in found:
                raise InputError(
                    f"study.models: two would be called {short}; give them names, as {{small: {{model.name: FOLDER}}}}"
                )
            found[short] = settings or {"model.name": name}
        return found

    def run(
        self,
        model: str,
        target: str,
        budget: str | None = None,
        method: str | None = None,
        seed: int | None = None,
        *,
        plain: bool = False,
    ) -> Config:
        """The settings of one run. `method` names one of study.methods, or, if `plain`, is a method by itself.

        Query and test rows of all targets are protected, so that all targets have the same candidates.
        """
        given = self.model_dump(exclude_unset=True)
        tree = copy.deepcopy({key: value for key, value in given.items() if key not in ("study", "out")})
        variants = [self.models[model]]
        if method is not None:
            variants.append({"pick.method": method})
            variants.append({} if plain else self.study.methods[method])
        for variant in variants:
            for key, value in _flat(variant):
                set_key(tree, key, value)
        set_key(tree, "data.target", self.study.targets[target].query)
        protected = [file for one in self.study.targets.values() for file in (*one.query, *one.test)]
        set_key(tree, "data.evaluation", list(dict.fromkeys(protected)))
        if budget is not None:
            set_key(tree, "pick.budget", budget)
        if seed is not None:
            tree["seed"] = seed
        config = read_config(None, tree, Config, f"study, model {model}" + (f", method {method}" if method else ""))
        config.check_options()
        return config

    def to_yaml(self) -> str:
        """As a run's, with the paths of targets, models and methods made absolute."""
        tree = yaml.safe_load(super().to_yaml())
        for group, keys in _WITHOUT_EFFECT.items():
            tree[group] = {key: value for key, value in tree[group].items() if key not in keys}
        study = tree["study"]
        for target in study["targets"].values():
            target |= {key: [absolute(path) for path in target[key]] for key in ("query", "test")}
        study["models"] = {name: _placed(settings) for name, settings in self.models.items() if self.study.models}
        study["methods"] = {name: _placed(settings) for name, settings in self.study.methods.items()}
        return yaml.safe_dump(tree, sort_keys=False)

    def evaluation(self, target: str) -> EvaluateConfig:
        """How models are tested on a target."""
        task = self.study.targets[target].task
        return self.evaluate if task is None else self.evaluate.model_copy(update={"task": task})


def _short(name: str) -> str:
    return Path(name).absolute().name if Path(name).exists() else Path(name).name


def _check_variant(where: str, settings: Mapping[str, Any], allowed: tuple[str, ...], refused: tuple[str, ...]) -> None:
    for key, _ in _flat(settings):
        if key in refused or not key.startswith(allowed):
            raise InputError(
                f"{where}: {key} cannot differ here; expected settings of {', '.join(p.strip('.') for p in allowed)}, "
                f"but {', '.join(refused)}"
            )


def _placed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by "stage.key", local paths absolute."""
    placed = dict(_flat(settings))
    for key in _PATHS:
        if key in placed and Path(str(placed[key])).exists():
            placed[key] = str(Path(str(placed[key])).absolute())
    for key in ("pick.include", "pick.exclude"):
        if key in placed:
            files = [placed[key]] if isinstance(placed[key], str) else placed[key]
            placed[key] = [absolute(path) for path in files]
    return placed


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{pick: {method: x}}` and `{pick.method: x}` alike as ("pick.method", x)."""
    for key, value in settings.items():
        if isinstance(value, dict) and f"{prefix}{key}" in Config.model_fields:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_study(path: str | Path | None, overrides: Mapping[str, Any]) -> StudyConfig:
    """A study from a YAML file and {"study.key": value} overrides; InputError as `load_config`'s."""
    config = read_config(path, overrides, StudyConfig)
    config.check()
    return config
