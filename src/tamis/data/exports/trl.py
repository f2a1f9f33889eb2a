"""TRL: rows of prompt and completion, and a script that fine-tunes on them."""

from pathlib import Path
from string import Template
from typing import Any

from tamis.data.example import Example
from tamis.data.exports.rows import Export, json_lines, kept_rows, learnt, lora_modules, messages, rows
from tamis.data.picked import Picked
from tamis.data.template import with_sentinels
from tamis.errors import InputError


def for_trl(picked: Picked, out: Path) -> Export:
    """Prompt and completion: all before the first learnt turn is prompt, so that earlier turns are not learnt.

    A row that begins with a learnt turn is left out: TRL needs a prompt. Of a last reply TRL learns, with a template
    without markers, also what the template writes after the end of turn.
    """

    picked, left = kept_rows(picked, "TRL", _without_prompt)

    def parts(example: Example) -> dict[str, Any]:
        first = _first_learnt(example)
        turns = messages(example, as_text=False, flags=False)
        return {"prompt": turns[:first], "completion": turns[first:]}

    made = rows(picked, parts)
    several = any(turn["role"] != "assistant" for row in made for turn in row["completion"])
    # With markers the loss ends where the turn does, not after a newline that the template writes behind it
    marked = picked.template is not None and with_sentinels(picked.template) is not None
    lost = left.lost
    if dropped := sum(not all(learnt(e)[learnt(e).index(True) :]) for e in picked.examples):
        lost.append(f"turns not to be learnt after a learnt one: TRL learns them, in {dropped:,} rows")
    script = _script(picked, several or marked, list(made[0])).encode()
    files = {"data.jsonl": json_lines(made), "train.py": script, **left.files}
    if picked.template is not None:
        files["chat_template.jinja"] = picked.template.encode()
    usage = f"`pip install 'trl>=1.0' peft`, then `python {out / 'train.py'}{'' if picked.model else ' --model NAME'}`"
    if several and not marked:
        usage += (
            "; conversations with several learnt turns need a chat template with {% generation %} markers, or of a "
            "family for which TRL has one (assistant_only_loss)"
        )
    return Export(files, usage, lost, left.n_left_out)


def _without_prompt(example: Example) -> str | None:
    return None if _first_learnt(example) else "since they begin with a learnt turn, and TRL needs a prompt"


def _first_learnt(example: Example) -> int:
    for place, message in enumerate(example.messages):
        if message.role == "assistant" and message.in_loss:
            return place
    raise InputError(f"row {example.id}: no assistant turn is learnt in it; leave this row out")


def _script(picked: Picked, assistant_only: bool, columns: list[str]) -> str:
    """The script: settings are those of `finetune`, written as Python literals."""
    tuning = picked.config.finetune
    micro = min(tuning.micro_batch_size, tuning.batch_size)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": tuning.batch_size // micro,
        "learning_rate": tuning.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": tuning.warmup_ratio,
        "weight_decay": tuning.weight_decay,
        "num_train_epochs": tuning.epochs,
        "max_length": picked.max_tokens or 2048,
        "completion_only_loss": True,
        "assistant_only_loss": assistant_only,
        "gradient_checkpointing": tuning.activation_checkpointing,
        "train_sampling_strategy": "sequential" if tuning.order == "picked" else "random",
        "seed": picked.config.seed,
        "report_to": "none",
    }
    lora = {
        "r": tuning.lora_rank,
        "lora_alpha": tuning.lora_alpha,
        "lora_dropout": tuning.lora_dropout,
        "target_modules": lora_modules(tuning.lora_targets),
        "task_type": "CAUSAL_LM",
    }
    return _SCRIPT.substitute(
        model=f"default={picked.model!r}" if picked.model else "required=True",
        revision=repr(None if picked.config.finetune.model else picked.config.model.revision),
        steps=repr(tuning.steps or -1),
        columns="".join(f'            "{name}": {_FEATURES[name]},\n' for name in columns),
        settings=_arguments(settings),
        trust=repr(picked.config.model.trust_remote_code),
        lora="LoraConfig(\n" + _arguments(lora) + "    )"
        if tuning.tuning == "lora"
        else "None  # all weights are trained",
    )


def _arguments(values: dict[str, Any]) -> str:
    return "".join(f"        {name}={value!r},\n" for name, value in values.items())


_FEATURES = {
    "id": 'Value("string")',
    "source": 'Value("string")',
    "prompt": "List(Json())",
    "completion": "List(Json())",
    "tools": 'Value("string")',
    "weight": 'Value("float64")',
}
_SCRIPT = Template('''"""Fine-tune a model with TRL on the rows beside this script (written by `tamis export`)."""

import argparse
from pathlib import Path

import torch
from datasets import Features, Json, List, Value, load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", $model, help="folder or hub name")
    parser.add_argument("--revision", default=$revision)
    parser.add_argument("--out", default="tuned", help="folder for the tuned model")
    parser.add_argument("--max-steps", type=int, default=$steps, help="-1: as the epochs say")
    given = parser.parse_args()

    # Json: each turn keeps its own keys, where a plain column would give every row the keys of all others
    features = Features(
        {
$columns        }
    )
    rows = load_dataset("json", data_files=str(HERE / "data.jsonl"), split="train", features=features)
    tokenizer = AutoTokenizer.from_pretrained(given.model, revision=given.revision, trust_remote_code=$trust)
    template = HERE / "chat_template.jinja"
    if template.exists():  # the one that the rows were selected with
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    on_gpu = torch.cuda.is_available()
    settings = SFTConfig(
        output_dir=given.out,
        max_steps=given.max_steps,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        model_init_kwargs={"revision": given.revision, "trust_remote_code": $trust},
$settings    )
    lora = $lora
    trainer = SFTTrainer(given.model, args=settings, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
''')
