"""The table of methods: names, refusals, and that every entry leads to code that takes what the table says."""

import inspect

import pytest

from tamis.errors import InputError
from tamis.methods import REPRESENTATIONS, SELECTORS, Method, known_methods, load, misfit, parse_method


@pytest.mark.parametrize(
    ("text", "representation", "selector"),
    [
        ("less", "gradient", "top_k"),
        ("gradient", "gradient", "top_k"),
        ("less+round_robin", "gradient", "round_robin"),
        ("bm25", "bm25", "top_k"),
        ("bm25+round_robin", "bm25", "round_robin"),
        ("random", None, "random"),
        ("rds", "rds", "round_robin"),
        ("embed", "embed", "round_robin"),
        ("dsir", "dsir", "top_k"),
        ("loss", "loss", "top_k"),
        ("perplexity", "perplexity", "top_k"),
        ("ifd", "ifd", "top_k"),
        ("rds+tagcos", "rds", "tagcos"),
        ("embed+knn_kde", "embed", "knn_kde"),
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
        (
            "bm25+tagcos",
            "tagcos looks at feature rows, and bm25 has scores of any size only; join tagcos",
        ),
        ("loss+herding", "herding looks at feature rows, and loss has one number a row only"),
        ("dsir+knn_uniform", "1 − similarity for a distance, and dsir has scores of any size, no cosines"),
        ("ifd+unbalanced_transport", "and ifd has one number a row, no cosines; .* or rds or embed or ngrams$"),
    ],
)
def test_other_names_are_refused_with_the_choices(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method(text)


def test_every_known_method_is_one() -> None:
    assert {"less", "rds", "embed", "bm25", "dsir", "loss", "perplexity", "ifd", "random"} <= set(known_methods())
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
    assert (representation.makes == "scores") == (representation.function is not None)
    if representation.function is not None:
        parameters = list(inspect.signature(load(representation.function)).parameters)
        assert parameters == ["target_texts", "pool_texts", "out", *representation.needs]


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_goes_with_what_ranks_and_rows_with_everything(name: str) -> None:
    fitting = {selector for selector in SELECTORS if selector != "random" and misfit(name, selector) is None}
    assert fitting >= {"top_k", "doubly_greedy", "round_robin"}
    assert REPRESENTATIONS[name].makes != "rows" or fitting == set(SELECTORS) - {"random"}
