"""Loading models and adapters; what is wrong is said with what to do."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaForCausalLM

from tamis.errors import ModelError
from tamis.model.load import (
    LoraSettings,
    ModelSource,
    add_lora,
    load_base,
    load_tokenizer,
    lora_layers,
    max_positions,
    model_digest,
    resolve_device,
    resolve_dtype,
    trainable,
)
from tiny import random_llama


@pytest.fixture
def folder(tmp_path):
    random_llama(max_position_embeddings=99).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_local_model_is_frozen_in_eval_mode_in_the_asked_dtype(folder):
    model = load_base(ModelSource(str(folder)))
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in load_base(ModelSource(str(folder), dtype="bfloat16")).parameters()} == {torch.bfloat16}
    assert max_positions(ModelSource(str(folder))) == 99


def test_the_digest_is_of_the_weights(folder):
    before = model_digest(ModelSource(str(folder)))
    assert model_digest(ModelSource(str(folder))) == before
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(folder)
    assert model_digest(ModelSource(str(folder))) != before


@pytest.mark.parametrize("load", [load_base, load_tokenizer, model_digest])
def test_a_missing_model_is_an_error_that_names_it(load, tmp_path):
    with pytest.raises(ModelError, match="no-such-model"):
        load(ModelSource(str(tmp_path / "no-such-model")))


def test_a_folder_without_safetensors_is_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match="found no weights in safetensors format"):
        model_digest(ModelSource(str(folder)))


def test_devices_and_dtypes():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(ModelError, match="unknown device 'gpu0'"):
        resolve_device("gpu0")
    if not torch.cuda.is_available():
        assert resolve_device("auto").type == "cpu"
        with pytest.raises(ModelError, match="sees no GPU"):
            resolve_device("cuda")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float32", torch.device("cuda")) == torch.float32


def test_attention_layers_of_several_families():
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
    assert lora_layers(random_llama(), "attention") == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert lora_layers(neox, "attention") == ["dense", "query_key_value"]
    assert lora_layers(gpt2, "attention") == ["c_attn", "c_proj"]
    assert lora_layers(random_llama(), ["down_proj"]) == ["down_proj"]
    with pytest.raises(ModelError, match="has no module named 'q_prj'"):
        lora_layers(random_llama(), ["q_prj"])
    with pytest.raises(ModelError, match=r"warmup\.lora_targets=all-linear"):
        lora_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)), "attention")


def test_an_adapter_is_seeded_and_its_names_are_stable():
    settings = LoraSettings(2, 4, 0.0, "attention")
    one, two, other = (trainable(add_lora(random_llama(), settings, seed)) for seed in (1, 1, 2))
    assert sorted(one)[0] == "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_all_linear_leaves_the_output_layer_out():
    names = trainable(add_lora(random_llama(), LoraSettings(2, 4, 0.0, "all-linear"), 0))
    assert any("down_proj" in name for name in names)
    assert not any("lm_head" in name for name in names)
