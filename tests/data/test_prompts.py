"""What a model is to go on from, and where its answer ends."""

from collections.abc import Callable

import pytest
from test_chat import CHATML, LLAMA3, MISTRAL, QWEN3, ZEPHYR, example, supervised, unmarked
from transformers import PreTrainedTokenizerFast

from tamis.data.chat import Chat
from tamis.errors import ChatError

ASKED = [("user", "One?"), ("assistant", "Two."), ("user", "And three?"), ("assistant", "Five.")]
PROMPTS = {
    "plain": (
        "<s><|user|>\nOne?\n<|assistant|>\nTwo.</s>\n<|user|>\nAnd three?\n<|assistant|>\n",
        "",
        ("</s>", "\n<|user|>"),
    ),
    "chatml": (
        "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\nAnd three?<|im_end|>\n<|im_start|>assistant\n",
        "",
        ("<|im_end|>", "\n<|im_start|>user"),
    ),
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nTwo.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd three?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "",
        ("<|eot_id|>", "<|start_header_id|>user<|end_header_id|>"),
    ),
    "mistral": ("<s>[INST] One? [/INST] Two.</s>[INST] And three? [/INST]", " ", ("</s>", "[INST]")),
    "qwen3": (
        "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\nAnd three?<|im_end|>\n<|im_start|>assistant\n",
        "<think>\n\n</think>\n\n",
        ("<|im_end|>", "\n<|im_start|>user"),
    ),
}
TEMPLATES = {"plain": "plain", "chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "qwen3": QWEN3}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_opening_and_stops(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    chat = Chat(tokenizer, max_tokens=500, template=TEMPLATES[name])
    prompt, opening, stops = PROMPTS[name]
    row = example(ASKED)
    assert chat.prompt(row) == prompt
    assert chat.stops == stops
    assert tokenizer.decode(chat.encode_prompt(prompt, 500).input_ids) == prompt
    encoded = chat.encode_answer(prompt, "Five.")
    assert tokenizer.decode(encoded.input_ids) == prompt + opening + "Five."
    # The tokens are those that training sees, up to the end of the turn
    whole = chat.encode(row)
    assert whole.input_ids[: len(encoded.input_ids)].tolist() == encoded.input_ids.tolist()
    assert "".join(supervised(tokenizer, encoded)).strip() == "Five."


def test_marks_do_not_change_a_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    for template in (CHATML, LLAMA3, ZEPHYR, MISTRAL):
        marked, plain = (Chat(tokenizer, max_tokens=500, template=t) for t in (template, unmarked(template)))
        assert marked.prompt(example(ASKED)) == plain.prompt(example(ASKED))
        assert marked.stops == plain.stops


def test_a_template_without_generation_prompt_still_begins_the_turn(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
) -> None:
    template = "{% for m in messages %}{{ ('Q: ' if m.role == 'user' else 'A: ') + m.content + '\n\n' }}{% endfor %}"
    chat = Chat(make_tokenizer(), max_tokens=100, template=template)
    prompt = chat.prompt(example(ASKED[:2]))
    assert prompt == "Q: One?\n\nA:"
    assert make_tokenizer().decode(chat.encode_answer(prompt, "Two.").input_ids) == "Q: One?\n\nA: Two."
    assert chat.stops == ("\nQ:",)


def test_long_prompts_lose_their_beginning(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(tokenizer, max_tokens=8)
    whole = Chat(tokenizer, max_tokens=500).encode_prompt(chat.prompt(example(ASKED)), 500)
    cut = chat.encode_prompt(chat.prompt(example(ASKED)), 5)
    assert cut.input_ids.tolist() == whole.input_ids[-5:].tolist()
    assert cut.n_truncated == len(whole.input_ids) - 5
    assert not cut.mask.any()
    answered = chat.encode_answer(chat.prompt(example(ASKED)), "Five.")
    assert len(answered.input_ids) == 8
    assert supervised(tokenizer, answered) == ["Five."]


def test_an_answer_to_nothing_has_no_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(tokenizer, max_tokens=50)
    with pytest.raises(ChatError, match="expected a question before"):
        chat.prompt(example([("assistant", "Hello."), ("user", "Hi.")]))
