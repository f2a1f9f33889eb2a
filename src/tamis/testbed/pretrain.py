"""Pretrains the testbed's model from scratch: `python -m tamis.testbed.pretrain --out DIR`.

The text is of the same small world as the pool, in another form: plain sentences on the words of all topics, and
notes of skills at work ("reverse: fox wolf bear = bear wolf fox", one in ten of them wrong). So the model has partly
learnt to do what the skills ask, yet has never seen a conversation: it knows neither the requests nor how an answer
looks.

Seeded: the same versions on the same processor give the same model. Not covered: the same bytes on every processor.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tamis.testbed.generate import make_pool, make_target
from tamis.testbed.skills import SKILLS
from tamis.testbed.topics import HELD_OUT_TOPICS, TOPICS

SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 160, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4},
    "larger": {"hidden_size": 256, "intermediate_size": 576, "num_hidden_layers": 5, "num_attention_heads": 8},
}
BOS, EOS, PAD = "<|begin|>", "<|endoftext|>", "<|pad|>"
SPECIAL_TOKENS = [PAD, BOS, EOS, "<|system|>", "<|user|>", "<|assistant|>"]
ALL_TOPICS = TOPICS | HELD_OUT_TOPICS
ALL_WORDS = [word for words in ALL_TOPICS.values() for word in words]


def note(rng: random.Random) -> str:
    """One skill at work on words of any topics, in a form that no conversation has; one in ten is wrong."""
    skill, other = rng.choice(list(SKILLS)), rng.choice(list(SKILLS))
    words = rng.sample(ALL_WORDS, rng.randint(3, 5))
    answer = SKILLS[other if rng.random() < 0.1 else skill].answer(words)
    return f"{skill}: {' '.join(words)} = {answer.replace(',', '')}"


def sentence(rng: random.Random) -> str:
    """A plain sentence on words, lists and letters."""
    topic = rng.choice(list(ALL_TOPICS))
    words = rng.sample(ALL_TOPICS[topic], rng.randint(3, 5))
    listed, word, i = ", ".join(words), words[0], rng.randrange(len(words) - 1)
    return rng.choice(
        (
            f"The {topic} are {listed}.",
            f"The first word of the list {listed} is {word}, and the last is {words[-1]}.",
            f"In the list {listed} the word after {words[i]} is {words[i + 1]}.",
            f"In the list {listed} the word before {words[i + 1]} is {words[i]}.",
            f"The second word in {listed} is {words[1]}; there are {len(words)} words.",
            f"The word {word} has {len(word)} letters: it starts with the letter {word[0]} and ends with {word[-1]}.",
            f"In big letters {word} is {word.upper()}.",
            f"In a book the word {min(words)} comes before {max(words)}.",
            f"Here are some {topic}, one by one: {' and '.join(words)}.",
            f"I have {word}, {words[1]} and other {topic}, but not {words[2]}.",
        )
    )


def documents(rng: random.Random) -> Iterator[str]:
    """Endless text: three notes to each sentence."""
    while True:
        yield note(rng) if rng.random() < 0.75 else sentence(rng)


def train_tokenizer(rng: random.Random, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the pretraining text and the pool's and targets' wording."""
    rows = make_pool(seed=1) + [row for skill in SKILLS for row in make_target(skill, "test", 100, seed=1)]
    text = [message["content"] for row in rows for message in row["messages"]]
    text += [document for document, _ in zip(documents(rng), range(20_000), strict=False)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=256
    )


def batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random, rows: int, length: int) -> Iterator[torch.Tensor]:
    """Endless token windows `[rows, length]`; documents run on, each ended by the end-of-text token."""
    text = documents(rng)
    tokens: list[int] = []
    while True:
        while len(tokens) < rows * length:
            some = [next(text) for _ in range(200)]
            for ids in tokenizer(some, add_special_tokens=False)["input_ids"]:
                tokens += [*ids, tokenizer.eos_token_id]
        yield torch.tensor(tokens[: rows * length]).view(rows, length)
        tokens = tokens[rows * length :]


def main() -> None:
    """Train the tokenizer, then the model, and save both."""
    parser = argparse.ArgumentParser(description="Pretrain the testbed's model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    tokenizer = train_tokenizer(random.Random(arguments.seed), vocab_size=1024)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **SIZES[arguments.size],
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = max(1, arguments.steps // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.02 + 0.98 * math.cos(math.pi / 2 * step / arguments.steps) ** 2),
    )
    start = time.monotonic()
    for step, batch in enumerate(batches(tokenizer, random.Random(arguments.seed + 1), 16, 128), 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.size == "larger"):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            seconds = time.monotonic() - start
            print(f"step {step} of {arguments.steps}: loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
        if step == arguments.steps:
            break
    # The larger one is kept in half the bytes
    (model.bfloat16() if arguments.size == "larger" else model).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
