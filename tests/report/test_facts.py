"""The numbers of a selection's report, by hand and by brute force."""

import json
from typing import Any

import numpy as np
import pytest
from looking import compared, example, looked_at

from tamis.data.example import Example, Message
from tamis.data.index import Labels
from tamis.data.pool import Pool
from tamis.report.coverage import coverage_facts
from tamis.report.facts import N_SAMPLED, composition, length_facts, near_facts, selection_facts
from tamis.report.scores import score_facts
from tamis.report.selection_figures import selection_figures
from tamis.selectors import doubly_greedy, round_robin, top_k

POOL = [example("s" if k % 4 else "u", row=k, row_id=f"r{k}") for k in range(60)]
TARGETS = [example(row=100 + k, row_id=f"t{k}", group="gh"[k % 2]) for k in range(5)]
VALUES = np.random.default_rng(1).normal(size=(5, 60)).astype(np.float32)


def looked(picked: Any, selector: str = "top_k", **changes: Any) -> Any:
    targets = Pool.of(TARGETS, keep_duplicates=True)
    return looked_at(POOL, [int(i) for i in picked], targets=targets, values=VALUES, selector=selector, **changes)


# ---- composition ---------------------------------------------------------------------------------------------------


def labels(values: list[str | None]) -> Labels:
    names = list(dict.fromkeys(values))
    return Labels(np.array([names.index(value) for value in values], np.int32), names)


def test_composition_counts_pool_and_picks_and_what_chance_would_give() -> None:
    lines = composition(labels(["a"] * 50 + ["b"] * 40 + [None] * 10), [50, 51, 52, 0])
    assert [(line["name"], line["n_pool"], line["n_picked"]) for line in lines] == [
        ("b", 40, 3),
        ("a", 50, 1),
        (None, 10, 0),
    ]
    assert composition(labels(["a", "a"]), [0, 1]) == [{"name": "a", "n_pool": 2, "n_picked": 2, "low": 2, "high": 2}]


def test_of_very_many_labels_the_last_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.report.facts.N_LABELS", 2)
    lines = composition(labels(["a", "b", "c", "d", "d", "d"]), [3, 4, 1])
    counts = [(line["name"], line["n_pool"], line["n_picked"]) for line in lines]
    assert counts == [("d", 3, 2), ("b", 1, 1), ("(2 others)", 2, 0)]


def test_random_picks_leave_the_range_about_once_in_a_hundred_times() -> None:
    rng = np.random.default_rng(0)
    pool = labels(["a"] * 300 + ["b"] * 700)
    outside = 0
    for _ in range(400):
        [line] = [x for x in composition(pool, rng.choice(1000, 100, replace=False).tolist()) if x["name"] == "a"]
        outside += not line["low"] <= line["n_picked"] <= line["high"]
    assert outside <= 10


# ---- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reduce", "groups"), [("group_mean_max", True), ("mean", False), ("max", False)])
def test_the_cut_parts_picks_from_the_rest(reduce: str, groups: bool) -> None:
    labels = [target.group for target in TARGETS] if groups else None
    picks = top_k(VALUES, n_examples=12, groups=labels, reduce=reduce)
    [panel] = score_facts(looked(picks.indices, reduce=reduce))["panels"]
    assert panel["cut"] == pytest.approx(float(picks.scores[-1]))
    assert (panel["n_above"], panel["n_picked"], sum(panel["picks"]), sum(panel["pool"])) == (0, 12, 12, 60)
    assert panel["of_picks"][-1] == pytest.approx(float(picks.scores[0]))
    [without] = score_facts(looked(picks.indices[[0, *range(2, 12)]], reduce=reduce))["panels"]
    assert without["n_above"] == 1


def test_several_targets_have_a_panel_each_with_the_picks_they_took() -> None:
    parts = [("one", slice(0, 2)), ("two", slice(2, 5))]
    best = [doubly_greedy(VALUES[part], n_examples=3) for _, part in parts]
    picked = [*best[0].indices, *best[1].indices, 7]
    facts = score_facts(looked(picked, "doubly_greedy", parts=parts, rankings=[0] * 3 + [1] * 3 + [-1]))
    for panel, picks, (name, part) in zip(facts["panels"], best, parts, strict=True):
        assert (panel["name"], panel["n_picked"]) == (name, 3)
        assert panel["cut"] == pytest.approx(float(picks.scores[-1]))
        assert panel["of_pool"][-1] == pytest.approx(VALUES[part].max())
    assert facts["no_cut"] is None
    assert "the selector ranks by it" in facts["score"]


def test_where_there_is_no_one_cut_the_rows_left_above_are_counted() -> None:
    picks = round_robin(VALUES, n_examples=10)
    facts = score_facts(looked(picks.indices, "round_robin"))
    [panel] = facts["panels"]
    highest = VALUES.max(axis=0)
    assert panel["cut"] == pytest.approx(highest[picks.indices].min())
    assert panel["n_above"] == (highest >= highest[picks.indices].min()).sum() - 10
    assert "take turns" in facts["no_cut"]


def test_scores_with_a_long_tail_have_bins_of_equal_ratio() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 2.5, (1, 60))).astype(np.float32)
    [panel] = score_facts(looked_at(POOL, [int(values.argmax())], values=values, selector="top_k"))["panels"]
    ratios = np.diff(np.log(panel["edges"]))
    assert panel["log"]
    assert ratios == pytest.approx(ratios[0])
    assert sum(panel["pool"]) == 60


@pytest.mark.parametrize("selector", ["random", "tagcos", "k_center", "matching_pursuit"])
def test_methods_without_scores_say_so(selector: str) -> None:
    facts = score_facts(looked_at(POOL, [0], selector=selector))
    assert facts.keys() == {"absent"}
    assert len(facts["absent"]) > 20


# ---- coverage ------------------------------------------------------------------------------------------------------


def test_coverage_tells_of_each_target_row() -> None:
    picked = [3, 9, 27, 4]
    facts = coverage_facts(looked(picked, takers=[0, 0, 4, None], rankings=[0, 0, 0, -1]))
    assert [row["n_picks"] for row in facts["rows"]] == [2, 0, 0, 0, 1]
    assert [row["id"] for row in facts["rows"]] == ["t0", "t1", "t2", "t3", "t4"]
    assert [row["best"] for row in facts["rows"]] == pytest.approx(VALUES[:, picked].max(axis=1))
    assert [row["mean"] for row in facts["rows"]] == pytest.approx(VALUES[:, picked].mean(axis=1))
    assert [row["best_pool"] for row in facts["rows"]] == pytest.approx(VALUES.max(axis=1))
    assert facts["rows"][0]["text"] == "Question 100 Yes."
    assert facts["targets"] == [{"name": "target", "n_rows": 5, "n_picks": 3}]
    assert [(g["group"], g["n_rows"], g["n_picks"], g["n_idle"]) for g in facts["groups"]] == [
        ("g", 3, 3, 1),
        ("h", 2, 0, 2),
    ]


def test_long_texts_of_target_rows_are_cut_where_one_can_see_it() -> None:
    asked = ["a word " * 100, "x" * 500, "y" * 155, "short\n and  sweet"]
    targets = Pool.of([Example.of([Message("user", text), Message("assistant", "ok")], source="s") for text in asked])
    one = looked_at(POOL, [1], targets=targets, values=VALUES[:4], parts=[("target", slice(0, 4))])
    texts = [row["text"] for row in coverage_facts(one)["rows"]]
    assert [len(text) for text in texts] == [160, 160, 158, 18]
    assert [text[-1] for text in texts] == ["…", "…", "k", "k"]


def test_coverage_of_named_targets() -> None:
    parts = [("one", slice(0, 2)), ("two", slice(2, 5))]
    facts = coverage_facts(looked([1, 2], parts=parts, rankings=[1, 1], takers=[2, 4]))
    assert [row["target"] for row in facts["rows"]] == ["one", "one", "two", "two", "two"]
    assert [(t["n_rows"], t["n_picks"]) for t in facts["targets"]] == [(2, 0), (3, 2)]
    of_means = coverage_facts(looked_at(POOL, [1, 2], targets=Pool.of(TARGETS), parts=parts, rankings=[0, 1]))
    assert [(t["n_rows"], t["n_picks"]) for t in of_means["targets"]] == [(2, 1), (3, 1)]
    assert "mean of a target's rows" in of_means["absent"]


def test_without_target_rows_there_is_no_coverage() -> None:
    assert "does not look at a target" in coverage_facts(looked_at(POOL, [1]))["absent"]
    ranking = looked_at(POOL, [1], values=VALUES[:1], ranked_by="loss (highest first)")
    assert "ranks by loss (highest first) alone" in coverage_facts(ranking)["absent"]
    assert "No target rows were given" in coverage_facts(looked_at(POOL, [1], values=VALUES))["absent"]


# ---- lengths, near-duplicates --------------------------------------------------------------------------------------


def test_lengths_of_picks_and_pool() -> None:
    pool = [example(answer="x" * k, row=k) for k in range(101)]
    facts = length_facts(Pool.of(pool), pool[50:61], None, 0)
    assert facts["unit"] == "characters of the replies"
    assert facts["of_pool"] == [0, 25, 50, 75, 100]
    assert facts["of_picks"] == [50, 52.5, 55, 57.5, 60]
    assert (sum(facts["pool"]), sum(facts["picks"]), facts["total"]) == (101, 11, 605)
    tokens = length_facts(Pool.of(pool), pool[:2], lambda e: 10 * e.row, 0)
    assert (tokens["unit"], tokens["of_pool"][-1]) == ("supervised tokens", 1000)


def test_of_a_large_pool_a_seeded_sample_is_measured() -> None:
    pool = Pool.of(example(answer="x" * (k % 90), row=k) for k in range(N_SAMPLED + 500))
    measured: list[int] = []

    def measure(one: Example) -> int:
        measured.append(one.row)
        return one.row

    facts = length_facts(pool, [pool[0]], measure, 3)
    assert (facts["n_sampled"], facts["n_pool"], len(set(measured[:-1]))) == (N_SAMPLED, N_SAMPLED + 500, N_SAMPLED)
    assert facts == length_facts(pool, [pool[0]], measure, 3)
    assert facts != length_facts(pool, [pool[0]], measure, 4)


def test_only_what_the_loss_counts_is_a_reply() -> None:
    turns = [Message("user", "12345"), Message("assistant", "12"), Message("assistant", "1234", in_loss=False)]
    one = Example.of(turns, source="s")
    assert length_facts(Pool.of([one]), [one], None, 0)["of_picks"] == [2] * 5


def test_near_duplicates_among_picks_are_paired() -> None:
    text = " ".join(f"word{k}" for k in range(40))
    rows = [example(answer=text + end, row=1) for end in ("", " a", " a b")]
    rows[1:1] = [example(answer=f"quite another {k} " * 9, row=k) for k in range(20, 24)]
    facts = near_facts(rows)
    assert (facts["n_checked"], facts["n_pairs"], facts["n_rows"]) == (7, 3, 3)
    assert [pair["ranks"] for pair in facts["pairs"]] == [[6, 7], [1, 6], [1, 7]]
    values = [pair["similarity"] for pair in facts["pairs"]]
    assert values == sorted(values, reverse=True)
    assert min(values) >= facts["threshold"]


def test_the_search_for_near_duplicates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [example(answer="the same few words again and again", row=1) for k in range(30)]
    monkeypatch.setattr("tamis.report.facts._MOST_PAIRS", 50)
    assert near_facts(rows)["n_checked"] == 11  # 55 pairs
    monkeypatch.setattr("tamis.report.facts.N_NEAR", 5)
    assert near_facts(rows)["n_checked"] == 5


# ---- all of it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_picked", [1, 60])
def test_facts_are_plain_data_and_can_be_drawn(n_picked: int) -> None:
    one = compared(POOL, TARGETS, range(n_picked), [0] * n_picked)
    facts = selection_facts(one, [one.pool[i] for i in one.picked], None, 0)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["groups"] == []
    assert facts["picks"][0]["taker"]["id"] == "t0"
    assert set(selection_figures(facts)) == {"scores", "coverage", "lengths"}
    assert set(selection_figures(facts | {"scores": {"absent": ""}, "coverage": {"absent": ""}})) == {"lengths"}


def test_a_constant_score_can_be_drawn() -> None:
    one = looked_at(POOL, [0, 1], values=np.ones((1, 60), np.float32), selector="top_k")
    facts = selection_facts(one, POOL[:2], None, 0)
    assert facts["scores"]["panels"][0]["n_above"] == 58
    [pool, picks] = selection_figures(facts)["scores"].axes[0].patches
    assert (pool.get_label(), picks.get_label()) == ("pool", "picked")
