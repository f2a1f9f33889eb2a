import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DamagedError, StoreError
from tamis.store import FeatureStore


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 25), rows_per_shard=st.integers(1, 9), data=st.data())
def test_round_trip(rows, n: int, rows_per_shard: int, data: st.DataObject) -> None:
    ids = rows.ids(n)
    kept = rows.kept(ids)
    asked = data.draw(st.lists(st.sampled_from(kept))) if kept else []  # any order, some of them several times
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.open(Path(folder), rows.recipe)
        rows.fill(store, ids, rows_per_shard)
        np.testing.assert_allclose(store.rows(asked), rows.features(asked), atol=5e-4)
        np.testing.assert_array_equal(store.norms(asked), rows.norm(asked))
        np.testing.assert_array_equal(store.n_tokens(asked), rows.n_tokens(asked))
        assert store.held() == set(ids)
        assert store.skipped() == rows.skipped(ids)
        assert store.todo(ids) == []
        assert store.verify() == []
        walked = list(store.shards(asked))
    assert sorted(np.concatenate([positions for positions, _ in walked]) if walked else []) == list(range(len(asked)))
    for positions, features in walked:
        np.testing.assert_allclose(features, rows.features([asked[position] for position in positions]), atol=5e-4)


def test_only_what_no_shard_holds_is_left_to_do(store: FeatureStore, rows) -> None:
    ids = rows.ids(20)
    rows.fill(store, ids[3:9])
    grown = [*ids[12:], *ids[:12], *ids[:12]]
    assert store.todo(grown) == [*ids[12:], *ids[:3], *ids[9:12]]
    assert store.plan(grown, 10) == [(*ids[12:], *ids[:2]), (ids[2], *ids[9:12])]


def test_has_is_about_the_very_same_assignment(store: FeatureStore, rows) -> None:
    ids = rows.ids(5)
    rows.write(store, ids)
    assert store.has(ids)
    assert not store.has(ids[:4])
    assert not store.has(ids[::-1])


def test_ids_without_a_row_are_an_error_that_counts_them(store: FeatureStore, rows) -> None:
    ids = rows.ids(40)
    rows.fill(store, ids[:30])
    n_skipped = len(rows.skipped(ids[:30]))
    assert n_skipped > 0
    with pytest.raises(StoreError, match=rf"of 40 .* 10 are missing and {n_skipped} are skipped.*`tamis represent`"):
        store.rows(ids)
    assert sum(len(positions) for positions, _ in store.shards(ids)) == 30 - n_skipped


def test_of_doubled_ids_the_lexically_first_shard_wins(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(30))
    shared, rest = ids[0], ids[1:]
    paths = {}
    for number, other in enumerate(rest[:4]):  # the same id with another row in every shard
        row = np.eye(6, dtype=np.float32)[[number, 5]]
        path = store.write([shared, other], row, np.ones(2), np.array([number, 0]), [shared, other], {})
        paths[path.name] = number
    winner = paths[min(paths)]
    assert store.n_tokens([shared]).tolist() == [winner]
    np.testing.assert_array_equal(store.rows([shared])[0], np.eye(6)[winner])
    assert [np.asarray(part).tolist() for _, part in store.shards([shared])] == [np.eye(6)[[winner]].tolist()]


def test_of_a_row_and_a_skip_the_lexically_first_shard_wins(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(30))
    seen = set()
    for first, second in zip(ids[::2], ids[1::2], strict=False):
        as_row = store.write([first], np.eye(6, dtype=np.float32)[:1], np.ones(1), np.array([1]), [first], {})
        no_row = np.zeros((0, 6), np.float32), np.zeros(0), np.zeros(0, np.int32)
        as_skipped = store.write([first, second], *no_row, [], {first: "NaN", second: "NaN"})
        row_wins = as_row.name < as_skipped.name
        seen.add(row_wins)
        assert (first in store.skipped()) is not row_wins
        assert len(list(store.shards([first]))) == int(row_wins)
    assert seen == {True, False}


def test_another_recipe_is_an_error_that_names_both_sides(store: FeatureStore, rows) -> None:
    other = {**rows.recipe, "projection": {"seed": 1}, "template": "chatml"}
    with pytest.raises(StoreError) as error:
        FeatureStore.open(store.folder, other)
    assert "projection.seed: 0 in the store, 1 asked for" in str(error.value)
    assert "template: '(nothing)' in the store, 'chatml' asked for" in str(error.value)
    assert "kind" not in str(error.value)
    assert FeatureStore.open(store.folder, rows.recipe) == FeatureStore.load(store.folder) == store


def test_a_folder_without_a_recipe_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"recipe\.json is missing.*`tamis represent`"):
        FeatureStore.load(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"dim": ', "", "[]", "7", '{"dim": 6}', '{"recipe": {"dim": 6}, "digest": "00"}', "[" * 10**5]
)
def test_a_recipe_that_is_not_as_written_is_damage(store: FeatureStore, rows, text: str) -> None:
    path = store.folder / "recipe.json"
    whole = path.read_text()
    for content in (text, whole.replace('"dim": 6', '"dim": 8')):
        path.write_text(content)
        for read in (FeatureStore.load, lambda folder: FeatureStore.open(folder, rows.recipe)):
            with pytest.raises(DamagedError, match="Delete this file, and the next run writes it again"):
                read(store.folder)
    path.unlink()
    FeatureStore.open(store.folder, rows.recipe)
    assert path.read_text() == whole


@pytest.mark.parametrize("recipe", [{}, {"dim": 0}, {"dim": "8"}])
def test_a_recipe_says_how_long_the_rows_are(tmp_path: Path, recipe: dict[str, object]) -> None:
    with pytest.raises(ValueError, match='positive whole number "dim"'):
        FeatureStore.open(tmp_path / "store", recipe)


def test_write_refuses_rows_that_are_not_unit_or_not_finite(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(10))[:2]
    good, norm, n_tokens = rows.features(ids), rows.norm(ids), rows.n_tokens(ids)
    for row in (np.full(6, np.nan), np.zeros(6), good[1] * 1.1):
        with pytest.raises(ValueError, match=f"unit rows.*{ids[1]}"):
            store.write(ids, np.stack([good[0], row]).astype(np.float32), norm, n_tokens, ids, {})
    with pytest.raises(ValueError, match=f"finite norm.*{ids[1]}"):
        store.write(ids, good, np.array([1.0, np.inf]), n_tokens, ids, {})
    with pytest.raises(ValueError, match=r"shape \(2, 6\), got \(2, 5\)"):
        store.write(ids, good[:, :5], norm, n_tokens, ids, {})
    assert store.held() == set()


def test_write_refuses_anything_but_the_ids_assigned(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(10))[:3]
    features, norm, n_tokens = rows.features(ids), rows.norm(ids), rows.n_tokens(ids)
    for assigned, of_rows, skipped in [
        (ids[:2], ids, {}),  # a row too many
        ([*ids, "ab" * 16], ids, {}),  # neither row nor skipped
        (ids, ids, {ids[0]: "both"}),
        ([*ids, ids[0]], ids, {}),  # assigned twice
        (ids, [ids[0], ids[0], ids[1]], {ids[2]: "why"}),
    ]:
        with pytest.raises(ValueError, match="assigned ids once"):
            store.write(assigned, features, norm, n_tokens, of_rows, skipped)


def test_float16_rows_are_kept_as_they_are(store: FeatureStore, rows) -> None:
    ids = rows.kept(rows.ids(10))
    features = rows.features(ids).astype(np.float16)
    store.write(ids, features, rows.norm(ids), rows.n_tokens(ids), ids, {})
    [(positions, part)] = store.shards(ids)
    np.testing.assert_array_equal(part, features[positions])
