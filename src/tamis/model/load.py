"""Base models, tokenizers and LoRA adapters, from a local folder or the Hugging Face hub."""

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tamis.errors import InputError, ModelError
from tamis.remote import is_url, local, locate

Dtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["none", "8bit", "4bit"]

# What loaders raise for files that are missing, cut or of another kind
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError, SafetensorError)

ATTENTION_LAYERS = (
    {"q_proj", "k_proj", "v_proj", "o_proj"},  # Llama, Mistral, Qwen, Gemma, OLMo
    {"qkv_proj", "o_proj"},  # Phi-3
    {"q_proj", "k_proj", "v_proj", "dense"},  # Phi-2
    {"q_proj", "k_proj", "v_proj", "out_proj"},  # OPT, GPT-Neo, GPT-J
    {"query_key_value", "dense"},  # GPT-NeoX, Falcon, BLOOM
    {"c_attn", "c_proj"},  # GPT-2
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from and how it is to be held.

    quantization   of the base model's Linear layers, by bitsandbytes: 8bit is LLM.int8 without outlier columns (which
                   are found in a whole batch, so a row would depend on its neighbours); 4bit is NF4, doubly quantised
    device_map     module → device, or how to spread the model over devices, as transformers takes it; tuples of pairs
                   so that it can be compared
    """

    name: str
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    quantization: Quantization = "none"
    device_map: str | tuple[tuple[str, str | int], ...] | None = None

    @property
    def location(self) -> str:
        """What a loader is given: the name, or the local copy of a folder that is a URL."""
        return str(local(locate(self.name))) if is_url(self.name) else self.name


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but this PyTorch sees no GPU: use --device cpu")
    return found


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU and bfloat16 on a GPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]


def number_format(source: ModelSource) -> str:
    """What the base model is held in, as bfloat16, or "bfloat16, 4bit". Where it is said outright, no GPU is needed."""
    device = torch.device("cuda") if source.device.startswith("cuda") else resolve_device(source.device)
    dtype = str(resolve_dtype(source.dtype, device)).removeprefix("torch.")
    return dtype if source.quantization == "none" else f"{dtype}, {source.quantization}"


def check_number_format(source: ModelSource, expected: str) -> None:
    """InputError where this process would hold the model in another number format than the one that started the run."""
    if (found := number_format(source)) != expected:
        raise InputError(
            f"{source.name}: where the run was started the model is held in {expected}, here in {found}: say which, "
            "with model.device=cuda or cpu and model.dtype"
        )


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise ModelError(_cannot(source, "tokenizer", error)) from error


def load_base(source: ModelSource) -> nn.Module:
    """The base model in evaluation mode, on its device or devices, its parameters frozen.

    ModelError for a model that is not there, not whole (weights that the files lack would be random), or would be kept
    on disk or in the CPU's memory beside a GPU. Not covered: models over several GPUs are written for, but untried.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    device = resolve_device(source.device)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # the run has its own
    try:
        load: Any = AutoModelForCausalLM.from_pretrained
        model, info = load(
            source.location,
            revision=source.revision,
            dtype=resolve_dtype(source.dtype, device),
            trust_remote_code=source.trust_remote_code,
            device_map=_device_map(source, device),
            quantization_config=_quantization(source, resolve_dtype(source.dtype, device)),
            use_safetensors=True,  # other weights are pickles
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise ModelError(_cannot(source, "causal language model", error)) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{source.name}: the weights of {len(missing)} parameters are missing, the first is {missing[0]}: "
            "copy the model's files again"
        )
    _refuse_offload(source, model)
    for module in model.modules():
        # On a CPU bitsandbytes would repack the weights at the first pass without gradients, and has no way back
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    frozen: nn.Module = model.requires_grad_(False)
    return frozen.eval()


def refuse_full(source: ModelSource, stage: str = "warmup") -> None:
    """InputError for a model that is held in a way in which it cannot be trained as a whole."""
    if source.quantization != "none":
        raise InputError(
            f"{stage}.tuning=full trains all weights, and those of model.quantization={source.quantization} are "
            f"rounded to integers, which have no gradient: expected model.quantization=none, or {stage}.tuning=lora"
        )
    if source.device_map is not None:
        raise InputError(
            f"{stage}.tuning=full is for a model on one device, got model.device_map={source.device_map}: "
            f"leave it out, or use {stage}.tuning=lora"
        )


def load_full(source: ModelSource) -> nn.Module:
    """The base model to be trained as a whole: every parameter trainable, in float32 whatever the source's dtype."""
    refuse_full(source)
    return load_base(replace(source, dtype="float32")).requires_grad_(True)


def _device_map(source: ModelSource, device: torch.device) -> str | dict[str, Any]:
    if source.device_map is None:
        return {"": str(device)}
    return source.device_map if isinstance(source.device_map, str) else dict(source.device_map)


def _quantization(source: ModelSource, dtype: torch.dtype) -> Any:
    if source.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f'model.quantization={source.quantization} needs bitsandbytes: pip install "tamis[bnb]"')
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if source.quantization == "8bit":
        return make(load_in_8bit=True, llm_int8_threshold=0.0)
    return make(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _refuse_offload(source: ModelSource, model: nn.Module) -> None:
    """accelerate brings offloaded weights in for the forward pass only: there is nothing to differentiate through."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise ModelError(
            f"{source.name}: with model.device_map={source.device_map} a part of it would lie on "
            f"{'disk' if 'disk' in places else 'the CPU'}, where no gradient can be taken: use "
            "model.quantization=4bit, a smaller model or more GPUs"
        )


def input_device(model: nn.Module) -> torch.device:
    """Where the model wants its tokens."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return weight.device


def empty_model(source: ModelSource) -> nn.Module:
    """The base model's layers, frozen, without any weights when made on the meta device."""
    from transformers import AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config
    model: nn.Module = make(_config(source), trust_remote_code=source.trust_remote_code)
    return model.requires_grad_(False)


def max_positions(source: ModelSource) -> int | None:
    """Tokens the model has positions for, where its configuration says."""
    positions = getattr(_config(source), "max_position_embeddings", None)
    return int(positions) if positions else None


def hidden_size(source: ModelSource) -> int:
    """Width of the model's last hidden layer, as it comes out (OPT may project it)."""
    config = _config(source).get_text_config()
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def _config(source: ModelSource) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise ModelError(_cannot(source, "model", error)) from error


def _cannot(source: ModelSource, what: str, error: Exception) -> str:
    if source.name.startswith((".", "/", "~")) and not Path(source.name).is_dir():
        return f"cannot load a {what} from {source.name!r}: there is no such folder"
    said = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in said:
        return f"{source.name} brings code of its own; --trust-remote-code runs it, if you trust where it is from"
    if (Path(source.name) / "adapter_config.json").is_file() and not (Path(source.name) / "config.json").is_file():
        return f"{source.name} is a LoRA adapter, expected its base model; an adapter goes to --checkpoints"
    return (
        f"cannot load a {what} from {source.name!r}: expected a folder in Hugging Face format or a hub name. "
        f"The loader said: {said if len(said) <= 300 else said[:300] + ' …'}"
    )


def model_digest(source: ModelSource) -> str:
    """128-bit digest (hex) of what defines the base model: its files, or its commit on the hub."""
    folder = Path(source.location)
    digest = hashlib.blake2b(digest_size=16)
    if not folder.is_dir():
        digest.update(f"{source.name}@{_config(source)._commit_hash}".encode())
        return digest.hexdigest()
    files = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" or p.name == "config.json")
    if not any(p.suffix == ".safetensors" for p in files):
        raise ModelError(f"{folder}: expected config.json and *.safetensors, found no weights in safetensors format")
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def lora_layers(model: nn.Module, targets: str | list[str]) -> str | list[str]:
    """What PEFT is to adapt: `attention` (query, key, value, output), `all-linear`, or names of one's own."""
    if targets == "all-linear":
        return "all-linear"
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
    if targets == "attention":
        for family in ATTENTION_LAYERS:
            if family <= names:
                return sorted(family)
        raise ModelError(
            f"the attention layers of {type(model).__name__} have names tamis does not know; its modules end in "
            f"{', '.join(sorted(names))}. Name them (warmup.lora_targets=[...]) or use warmup.lora_targets=all-linear"
        )
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if missing := [name for name in wanted if name not in names]:
        raise ModelError(
            f"{type(model).__name__} has no module named {missing[0]!r}; it has {', '.join(sorted(names))}"
        )
    return wanted


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Shape of an adapter: ΔW = alpha/rank · B A on the target layers."""

    rank: int
    alpha: int
    dropout: float
    targets: str | list[str]


def add_lora(model: nn.Module, lora: LoraSettings, seed: int) -> nn.Module:
    """A fresh, seeded LoRA adapter around a base model (which is changed); adapter weights are float32."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora_layers(model, lora.targets),
        task_type="CAUSAL_LM",
    )
    with quiet_peft():
        return get_peft_model(model, config)


def fresh_model(source: ModelSource, lora: LoraSettings | None, seed: int) -> nn.Module:
    """The base model with a new adapter, or to be trained as a whole."""
    return load_full(source) if lora is None else add_lora(load_base(source), lora, seed)


def attach_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """A base model with a saved adapter around it, its weights trainable and in the base model's dtype."""
    from peft import PeftModel

    try:
        with quiet_peft():
            return PeftModel.from_pretrained(
                model,
                str(folder),
                is_trainable=True,
                autocast_adapter_dtype=False,
            ).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{folder}: the adapter does not fit {type(model).__name__}: {error}") from error


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT reads a model attribute that transformers deprecates, and minds a base's path: nothing a user could mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path` was renamed")
        yield


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by stable name: PEFT's name for the saved adapter, without the adapter's own."""
    return {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}


def enable_activation_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass of a model in evaluation mode: less memory, a third more time.

    transformers recomputes only in training mode, which would switch dropout on; so training mode is set on the
    checkpointed layers alone and not on what is inside them.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(f"{type(model).__name__} has no layers that can recompute their activations")
    for layer in layers:
        if rates := [
            name for name, rate in vars(layer).items() if "drop" in name and isinstance(rate, float) and rate > 0
        ]:
            raise ModelError(
                f"activation checkpointing would switch on {rates[0]} of {type(layer).__name__}: "
                "set warmup.activation_checkpointing=false"
            )
    model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    model.eval()
    for layer in layers:
        layer.training = True
