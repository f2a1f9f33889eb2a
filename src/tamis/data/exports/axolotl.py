"""Axolotl: a configuration with the selection as its data set."""

import re
from pathlib import Path
from typing import Any

import yaml

from tamis.data.exports.rows import Export, lora_modules, order_lost, parquet_bytes
from tamis.data.picked import Picked


def for_axolotl(picked: Picked, out: Path) -> Export:
    """https://docs.axolotl.ai/docs/dataset-formats/conversation.html"""
    tuning = picked.config.finetune
    config: dict[str, Any] = {"base_model": picked.model} if picked.model else {}
    template: dict[str, str] = {}
    files = {"data.parquet": parquet_bytes(picked)}
    if picked.template is not None:
        files["chat_template.jinja"] = _without_markers(picked.template).encode()
        template = {"chat_template": "jinja", "chat_template_jinja": str(out / "chat_template.jinja")}
    config |= template
    config["datasets"] = [
        {
            **template,
            "path": str(out / "data.parquet"),
            "ds_type": "parquet",
            "type": "chat_template",
            "field_messages": "messages",
            "message_field_training": "train",
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        }
    ]
    if tuning.tuning == "lora":
        config |= {"adapter": "lora", "lora_r": tuning.lora_rank, "lora_alpha": tuning.lora_alpha}
        config |= {"lora_dropout": tuning.lora_dropout} | _axolotl_targets(tuning.lora_targets)
    steps = {"num_epochs": tuning.epochs} if tuning.steps is None else {"max_steps": tuning.steps}
    micro = min(tuning.micro_batch_size, tuning.batch_size)
    config |= {
        "sequence_len": picked.max_tokens or 2048,
        **steps,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": tuning.batch_size // micro,
        "learning_rate": tuning.learning_rate,
        "lr_scheduler": "linear",
        "warmup_ratio": tuning.warmup_ratio,
        "weight_decay": tuning.weight_decay,
        "optimizer": "adamw_torch",
        "seed": picked.config.seed,
        "output_dir": "./outputs",
    }
    lost = [] if picked.model else ["no model was used to select: add `base_model:` to axolotl.yaml"]
    lost += order_lost(picked, "Axolotl")
    files["axolotl.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    return Export(files, f"`axolotl train {out / 'axolotl.yaml'}`", lost)


def _axolotl_targets(targets: str | list[str]) -> dict[str, Any]:
    return {"lora_target_linear": True} if targets == "all-linear" else {"lora_target_modules": lora_modules(targets)}


def _without_markers(template: str) -> str:
    """The template without {% generation %}: Axolotl finds the learnt turns by itself, and reads plain Jinja only."""
    return re.sub(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}", r"{%\1 if true %}{% endif \2%}", template)
