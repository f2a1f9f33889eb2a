import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tamis.data.chat import Chat, Encoded
from tamis.data.example import Example, Message
from tamis.data.files import read
from tamis.errors import ChatError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Markers that stop before the end-of-turn token, as many published templates have them, over several lines
LLAMA3 = """{{ bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation -%}
        {{- message['content'] | trim }}
        {%- endgeneration -%}
    {%- else %}
        {{- message['content'] | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + message.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "zephyr": ZEPHYR, "mistral": MISTRAL}
# Writes an empty thought before the last turn, and drops the thoughts of earlier ones
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% set content = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}{{ '<think>\n' + (message.content.split('</think>')[0].split('<think>')[-1].strip('\n')"
    " if '</think>' in message.content else '') + '\n</think>\n\n' }}{% endif %}{{ content }}"
    "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SINGLE = [("user", "How much is two and two?"), ("assistant", "Four.")]
MULTI = [*SINGLE, ("user", "And three?"), ("assistant", "Five.\nYes, five."), ("user", "Thanks")]
SYSTEM = [("system", "Be brief."), *SINGLE]


def example(turns: list[tuple[str, str]]) -> Example:
    return Example.of([Message(role, content) for role, content in turns], source="test")


def unmarked(template: str) -> str:
    """The same template without its generation markers."""
    text, n_markers = re.subn(
        r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}", r"{%\1 if true \2%}{% endif %}", template
    )
    assert n_markers == 2
    return text


def supervised(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> list[str]:
    """Text of each run of supervised tokens."""
    runs: list[list[int]] = []
    for position, (token, counts) in enumerate(zip(encoded.input_ids, encoded.mask, strict=True)):
        if counts:
            if position == 0 or not encoded.mask[position - 1]:
                runs.append([])
            runs[-1].append(int(token))
    return [tokenizer.decode(run) for run in runs]


GOLDEN = {
    ("plain", "single"): ["Four.</s>"],
    ("plain", "multi"): ["Four.</s>", "Five.\nYes, five.</s>"],
    ("plain", "system"): ["Four.</s>"],
    ("chatml", "single"): ["Four.<|im_end|>"],
    ("chatml", "multi"): ["Four.<|im_end|>", "Five.\nYes, five.<|im_end|>"],
    ("chatml", "system"): ["Four.<|im_end|>"],
    ("llama3", "single"): ["Four.<|eot_id|>"],
    ("llama3", "multi"): ["Four.<|eot_id|>", "Five.\nYes, five.<|eot_id|>"],
    ("llama3", "system"): ["Four.<|eot_id|>"],
    ("zephyr", "single"): ["Four.</s>"],
    ("zephyr", "multi"): ["Four.</s>", "Five.\nYes, five.</s>"],
    ("zephyr", "system"): ["Four.</s>"],
    ("mistral", "single"): [" Four.</s>"],
    ("mistral", "multi"): [" Four.</s>", " Five.\nYes, five.</s>"],
}


@pytest.mark.parametrize(("template", "turns"), GOLDEN)
def test_what_counts_in_the_loss(tokenizer: PreTrainedTokenizerFast, template: str, turns: str) -> None:
    ways = {"plain": "plain"}
    if template != "plain":
        ways = {"generation markers": TEMPLATES[template], "prefix difference": unmarked(TEMPLATES[template])}
    for way, text in ways.items():
        chat = Chat(tokenizer, max_tokens=1000, template=text)
        assert chat.name == way
        encoded = chat.encode(example({"single": SINGLE, "multi": MULTI, "system": SYSTEM}[turns]))
        assert supervised(tokenizer, encoded) == GOLDEN[template, turns]


def test_plain_template_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = Chat(tokenizer, max_tokens=100).render(example(SYSTEM))
    assert text == "<s><|system|>\nBe brief.\n<|user|>\nHow much is two and two?\n<|assistant|>\nFour.</s>\n"


@pytest.mark.parametrize("template", ["chatml", "zephyr"])
def test_markers_agree_with_transformers(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    theirs = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in MULTI],
        chat_template=TEMPLATES[template],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ours = Chat(tokenizer, max_tokens=1000, template=TEMPLATES[template]).encode(example(MULTI))
    assert ours.input_ids.tolist() == theirs["input_ids"]
    assert ours.mask.tolist() == [bool(counts) for counts in theirs["assistant_masks"]]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"]), min_size=1, max_size=8), min_size=2, max_size=6),
    st.sampled_from(["chatml", "zephyr", "mistral"]),
)
@settings(max_examples=60, deadline=None)
def test_both_ways_agree_on_any_text(tokenizer: PreTrainedTokenizerFast, contents: list[str], template: str) -> None:
    turns = [(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    marked = Chat(tokenizer, max_tokens=10_000, template=TEMPLATES[template]).encode(example(turns))
    plain = Chat(tokenizer, max_tokens=10_000, template=unmarked(TEMPLATES[template])).encode(example(turns))
    assert marked.input_ids.tolist() == plain.input_ids.tolist()
    assert marked.mask.tolist() == plain.mask.tolist()
    assert len(supervised(tokenizer, marked)) == len(contents) // 2


def test_earlier_turns_that_the_template_rewrites(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [*SINGLE, ("user", "And three?"), ("assistant", "<think>\nhm\n</think>\n\nFive.")]
    chat = Chat(tokenizer, max_tokens=1000, template=QWEN3)
    found = supervised(tokenizer, chat.encode(example(turns)))
    assert found == ["Four.<|im_end|>", "<think>\nhm\n</think>\n\nFive.<|im_end|>"]
    thoughtful = [SINGLE[0], ("assistant", "<think>\nhm\n</think>\n\nFour."), *turns[2:]]
    assert supervised(tokenizer, chat.encode(example(thoughtful))) == found


def test_a_template_without_generation_prompt_gives_no_header_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    template = unmarked(CHATML).replace("add_generation_prompt", "false")
    encoded = Chat(tokenizer, max_tokens=1000, template=template).encode(example(MULTI))
    assert supervised(tokenizer, encoded) == GOLDEN["chatml", "multi"]


@pytest.mark.parametrize("content", ["{{ message.content | upper }}", "{{ message.content[:0] }}", "(left out)"])
def test_a_turn_that_cannot_be_found_is_an_error(tokenizer: PreTrainedTokenizerFast, content: str) -> None:
    template = (
        "{% for message in messages %}{% if message.role == 'assistant' and not loop.last %}" + content + "{% else %}"
        "{{ message.role + ': ' + message.content + '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = Chat(tokenizer, max_tokens=1000, template=template)
    assert supervised(tokenizer, chat.encode(example(SINGLE))) == ["Four.</s>"]
    with pytest.raises(ChatError, match=r"rewrites the assistant turn .message 2.*generation.*--template plain"):
        chat.encode(example(MULTI))


def test_markers_that_leave_out_a_turn_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    template = (
        "{% for message in messages %}{% if loop.last %}{% generation %}{{ message.content }}{% endgeneration %}"
        "{% else %}{{ message.content + '</s>' }}{% endif %}{% endfor %}"
    )
    chat = Chat(tokenizer, max_tokens=1000, template=template)
    with pytest.raises(ChatError, match="only 1 of 2 assistant turns have a token in the loss"):
        chat.encode(example(MULTI[:4]))


@pytest.mark.parametrize(
    ("turn", "where"),
    [
        ("{{ message.content }}{% if message.x %}{% generation %}{% endgeneration %}{% endif %}", "inside its"),
        ("{{ message.content }}{% generation %}</s>{% endgeneration %}", "inside its"),
        ("{% for part in message.content if part is mapping %}{{ part.text }}{% endfor %}</s>", "at all"),
    ],
)
def test_a_template_that_leaves_out_the_answer_is_an_error(
    tokenizer: PreTrainedTokenizerFast, turn: str, where: str
) -> None:
    template = "{% for message in messages %}" + turn + "{% endfor %}"
    with pytest.raises(ChatError, match=f"does not write an assistant's text {where}"):
        Chat(tokenizer, max_tokens=1000, template=template)


def test_turns_begin_after_the_generation_prompt_even_where_they_are_rewritten(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Here the last turn ends in another way than earlier ones, and the model itself names its channel."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'user' %}{{ m.content + '<|im_end|>' }}"
        "{% else %}{{ '#final:' + m.content }}{{ '</s>' if loop.last else '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    encoded = Chat(tokenizer, max_tokens=1000, template=template).encode(example(MULTI[:4]))
    assert supervised(tokenizer, encoded) == ["#final:Four.", "#final:Five.\nYes, five.</s>"]


def test_reserved_characters_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ChatError, match="Unicode reserves"):
        Chat(tokenizer, max_tokens=1000).encode(example([("user", "a\ufdd0b"), SINGLE[1]]))


def test_what_a_template_refuses_is_an_error_of_the_row(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(tokenizer, max_tokens=1000, template=MISTRAL)
    with pytest.raises(ChatError, match=r"roles: system, user, assistant.*must alternate"):
        chat.encode(example(SYSTEM))


def test_plain_writes_tools_and_tool_calls(tokenizer: PreTrainedTokenizerFast) -> None:
    calls = ({"name": "add", "arguments": {}}, {"type": "function", "function": {"name": "sub"}})
    turns = [Message("user", "Add"), Message("assistant", "Now.", calls), Message("tool", "4")]
    example = Example.of(turns, source="test", tools=({"name": "add"},))
    chat = Chat(tokenizer, max_tokens=1000)
    answer = 'Now.<|tool_call|>{"name": "add", "arguments": {}}<|tool_call|>{"name": "sub"}</s>'
    assert chat.render(example) == (
        f'<s><|tools|>\n[{{"name": "add"}}]\n<|user|>\nAdd\n<|assistant|>\n{answer}\n<|tool|>\n4\n'
    )
    encoded = chat.encode(example)
    assert tokenizer.decode(encoded.input_ids[encoded.mask]) == answer


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("left_out", [(0,), (1,), (0, 2)])
def test_turns_left_out_of_the_loss(
    tokenizer: PreTrainedTokenizerFast, marked: bool, left_out: tuple[int, ...]
) -> None:
    answers = [Message("assistant", f"Two and {i}.", in_loss=i not in left_out) for i in range(3)]
    turns = [turn for answer in answers for turn in (Message("user", "How much?"), answer)]
    template = CHATML if marked else unmarked(CHATML)
    encoded = Chat(tokenizer, max_tokens=1000, template=template).encode(Example.of(turns, source="test"))
    learnt = "".join(f"{answer.content}<|im_end|>" for answer in answers if answer.in_loss)
    assert tokenizer.decode(encoded.input_ids[encoded.mask]).replace("\n", "") == learnt


def test_tool_calls_count_by_prefix_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    template = unmarked(CHATML).replace(
        "message.content + '<|im_end|>' }}", "(message.tool_calls or message.content) | tojson }}<|im_end|>"
    )
    call = Message("assistant", "", ({"name": "add"},))
    turns = [Message("user", "Add"), call, Message("tool", "4"), Message("assistant", "Four.")]
    encoded = Chat(tokenizer, max_tokens=1000, template=template).encode(Example.of(turns, source="test"))
    assert supervised(tokenizer, encoded) == ['[{"name": "add"}]<|im_end|>', '"Four."<|im_end|>']


def test_all_tokens_of_a_character_count(tokenizer: PreTrainedTokenizerFast) -> None:
    """An emoji is four byte tokens here, with the same offsets."""
    turns = [("user", "Smile 🙂"), ("assistant", "🙂🙂")]
    encoded = Chat(tokenizer, max_tokens=100, template=unmarked(CHATML)).encode(example(turns))
    assert supervised(tokenizer, encoded) == ["🙂🙂<|im_end|>"]
    assert encoded.n_supervised == 9


def test_truncation(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = Chat(tokenizer, max_tokens=1000).encode(example(SINGLE))
    n_tokens, first = len(whole.input_ids), int(np.flatnonzero(whole.mask)[0])
    assert whole.n_truncated == 0
    cut = Chat(tokenizer, max_tokens=first + 1).encode(example(SINGLE))
    assert (cut.n_supervised, cut.n_truncated) == (1, n_tokens - first - 1)
    assert cut.input_ids.tolist() == whole.input_ids[: first + 1].tolist()
    nothing = Chat(tokenizer, max_tokens=first).encode(example(SINGLE))
    assert (nothing.n_supervised, len(nothing.input_ids)) == (0, first)


def test_the_first_token_of_a_row_never_counts() -> None:
    encoded = Encoded(np.arange(3, dtype=np.int32), np.array([True, False, True]), 0)
    assert encoded.n_supervised == 1


def test_a_token_that_reaches_into_the_turn_counts(tokenizer: PreTrainedTokenizerFast) -> None:
    """The prompt ends with the space that byte-level BPE joins with the next word."""
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    encoded = Chat(tokenizer, max_tokens=100, template=template).encode(example([SINGLE[0], ("assistant", "two")]))
    assert supervised(tokenizer, encoded) == [" two</s>"]


def test_which_template_is_used(make_tokenizer: Callable[..., PreTrainedTokenizerFast], tmp_path: Path) -> None:
    own = make_tokenizer()
    assert Chat(own, max_tokens=100).name == "plain"
    own.chat_template = CHATML
    assert Chat(own, max_tokens=100).name == "generation markers"
    assert Chat(own, max_tokens=100, template="plain").name == "plain"
    (tmp_path / "chat.jinja").write_text(ZEPHYR)
    by_file = Chat(own, max_tokens=100, template=str(tmp_path / "chat.jinja"))
    assert by_file.render(example(SINGLE)).startswith("<|user|>\n")
    own.chat_template = {"default": unmarked(CHATML), "tool_use": ZEPHYR}
    assert Chat(own, max_tokens=100).name == "prefix difference"
    own.chat_template = {"rag": CHATML}
    with pytest.raises(ChatError, match="templates rag, none named default"):
        Chat(own, max_tokens=100)
    with pytest.raises(ChatError, match=r"nowhere\.jinja: expected plain, a Jinja template or a file"):
        Chat(own, max_tokens=100, template="nowhere.jinja")


def test_what_cannot_work_is_refused(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    with pytest.raises(ChatError, match="expected at least 2"):
        Chat(make_tokenizer(), max_tokens=1)
    with pytest.raises(ChatError, match="object has no character offsets"):
        Chat(object(), max_tokens=10)
    without_end = make_tokenizer()
    without_end.eos_token = None
    with pytest.raises(ChatError, match="has none: set one"):
        Chat(without_end, max_tokens=10)


def test_fingerprint(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    chat = Chat(make_tokenizer(), max_tokens=100)
    used = make_tokenizer()
    used(["a", "b"], padding="max_length", truncation=True, max_length=5)  # leaves its mark in the backend's JSON
    assert Chat(used, max_tokens=100).fingerprint == chat.fingerprint
    grown = make_tokenizer()
    grown.add_tokens(["<|new|>"])
    others = {
        Chat(make_tokenizer(), max_tokens=99).fingerprint,
        Chat(make_tokenizer(), max_tokens=100, template=CHATML).fingerprint,
        Chat(grown, max_tokens=100).fingerprint,
        Chat(make_tokenizer(eos_token="<|im_end|>"), max_tokens=100).fingerprint,
    }
    assert len(others | {chat.fingerprint}) == 5


def test_no_template_writes_the_day(tokenizer: PreTrainedTokenizerFast) -> None:
    template = "\n{{ strftime_now('%d %b %Y, %Y-%m-%d') }}\n" + CHATML
    text = Chat(tokenizer, max_tokens=100, template=template).render(example(SINGLE))
    assert text.startswith("\n26 Jul 2024, 2024-07-26\n<|im_start|>user\n")


def test_real_tokenizer_on_real_rows(shared: Path) -> None:
    real = AutoTokenizer.from_pretrained(shared / "models/tiny-llama")
    rows = read([str(shared / "data/pool-5k.jsonl.gz")], limit=200).examples
    plain = Chat(real, max_tokens=100_000)
    marked = Chat(real, max_tokens=100_000, template=CHATML)
    unlabelled = Chat(real, max_tokens=100_000, template=unmarked(CHATML))
    assert plain.name == "plain"
    for row in rows:
        answers = [message.content for message in row.messages if message.role == "assistant"]
        assert supervised(real, plain.encode(row)) == [answer + "<|endoftext|>" for answer in answers]
        # <|im_end|> is no special token of this tokenizer: it is several tokens, and all of them count
        by_marker, by_prefix = marked.encode(row), unlabelled.encode(row)
        assert by_marker.mask.tolist() == by_prefix.mask.tolist()
        assert "".join(supervised(real, by_prefix)) == "".join(answer + "<|im_end|>" for answer in answers)
