"""One training loop for warm-up and final fine-tuning: transformers' Trainer over tokenised examples.

The loss of a step is the mean over its examples of each example's mean cross-entropy, however the step is cut into
micro-batches. (Trainer's own loss weighs every token of the step alike.)
"""

import errno
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tamis.data.chat import Encoded
from tamis.errors import ModelError
from tamis.model.batch import Attempts, Batch, collate, example_losses, is_out_of_memory
from tamis.model.checkpoint import Checkpoint, TrainSettings, finished_checkpoints, save_checkpoint
from tamis.model.load import input_device, trainable
from tamis.remote import Place
from tamis.remote.folders import working_folder

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Course:
    """What a training may have beyond a warm-up.

    weights   of the rows' losses, scaled to a mean of 1; None: all count alike
    steps     optimizer steps, in place of the settings' epochs: the last epoch may end early
    shuffled  rows in a new order each epoch, or always as given
    stage     group of the settings that errors name
    """

    weights: Sequence[float] | None = None
    steps: int | None = None
    shuffled: bool = True
    stage: str = "warmup"


_WARM_UP = Course()
_SCRATCH = "trainer"  # below the folder of a training: what Trainer keeps to go on from
_Row = tuple[Encoded, float]


class _Rows(Dataset[_Row]):
    def __init__(self, encoded: Sequence[Encoded], weights: Sequence[float] | None) -> None:
        scale = 1.0 if weights is None else len(weights) / sum(weights)
        given = [1.0] * len(encoded) if weights is None else [weight * scale for weight in weights]
        self._rows = list(zip(encoded, given, strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> _Row:
        return self._rows[position]


def _to_inputs(rows: list[_Row]) -> dict[str, Tensor]:
    batch = collate([encoded for encoded, _ in rows], torch.device("cpu"))
    weights = torch.tensor([weight for _, weight in rows])
    return {"input_ids": batch.input_ids, "predicts": batch.predicts, "weights": weights}


class _Trainer(Trainer):
    loss_is_scaled_for_ga = True  # compute_loss divides by the examples of the whole step

    def __init__(self, stage: str, **given: Any) -> None:
        self._stage = stage
        super().__init__(**given)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[Any, int]:
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return samples, sum(len(sample["input_ids"]) for sample in samples)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        assert num_items_in_batch is not None
        losses = example_losses(model, Batch(inputs["input_ids"], inputs["predicts"]))
        if not torch.isfinite(losses).all():
            raise _not_finite(self._stage, "loss", self.state, self.args)
        return (losses * inputs["weights"].to(losses.device)).sum() / num_items_in_batch


def _not_finite(stage: str, what: str, state: TrainerState, args: TrainingArguments) -> ModelError:
    if state.global_step == 0:  # nothing is learnt yet
        why = "the model itself gives it: look for NaN or infinity in its weights, or set model.dtype=float32"
    else:
        why = f"lower {stage}.learning_rate (it is {args.learning_rate:g})"
    epoch = max(1, math.ceil(state.epoch or 0))
    return ModelError(f"{stage}: {what} not finite in epoch {epoch}, after {state.global_step} steps; {why}")


class _Recorder(TrainerCallback):
    """Keeps the epoch's learning rates, reports tokens done, saves a tamis checkpoint with each of Trainer's."""

    def __init__(
        self,
        stage: str,
        save: Callable[[int, nn.Module, torch.optim.Optimizer, float], None] | None,
        advance: Callable[[], None],
    ) -> None:
        self._stage, self._save, self._advance = stage, save, advance
        self._rates: list[float] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **now: Any
    ) -> None:
        self._rates.append(float(now["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **now: Any) -> None:
        self._advance()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **now: Any) -> None:
        if self._save is not None:
            optimizer = getattr(now["optimizer"], "optimizer", now["optimizer"])  # accelerate's wrapper
            moments = [t for held in optimizer.state.values() for t in held.values() if isinstance(t, Tensor)]
            if not all(torch.isfinite(t).all() for t in [*trainable(now["model"]).values(), *moments]):
                what = "adapter" if hasattr(now["model"], "peft_config") else "model"
                raise _not_finite(self._stage, f"{what} or its Adam moments", state, args)  # and keep none of it
            self._save(math.ceil(state.epoch - 1e-6), now["model"], optimizer, sum(self._rates) / len(self._rates))
            self._rates.clear()


def _arguments(
    settings: TrainSettings, course: Course, folder: Path, device: torch.device, *, save: bool
) -> TrainingArguments:
    micro = min(settings.micro_batch_size, settings.batch_size)
    if settings.batch_size % micro:
        raise ValueError(f"batch_size {settings.batch_size} must be a multiple of micro_batch_size {micro}")
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=course.steps or -1,  # -1: as many as the epochs have
        train_sampling_strategy="random" if course.shuffled else "sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_ratio,  # below 1: a share of the steps
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        activation_checkpointing=settings.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=device.type == "cuda",
        use_cpu=device.type == "cpu",
        save_strategy="epoch" if save else "no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        seed=settings.seed,
        data_seed=settings.seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one device: DataParallel would hide the model's layers
    return arguments


def train(
    model: nn.Module,
    encoded: Sequence[Encoded],
    settings: TrainSettings,
    folder: Place,
    *,
    course: Course = _WARM_UP,
    base_digest: str | None = None,
    advance: Advance = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Checkpoint]:
    """Train a model's trainable parameters in place, by AdamW with gradients clipped to norm 1 (Trainer's default).

    With base_digest: a checkpoint `<folder>/epoch-<k>` after each epoch, and an interrupted training goes on from its
    last one, to the same result on the same hardware; without: nothing is kept, and the list is empty. `advance` gets
    tokens done, each time about as many as a step has. Where memory runs out, training goes on from the last finished
    epoch with fewer rows at once, the step being the same to rounding; `note` gets a sentence about that.
    """
    # On the CPU: of a whole model a second copy is much
    start = {name: parameter.detach().to("cpu", copy=True) for name, parameter in trainable(model).items()}
    attempts = Attempts(advance)
    while True:
        try:
            return _train(model, encoded, settings, course, folder, base_digest, attempts.new())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Here the error is gone, and with it its traceback, which held on to the tensors of the failed step
        micro = min(settings.micro_batch_size, settings.batch_size)
        if micro == 1:
            raise ModelError(
                f"out of memory with single rows of up to {max(len(e.input_ids) for e in encoded):,} tokens: use a "
                f"smaller model.max_tokens, {course.stage}.activation_checkpointing=true or model.quantization=4bit"
            )
        smaller = max(n for n in range(1, micro) if settings.batch_size % n == 0)
        note(f"out of memory with {micro} rows at once: going on with {smaller}; a step stays as it is")
        settings = replace(settings, micro_batch_size=smaller)
        for name, parameter in trainable(model).items():
            parameter.grad = None
            parameter.data.copy_(start[name])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _train(
    model: nn.Module,
    encoded: Sequence[Encoded],
    settings: TrainSettings,
    course: Course,
    folder: Place,
    base_digest: str | None,
    advance: Advance,
) -> list[Checkpoint]:
    done = finished_checkpoints(folder) if base_digest is not None else []
    # Trainer's folder of an epoch is whole if ours, written after it, is there. After the last epoch it is gone: where
    # an epoch was removed since, all are trained again.
    n_epochs, n_steps = extent(len(encoded), settings, course)
    if done and len(done) < n_epochs and not (folder / _SCRATCH / f"checkpoint-{done[-1].step}").is_dir():
        done = []
    n_tokens = training_tokens(encoded, settings, course)
    advance(n_tokens * done[-1].step // n_steps if done else 0)
    if len(done) == n_epochs:
        return done
    with working_folder(folder, _SCRATCH) as (here, publish):
        scratch = here / _SCRATCH

        def save(epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
            assert base_digest is not None
            name = f"epoch-{epoch}"
            made = save_checkpoint(here / name, model, optimizer, mean_learning_rate=rate, base_digest=base_digest)
            publish(f"{_SCRATCH}/checkpoint-{made.step}", "trainer_state.json")
            publish(name, "checkpoint.json")

        logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
        trainer = _Trainer(
            course.stage,
            model=model,
            args=_arguments(settings, course, scratch, input_device(model), save=base_digest is not None),
            train_dataset=_Rows(encoded, course.weights),
            data_collator=_to_inputs,
            callbacks=[
                _Recorder(course.stage, save if base_digest is not None else None, lambda: advance(n_tokens // n_steps))
            ],
        )
        trainer.remove_callback(PrinterCallback)
        with _unwritten(here):
            trainer.train(resume_from_checkpoint=str(scratch / f"checkpoint-{done[-1].step}") if done else None)
        model.eval()
        shutil.rmtree(scratch, ignore_errors=True)
        publish(_SCRATCH, "")
    return finished_checkpoints(folder) if base_digest is not None else []


def extent(n_rows: int, settings: TrainSettings, course: Course = _WARM_UP) -> tuple[int, int]:
    """Epochs begun and optimizer steps made of a training on so many rows."""
    per_epoch = -(-n_rows // settings.batch_size)
    steps = course.steps or settings.epochs * per_epoch
    return -(-steps // per_epoch), steps


def training_tokens(encoded: Sequence[Encoded], settings: TrainSettings, course: Course = _WARM_UP) -> int:
    """Tokens that go through the model in such a training, padding not counted; of a broken-off epoch its share."""
    _, steps = extent(len(encoded), settings, course)
    return sum(len(e.input_ids) for e in encoded) * steps // -(-len(encoded) // settings.batch_size)


@contextmanager
def _unwritten(folder: Path) -> Iterator[None]:
    """A file that cannot be written is an OSError; torch and safetensors have other errors for it."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if not re.search(r"inline_container|PytorchStreamWriter|\(os error \d+\)", str(error)):
            raise
        text = "a checkpoint cannot be written, probably because no space is left on the device"
        raise OSError(errno.ENOSPC, text, str(folder)) from error
