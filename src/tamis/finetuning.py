"""Fine-tuning on a selection, by the loop of the warm-up: an adapter, or a whole model, out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from tamis.config import Config, load_config
from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.data.picked import read_picked
from tamis.data.selection import check_free, writing_folder
from tamis.errors import InputError
from tamis.inputs import Inputs, digest
from tamis.model.checkpoint import TrainSettings, finished_checkpoints, load_model_at
from tamis.model.load import fresh_model, quiet_peft, refuse_full, resolve_device, resolve_dtype
from tamis.model.train import Course, extent, train, training_tokens
from tamis.remote import Place, local, locate
from tamis.remote.lease import lock
from tamis.store import files
from tamis.warming import Stage, adapter, hyperparameters

# What settings say of picking is done with
_WITHOUT_PICKING: dict[str, Any] = {
    "data.target": [],
    "data.targets": {},
    "data.evaluation": [],
    "data.limit": None,
    "data.keep_duplicates": True,
    "pick": {},
    "score": {},
    "out": None,
}


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What is trained on, in pick order: examples, their tokens, and their weights where there are any."""

    examples: Sequence[Example]
    encoded: Sequence[Encoded]
    weights: Sequence[float] | None

    @property
    def n_supervised(self) -> int:
        """Tokens that count in the loss of one epoch."""
        return sum(encoded.n_supervised for encoded in self.encoded)


def learner(config: Config) -> Config:
    """The settings under which the rows are read for the model that is trained."""
    name = config.finetune.model
    if name is None:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"name": name, "revision": None})})


def training_rows(
    inputs: Inputs, examples: Sequence[Example], weights: Sequence[float | None] | None = None
) -> TrainingRows:
    """The examples that have a completion token for this model; those that have none are reported, by reason.

    A row without weight among rows with one, such as one that was included by name, has their mean.
    """
    kept, skipped = list[tuple[int, Encoded]](), list[tuple[Example, str]]()
    for place, example in enumerate(examples):
        encoded = inputs.encode(example)
        if isinstance(encoded, str) or not encoded.n_supervised:
            reason = encoded if isinstance(encoded, str) else f"no completion token in {encoded.n_tokens:,}"
            skipped.append((example, reason))
        else:
            kept.append((place, encoded))
    inputs.leave_out("selection, skipped", skipped)
    if not kept:
        raise InputError(f"none of the {len(examples):,} rows can be trained on: see the reasons above")
    given: list[float] | None = None
    if weights is not None:
        known = [weight for place, _ in kept if (weight := weights[place]) is not None]
        if not sum(known) > 0 or min(known) < 0:
            raise InputError(
                f"expected weights of 0 or more, not all of them 0, got {len(known):,} weights of "
                f"{min(known, default=0)} to {max(known, default=0)}: pick again, or set finetune.weighted=false"
            )
        mean = sum(known) / len(known)
        given = [mean if (weight := weights[place]) is None else weight for place, _ in kept]
    return TrainingRows([examples[place] for place, _ in kept], [encoded for _, encoded in kept], given)


def read_selection(
    path: Place, settings: str | None, overrides: Mapping[str, Any], note: Callable[[str], None]
) -> "Training":
    """The training on a selection's folder, by its own settings where no file of others is given; or on rows of a file.

    InputError where the folder's rows are not those that were picked.
    """
    is_selection = path.is_dir() and not (path / "dataset_info.json").is_file()  # which `datasets` saves
    picked = read_picked(local(path)) if is_selection else None
    start = settings or (str(local(path) / "config.yaml") if picked else None)
    config = learner(load_config(start, {**_WITHOUT_PICKING, "data.pool": [str(path)], **overrides}))
    inputs = Inputs(config, note)
    examples, weights = (picked.examples, picked.weights) if picked else (list(inputs.pool), None)
    return Training(config, inputs, training_rows(inputs, examples, weights), config.seed)


@dataclass(frozen=True, slots=True)
class Training:
    """One training with all that it depends on; `rows` are those of the model of `inputs`."""

    config: Config
    inputs: Inputs
    rows: TrainingRows
    seed: int

    @property
    def settings(self) -> TrainSettings:
        """Hyperparameters."""
        return hyperparameters(self.config.finetune, self.seed)

    @property
    def course(self) -> Course:
        """What the selection and the settings say of weights, order and steps."""
        finetune = self.config.finetune
        weights = self.rows.weights if finetune.weighted else None
        return Course(weights, finetune.steps, finetune.order == "shuffled", "finetune")

    @property
    def extent(self) -> tuple[int, int]:
        """Epochs begun, optimizer steps."""
        return extent(len(self.rows.encoded), self.settings, self.course)

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the model."""
        return training_tokens(self.rows.encoded, self.settings, self.course)

    def digest(self) -> str:
        """Of all that the trained weights depend on."""
        ids = [example.id for example in self.rows.examples]
        about_model = (self.inputs.base_digest, self.inputs.chat.fingerprint, self.inputs.dtype)
        return digest("fine-tuned", *about_model, adapter(self.config.finetune), self.settings, self.course, ids)

    def check(self) -> None:
        """InputError for a training that cannot be."""
        finetune = self.config.finetune
        if finetune.tuning == "full":
            refuse_full(self.inputs.source, "finetune")
        elif finetune.merged and self.inputs.source.quantization != "none":
            raise InputError(
                f"finetune.merged=true adds the adapter to the base model's weights, and those of model.quantization="
                f"{self.inputs.source.quantization} are rounded: leave finetune.merged out, and merge into the "
                "unquantised model with PEFT"
            )
        if self.extent[1] == 1 and finetune.warmup_ratio:
            raise InputError(
                f"a training on {len(self.rows.encoded):,} rows for one step has learning rate 0, because that of the "
                "first step is: more rows, epochs or steps, or finetune.warmup_ratio=0"
            )

    def run(
        self,
        folder: Place,
        advance: Callable[[int], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
        *,
        resumable: bool = False,
    ) -> nn.Module:
        """The trained model, in evaluation mode. If resumable, an interrupted training in `folder` goes on from its
        last finished epoch, and its checkpoints stay there; else nothing does."""
        self.check()
        if resumable and len(done := finished_checkpoints(folder)) == self.extent[0]:
            return load_model_at(self.inputs.source, done[-1])
        model = fresh_model(self.inputs.source, adapter(self.config.finetune), self.seed)
        train(
            model,
            self.rows.encoded,
            self.settings,
            folder,
            course=self.course,
            base_digest=self.inputs.base_digest if resumable else None,
            advance=advance,
            note=note,
        )
        return model


def finetune(training: Training, out: Place, stage: Stage, note: Callable[[str], None]) -> None:
    """Train, and write what was trained, whole or absent: adapter_model.safetensors as PEFT has it, or the files of a
    whole model; the tokenizer with the chat template that was trained with; config.yaml and manifest.json.

    An interrupted training goes on from its last epoch, whose checkpoint is in the workspace until all is written.
    """
    check_free(out)
    training.check()
    folder = locate(training.config.workspace) / "finetune" / training.digest()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"):
        if done := len(finished_checkpoints(folder)):
            note(f"fine-tune: {done} of {training.extent[0]} epochs were done before")
        with stage("fine-tune", training.n_tokens) as advance:
            model = training.run(folder, advance, note, resumable=True)
        with writing_folder(out) as temporary:
            _save(model, training, temporary)
        for path in folder.glob("epoch-*"):
            files.remove(path)


def _save(model: Any, training: Training, folder: Path) -> None:
    config, inputs = training.config, training.inputs
    is_adapter = config.finetune.tuning == "lora"
    if is_adapter and config.finetune.merged:
        with quiet_peft():
            model, is_adapter = model.merge_and_unload(), False
    elif not is_adapter:
        model = model.to(resolve_dtype(inputs.source.dtype, resolve_device(inputs.source.device)))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card: nothing but placeholders
    tokenizer = inputs.tokenizer
    tokenizer.chat_template = inputs.chat.template
    tokenizer.save_pretrained(folder)
    epochs, steps = training.extent
    record = {
        "kind": "adapter" if is_adapter else "model",
        "base": {"name": inputs.source.name, "digest": inputs.base_digest, "dtype": inputs.dtype},
        "template": inputs.chat.name,
        "training": asdict(training.settings) | {"epochs": epochs, "steps": steps},
        "rows": {
            "n": len(training.rows.examples),
            "supervised_tokens": training.rows.n_supervised,
            "weighted": training.course.weights is not None,
            "digest": digest([example.id for example in training.rows.examples]),
        },
        "left_out": inputs.left_out,
        "versions": {name: version(name) for name in ("tamis", "torch", "transformers", "peft")},
    }
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
