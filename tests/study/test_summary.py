"""What follows from a study's numbers: known answers, made up by hand, and what is said where pieces are missing."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import LOSSES, MEAN_RANKS, N_EXAMPLES, RHO, made_rows, made_study, made_tables
from scipy import stats

from tamis.errors import InputError
from tamis.statistics import ONE_SEED
from tamis.study import foreign
from tamis.study.budgets import budgets, equal_tokens, methods, ranks
from tamis.study.comparisons import BETTER, BY_EXAMPLES, BY_SEEDS, NOT_SHOWN, NOT_TESTED, WORSE, verdict
from tamis.study.costs import composition
from tamis.study.shown import against_random, at_equal_tokens, rank_tests
from tamis.study.shown import costs as shown_costs
from tamis.study.summary import caveats, headline, ranking, summarise
from tamis.study.tables import RESULT_COLUMNS, Results, frame


def at(table: pd.DataFrame, **where: Any) -> Any:
    """The only row where columns have these values."""
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


# ---- against random ------------------------------------------------------------------------------------------------


def test_differences_are_tested_over_examples() -> None:
    study = made_study()
    found = summarise(study).differences
    assert set(found["how"]) == {BY_EXAMPLES, BY_SEEDS}
    assert set(found.loc[found["measure"] == "target_loss", "how"]) == {BY_SEEDS}  # of those there are no examples
    losses = found[found["measure"] == "test_loss"]
    assert len(losses) == 2 * 2 * 2
    for _, row in losses.iterrows():
        expected = {("t1", "less"): BETTER, ("t1", "rds"): WORSE}.get((row["target"], row["method"]), NOT_SHOWN)
        assert row["verdict"] == expected
        assert row["n"] == N_EXAMPLES
        assert row["p_holm"] >= row["p"]
    one = at(losses, target="t1", method="less", budget="5%")
    rows = study.results
    mine = [rows.loc[(rows["method"] == name) & (rows["budget"] == "5%") & (rows["target"] == "t1"), "test_loss"]
            for name in ("less", "random")]  # fmt: skip
    assert one["difference"] == pytest.approx(mine[0].mean() - mine[1].mean())
    assert one["low"] < -0.5 < one["high"]
    assert at(found[found["measure"] == "score"], target="t1", method="less", budget="5%")["verdict"] == BETTER


def test_without_losses_of_examples_seeds_are_compared() -> None:
    study = made_study(examples=[])
    found = summarise(study).differences
    assert set(found["how"]) == {BY_SEEDS}
    one = at(found, target="t1", method="rds", budget="10%", measure="test_loss")
    rows = study.results[(study.results["target"] == "t1") & (study.results["budget"] == "10%")]
    a, b = (rows.loc[rows["method"] == name, "test_loss"] for name in ("rds", "random"))
    assert one["p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert any("Welch" in text for text in caveats(study, summarise(study)))


def test_examples_of_some_cells_only_do_not_count_for_others() -> None:
    """A cell without losses of examples is compared over seeds; the others stay."""
    results, examples = made_rows()
    kept = [row for row in examples if (row["method"], row["budget"], row["seed"]) != ("less", "5%", 1)]
    found = summarise(made_study(results=results, examples=kept)).differences
    found = found[(found["measure"] == "test_loss") & (found["target"] == "t1")]
    assert at(found, method="less", budget="5%")["how"] == BY_SEEDS
    assert at(found, method="less", budget="10%")["how"] == BY_EXAMPLES


def test_with_one_seed_on_a_side_nothing_is_better_or_worse() -> None:
    """Two trained models are compared, not two methods: however far apart, and however sure over examples."""
    study = made_study(**_rows(seed=(1, 2)))
    summary = summarise(study)
    assert set(summary.differences["verdict"]) == {NOT_TESTED}
    assert summary.differences["p_holm"].isna().all()
    one = at(summary.differences, target="t1", method="less", budget="5%", measure="test_loss")
    assert one["low"] < -0.5 < one["high"]
    assert headline(study, summary)[0].startswith("Test loss: nothing could be tested for less on any of 2 targets.")
    [shown] = [table for measure, table in against_random(summary) if measure == "test_loss"]
    assert "95% interval, and no test. Lower is better." in shown.explained
    assert shown.rows[0][2].small.endswith("] over examples only\nnot tested")
    assert caveats(study, summary)[1:] == [f"Of 24 comparisons with random 24 are not tested: {ONE_SEED}."]


def test_luck_of_seeds_alone_is_no_difference() -> None:
    """Each model is better or worse on every example alike, by luck: over examples alone all would differ."""
    results, examples = made_rows()
    rng = np.random.default_rng(1)
    luck: dict[tuple[Any, ...], float] = {}
    for row in examples:
        key = tuple(row[name] for name in ("target", "method", "budget", "seed"))
        row["loss"] = 2.0 + luck.setdefault(key, rng.normal(0, 0.3)) + rng.normal(0, 0.001)
    for row in results:
        if row["experiment"] == "budget":
            row["test_loss"] = 2.0 + luck[tuple(row[name] for name in ("target", "method", "budget", "seed"))]
    found = summarise(made_study(results=results, examples=examples)).differences
    found = found[found["measure"] == "test_loss"]
    assert set(found["how"]) == {BY_EXAMPLES}
    assert set(found["verdict"]) == {NOT_SHOWN}


def test_one_example_twice_in_a_cell_is_an_error() -> None:
    _, examples = made_rows()
    with pytest.raises(InputError, match=r"examples.parquet: .*once a cell, found one again \(budget, t1, m\)"):
        summarise(made_study(examples=[*examples, examples[0]]))


@pytest.mark.parametrize(
    ("measure", "difference", "p", "expected"),
    [
        ("test_loss", -1.0, 0.01, BETTER),
        ("test_loss", 1.0, 0.01, WORSE),
        ("score", 1.0, 0.01, BETTER),
        ("score", -1.0, 0.01, WORSE),
        ("score", -1.0, 0.05, NOT_SHOWN),
        ("score", -1.0, math.nan, NOT_TESTED),
    ],
)
def test_verdicts(measure: str, difference: float, p: float, expected: str) -> None:
    assert verdict(measure, difference, p) == expected


# ---- ranks, tokens -------------------------------------------------------------------------------------------------


def test_ranks_by_hand(tmp_path: Path) -> None:
    found = summarise(foreign.read(made_tables(tmp_path / "t"))).ranks
    for measure in ("test_loss", "target_loss"):
        for budget in ("50", "100", "all"):
            own = found[(found["measure"] == measure) & (found["budget"] == budget)]
            assert dict(zip(own["method"], own["mean_rank"], strict=True)) == MEAN_RANKS
    score = found[(found["measure"] == "score") & (found["budget"] == "50")]
    turned = {method: 4 - rank for method, rank in MEAN_RANKS.items()}  # 10 × the loss, and higher is better
    assert dict(zip(score["method"], score["mean_rank"], strict=True)) == turned
    assert list(dict.fromkeys(found["budget"])) == ["50", "100", "all"]


def test_missing_cells_cost_a_method_or_a_target_whichever_is_less() -> None:
    rows = [
        {"experiment": "budget", "target": target, "method": method, "budget": "5%", "test_loss": float(place)}
        for target in ("t1", "t2", "t3")
        for place, method in enumerate(("a", "b", "c"))
    ]
    found = ranks(frame(rows[:-1], RESULT_COLUMNS), ["test_loss"])  # without c on t3: 2 targets × 3, or 3 × 2
    assert len(found) in (2, 3)
    assert found["note"].str.contains("left out, with cells missing: (?:c|t3)").all()
    found = ranks(frame([*rows[:2], *rows[3:5], *rows[6:]], RESULT_COLUMNS), ["test_loss"])  # c on t3 alone
    assert list(found["method"]) == ["a", "b"]
    assert list(found["mean_rank"]) == [1, 2]
    assert (found["n_blocks"] == 3).all()


def test_equal_tokens_by_hand() -> None:
    def cell(method: str, budget: str, n_tokens: int, loss: float, seed: int = 0) -> dict[str, Any]:
        key = {"experiment": "budget", "target": "t", "method": method, "budget": budget, "seed": seed}
        return key | {"n_tokens": n_tokens, "test_loss": loss}

    rows = [cell("random", "1%", 100, 4.0), cell("random", "4%", 400, 2.0), cell("random", "9%", 6400, 1.0)]
    for seed in (0, 1):
        rows += [cell("less", "1%", 100, 3.0 + seed, seed), cell("less", "4%", 1600, 1.0 + seed, seed)]
    found = equal_tokens(frame(rows, RESULT_COLUMNS), "test_loss")
    assert at(found, method="less", n_tokens=100)["value"] == pytest.approx(3.5)
    middle = at(found, method="less", n_tokens=400)  # half way from 100 to 1,600 in log tokens
    assert (middle["value"], middle["difference"], middle["n_seeds"]) == pytest.approx((2.5, 0.5, 2))
    assert not len(found[(found["method"] == "less") & (found["n_tokens"] == 6400)])  # beyond its budgets


def _spent(method: str, tokens: list[list[int]]) -> list[dict[str, Any]]:
    """Cells by seed and budget: losses fall with tokens."""
    key = {"experiment": "budget", "target": "t", "method": method}
    return [
        key | {"budget": f"{budget}%", "seed": seed, "n_tokens": n, "test_loss": 5 - np.log10(n) + 0.1 * seed}
        for seed, own in enumerate(tokens)
        for budget, n in enumerate(own)
    ]


def test_equal_tokens_lie_where_all_seeds_of_random_have_some() -> None:
    """Mean tokens 100 and 1,000 are beyond the budgets of some seeds: the points move to where all have been."""
    rows = _spent("random", [[90, 950], [100, 1000], [110, 1050]]) + _spent("less", [[105, 960], [90, 940], [80, 2000]])
    found = equal_tokens(frame(rows, RESULT_COLUMNS), "test_loss")
    assert sorted(set(found["n_tokens"])) == [110, 950]
    assert list(found.loc[found["method"] == "random", "n_seeds"]) == [3, 3]
    assert at(found, method="less", n_tokens=950)["n_seeds"] == 2  # one of its seeds ends at 940
    assert found.loc[found["method"] == "less", "p"].notna().all()
    summary = replace(summarise(made_study()), equal_tokens=found)
    [less, random] = at_equal_tokens(summary, "test_loss").rows
    assert [cell.small.endswith("2 of 3 seeds") for cell in less[1:]] == [False, True]
    assert [cell.small for cell in random[1:]] == ["", ""]


@pytest.mark.parametrize(
    "randoms", [[[90], [100], [110]], [[100], [100]], [[10, 20], [100, 200]]], ids=["budget", "same", "apart"]
)
def test_without_a_range_there_is_nothing_at_equal_tokens(randoms: list[list[int]]) -> None:
    rows = _spent("random", randoms) + _spent("less", [[50, 500], [50, 500]])
    assert not len(equal_tokens(frame(rows, RESULT_COLUMNS), "test_loss"))


def test_order_of_budgets_and_methods() -> None:
    rows = [
        {"method": method, "budget": budget, "n_examples": n}
        for method, budget, n in [("z", "10%", 900), ("a", "5000tok", None), ("random", "5%", 450), ("z", "40", 40)]
    ]
    rows.append({"method": "zero-shot", "n_examples": 0})
    table = frame(rows, RESULT_COLUMNS)
    assert budgets(table) == ["40", "5%", "10%", "5000tok"]
    assert methods(table) == ["a", "z", "random", "zero-shot"]


# ---- quantiles -----------------------------------------------------------------------------------------------------


def test_rho_by_hand(tmp_path: Path) -> None:
    found = summarise(foreign.read(made_tables(tmp_path / "t"))).correlations
    assert len(found) == len(LOSSES) * len(RHO) * 3
    for _, row in found.iterrows():
        assert row["rho"] == pytest.approx(RHO[row["series"]], abs=1e-12)
        assert (row["x"], row["n"]) == ("bin", 5)


def test_rho_with_distances() -> None:
    found = summarise(made_study()).correlations
    pairs = set(zip(found["x"], found["y"], strict=True))
    assert pairs == {(x, "target_loss") for x in ("bin", "mean_nearest", "wasserstein")}
    assert set(found.loc[found["series"] == "gradient", "rho"]) == {1.0}
    assert set(found.loc[found["series"] == "rds", "rho"]) == {-1.0}


def test_seeds_of_a_bin_are_no_further_bins() -> None:
    rows = [
        {"experiment": "quantile", "target": "t", "method": "x", "bin": number, "seed": seed}
        | {"target_loss": float(number + 10 * seed)}
        for number in range(5)
        for seed in (0, 1)
    ]
    found = summarise(Results.of_rows(rows))
    assert at(found.correlations, x="bin")["n"] == 5
    assert at(found.bins, bin=2)["target_loss"] == 7


# ---- costs and sources ---------------------------------------------------------------------------------------------


def test_costs_add_up_and_what_was_not_measured_is_not_zero() -> None:
    summary = summarise(made_study())
    less = at(summary.cost_benefit, target="t2", method="less")
    assert less["selecting_seconds"] == 60 + 30 + 2 + 1  # represent is shared by both targets
    assert (less["fine_tuning_seconds"], less["selecting_flops"], less["unmeasured"]) == (100, 4e12, "")
    own = summary.differences
    own = own[(own["target"] == "t2") & (own["method"] == "less")]
    assert less["gain_test_loss"] == pytest.approx(-own.loc[own["measure"] == "test_loss", "difference"].mean())
    assert less["gain_score"] == pytest.approx(own.loc[own["measure"] == "score", "difference"].mean())
    rds = at(summary.cost_benefit, target="t1", method="rds")
    assert math.isnan(rds["selecting_seconds"])
    assert rds["unmeasured"] == "represent, pick"


def test_stages_that_keep_nothing_add_no_bytes_and_zero_shot_is_not_fine_tuned() -> None:
    line = {"model": "m", "target": "t1", "flops": 0.0}
    costs = [
        line | {"method": "less", "stage": stage, "seconds": 1.0, "bytes": n}
        for stage, n in (("represent", 4e6), ("score", 2e6), ("pick", 0.0))
    ]
    costs += [line | {"method": name, "stage": "fine-tune", "seconds": 9.0} for name in ("less", "zero-shot")]
    summary = summarise(made_study(costs=costs))
    assert at(summary.cost_benefit, method="less")["selecting_bytes"] == 6e6
    assert at(summary.cost_benefit, method="less")["fine_tuning_seconds"] == 9
    assert math.isnan(at(summary.cost_benefit, method="zero-shot")["fine_tuning_seconds"])
    table = shown_costs(summary)
    assert [cell.text for cell in table.rows[0][1:5]] == ["3.00", "9.00", "0", "6.00"]
    assert table.rows[1][2].text == "–"
    assert "of one selection (the last budget)" in table.explained


def test_sources_over_seeds_by_hand() -> None:
    found = composition(made_study().composition)
    one = at(found, method="less", source="a")
    assert (one["n_picked"], one["share"], one["pool_share"]) == pytest.approx((40, 0.4, 0.25))
    assert one["ratio"] == pytest.approx(1.6)
    assert len(composition(frame([], {"target": "str"}))) == 0


# ---- in sentences --------------------------------------------------------------------------------------------------


def test_headline() -> None:
    study = made_study()
    said = headline(study, summarise(study))
    assert said[0].startswith(
        "Test loss: on 1 of 2 targets less beats random at every budget (t1); on t2 no difference to random was shown."
    )
    assert "Query loss grows with distance: with gradient on 1 of 1 target, rds on 0 of 1 target (falls on 1)." in said


@pytest.mark.parametrize(
    ("ranked", "expected"),
    [
        ({"a": 1.0, "b": 3.0, "random": 2.0}, " It ranks best of 2 methods: 1.0 on average, random 2.0."),
        (
            {"a": 3.7, "b": 4, "random": 3.5},
            " It ranks best of 2 methods, but behind random: 3.7 on average, random 3.5.",
        ),
        (
            {"a": 2.0, "b": 3, "random": 2.0},
            " It ranks best of 2 methods, level with random: 2.0 on average, random 2.0.",
        ),
        ({"a": 2.0, "b": 2, "random": 2.0}, " All 2 methods tie, level with random: 2.0 on average, random 2.0."),
        (
            {"a": 1.5, "b": 1.5, "c": 4, "random": 3.0},
            " a and b tie for the best rank of 3 methods: 1.5 on average, random 3.0.",
        ),
        ({"a": 2.5, "b": 2.5, "random": 1.0}, " All 2 methods tie, but behind random: 2.5 on average, random 1.0."),
        ({"a": 1.0, "random": 2.0}, ""),
    ],
)
def test_ranking_is_no_praise_where_random_ranks_as_well(ranked: dict[str, float], expected: str) -> None:
    names = [name for name in ranked if name != "random"]
    assert ranking(ranked, names, "a") == expected


@pytest.mark.parametrize(
    ("ranked", "alone"),
    [
        ({"a": 2.0, "random": 3.0, "random length-matched": 1.0}, ": their length alone does as much."),
        ({"a": 1.5, "random": 3.0, "random length-matched": 1.5}, ": their length alone does as much."),
        ({"a": 1.0, "random": 3.0, "random length-matched": 2.0}, "."),
        ({"a": 2.0, "random": 2.0, "random length-matched": 2.0}, "."),  # as much as nothing
        ({"a": 3.0, "random": 1.5, "random length-matched": 1.5}, "."),
    ],
)
def test_length_does_as_much_only_where_something_was_done(ranked: dict[str, float], alone: str) -> None:
    assert re.search(rf"Random rows of the same lengths rank \d\.\d{re.escape(alone)}$", ranking(ranked, ["a"], "a"))


def test_where_all_are_equal_none_is_called_best() -> None:
    same = [{k: v for k, v in row.items() if k != "score"} | {"test_loss": 1.0} for row in made_rows()[0]]
    study = made_study(results=same, examples=[])
    summary = summarise(study)
    assert (
        "Test loss: nothing could be tested for less on any of 2 targets. All 2 methods tie, level with random: 2.0"
        in (headline(study, summary)[0])
    )
    ranks_shown = rank_tests(summary.ranks[summary.ranks["measure"] == "test_loss"])
    assert {row[2].text for row in ranks_shown.rows} == {"all tie"}
    assert "Of 16 comparisons with random 8 are not tested: equal over all seeds." in caveats(study, summary)


@pytest.mark.parametrize(("loss", "alone"), [(0.0, ": their length alone does as much."), (9.0, ".")])
def test_headline_says_what_length_alone_does(loss: float, alone: str) -> None:
    study = made_study()
    randoms = study.results[study.results["method"] == "random"]
    matched = randoms.assign(method="random length-matched", test_loss=loss, target_loss=loss)
    study = replace(study, results=pd.concat([study.results, matched], ignore_index=True))
    [said] = [line for line in headline(study, summarise(study)) if line.startswith("Test loss:")]
    assert re.search(rf"Random rows of the same lengths rank \d\.\d{re.escape(alone)}$", said)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([BETTER, BETTER], "on 1 of 1 target less beats random at every budget (t)"),
        ([BETTER, NOT_SHOWN], "on 1 of 1 target less beats random at some budgets (t: 1 of 2)"),
        (
            [BETTER, WORSE],
            "on 1 of 1 target less beats random at some budgets and is worse at others (t: 1 and 1 of 2)",
        ),
        ([NOT_SHOWN, WORSE], "on 1 of 1 target less is worse than random at some budgets (t: 1 of 2)"),
        ([WORSE, WORSE], "on 1 of 1 target less is worse than random at every budget (t)"),
        ([NOT_SHOWN, NOT_TESTED], "no difference to random was shown for less on t"),
        ([NOT_TESTED, NOT_TESTED], "nothing could be tested for less on t"),
    ],
)
def test_standing_of_a_method(verdicts: list[str], expected: str) -> None:
    from tamis.study.summary import standing

    row = {"experiment": "budget", "target": "t", "model": "m", "method": "less"}
    assert standing(pd.DataFrame([row | {"verdict": one} for one in verdicts])) == expected


def test_standing_over_targets_and_models() -> None:
    from tamis.study.summary import standing

    rows = [
        {"experiment": "budget", "target": target, "model": model, "method": "less", "verdict": verdict}
        for target, model, verdict in [("a", "m", BETTER), ("a", "n", NOT_SHOWN), ("b", "m", BETTER), ("b", "n", WORSE)]
    ]
    assert standing(pd.DataFrame(rows)) == (
        "on 2 of 4 target-and-model pairs less beats random at every budget (a with m, b with m);"
        " on 1 of 4 target-and-model pairs it is worse than random at every budget (b with n);"
        " on a with n no difference to random was shown"
    )
    none = pd.DataFrame([row | {"verdict": NOT_SHOWN, "model": "m"} for row in rows[::2]])
    assert standing(none) == "no difference to random was shown for less on any of 2 targets"


def test_a_study_that_is_not_finished_says_so_first() -> None:
    study = made_study(manifest={"n_pending": 7})
    n = len(study.results)
    assert headline(study, summarise(study))[0].startswith(f"Partial: {n} of {n + 7} cells are finished")
    nothing = Results.of_rows([], manifest={"n_pending": 3})
    assert headline(nothing, summarise(nothing))[0].startswith("Partial: 0 of 3")


def _rows(**without: Any) -> dict[str, Any]:
    results, examples = made_rows()

    def keep(row: dict[str, Any]) -> bool:
        return all(row.get(name) not in values for name, values in without.items())

    return {"results": list(filter(keep, results)), "examples": list(filter(keep, examples))}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (_rows(seed=(1, 2)), "One seed: no intervals over seeds"),
        (_rows(method=("random",)), "No random baseline"),
        ({"results": [{k: v for k, v in row.items() if k != "score"} for row in made_rows()[0]]}, "No task metric"),
        ({"results": [{k: v for k, v in row.items() if k != "n_tokens"} for row in made_rows()[0]]}, "tokens are not"),
        (_rows(seed=(1, 2)) | {"examples": []}, "24 are not tested: one seed on a side"),
    ],
)
def test_missing_pieces_are_said(changes: dict[str, Any], expected: str) -> None:
    study = made_study(**changes)
    summary = summarise(study)
    assert any(expected in text for text in caveats(study, summary)), caveats(study, summary)
    assert headline(study, summary)


def test_tokens_of_one_budget_are_known_though_there_is_no_table_of_them() -> None:
    study = made_study(**_rows(budget=("10%",)))
    summary = summarise(study)
    assert not len(summary.equal_tokens)
    assert caveats(study, summary) == []
    rows = [{k: v for k, v in row.items() if k != "n_tokens" or row["method"] == "zero-shot"} for row in made_rows()[0]]
    study = made_study(results=rows)
    assert any("Supervised tokens are not known" in text for text in caveats(study, summarise(study)))


def test_a_finished_study_has_no_caveats() -> None:
    study = made_study()
    assert caveats(study, summarise(study)) == []


def test_one_budget_and_one_method() -> None:
    study = made_study(**_rows(budget=("10%",), method=("rds", "quantile")))
    summary = summarise(study)
    assert headline(study, summary)[0].startswith("Test loss: on 1 of 2 targets less beats random at every budget (t1)")
    assert "all" not in set(summary.ranks["budget"])
    assert np.isnan(summary.ranks["p"]).all()
