"""The table of methods: names, refusals, and that every entry leads to code that takes what the table says."""

import inspect

import pytest

from tamis.errors import InputError
from tamis.methods import REPRESENTATIONS, SELECTORS, Method, known_methods, load, parse_method


@pytest.mark.parametrize(
    ("text", "representation", "selector"),
    [
        ("less", "gradient", "top_k"),
        ("gradient", "gradient", "top_k"),
        ("less+round_robin", "gradient", "round_robin"),
        ("bm25", "bm25", "top_k"),
        ("bm25+round_robin", "bm25", "round_robin"),
        ("random", None, "random"),
    ],
)
def test_a_name_means_a_representation_and_a_selector(text: str, representation: str | None, selector: str) -> None:
    assert parse_method(text) == Method(text, representation, selector)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lees", r"unknown method 'lees': choose from less, .*\(did you mean less\?\)"),
        ("", "unknown method '': choose from less"),
        ("top_k", "unknown method 'top_k'"),  # needs similarities, and does not say which
        ("lees+top_k", "unknown method 'lees.top_k'.*did you mean less"),
        ("less+topk", r"unknown selector 'topk' in method 'less\+topk'.*did you mean top_k"),
        ("less+", "unknown selector ''"),
        ("less+random", "unknown selector 'random'"),  # would throw the features away
        ("random+top_k", "unknown method"),
        ("LESS", "unknown method 'LESS'"),
    ],
)
def test_other_names_are_refused_with_the_choices(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method(text)


def test_every_known_method_is_one() -> None:
    assert {"less", "bm25", "random"} <= set(known_methods())
    for name in known_methods():
        assert parse_method(name).name == name


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_takes_what_the_table_gives_it(name: str) -> None:
    parameters = inspect.signature(load(SELECTORS[name].function)).parameters
    options = {"sources"} if "balanced" in SELECTORS[name].options else set(SELECTORS[name].options)
    assert {*SELECTORS[name].needs, *options, "n_examples"} <= set(parameters)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_names_a_selector_and_its_code(name: str) -> None:
    representation = REPRESENTATIONS[name]
    assert "similarity" in SELECTORS[representation.selector].needs
    assert representation.function is None or callable(load(representation.function))
