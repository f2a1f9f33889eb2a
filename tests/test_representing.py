"""Every representation end to end on the tiny model: rows, similarities, picks, what is computed, what is refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.config import load_config
from tamis.errors import InputError, ModelError
from tamis.methods import REPRESENTATIONS, SELECTORS, misfit
from tamis.pipeline import Pipeline
from tamis.representations.sentence import load_encoder
from tamis.representing import lr_weights
from tamis.store.leftovers import leftovers
from tamis.store.shards import unpack_ids

METHODS = [
    f"{representation}+{selector}"
    for representation in REPRESENTATIONS
    for selector in SELECTORS
    if selector != "random" and misfit(representation, selector) is None
]


@pytest.fixture
def run(settings: dict[str, Any], workspace: Path, encoder: str) -> Any:
    """run(method, progress=None, …): a pipeline on the workspace of a finished LESS run; "." is "__" in settings."""

    def make(method: str, progress: Any = None, **changes: Any) -> Pipeline:
        more = {key.replace("__", "."): value for key, value in changes.items()}
        base = {**settings, "workspace": str(workspace), "represent.encoder": encoder, "pick.method": method}
        return Pipeline(load_config(None, {**base, **more}), progress)

    return make


@pytest.mark.parametrize("method", METHODS)
def test_every_method_picks_what_was_asked_for(run: Any, method: str) -> None:
    options = {"tagcos": {"n_clusters": 2}}.get(method.split("+")[1], {})
    selection = run(method, pick__options=options).pick()
    assert len(set(selection.ids)) == 6
    assert selection.manifest["representation"] == method.split("+")[0]


@pytest.mark.parametrize("name", ["rds", "embed"])
def test_a_similarity_is_the_cosine_of_rows_and_a_second_run_computes_none(run: Any, name: str, recorder: Any) -> None:
    scored = run(name).score()
    one = run(name, first := recorder())
    pool, targets = one.pool_rows, one.target_rows
    [rows], [target] = pool.by_checkpoint, targets.by_checkpoint
    np.testing.assert_allclose(np.linalg.norm(rows[:], axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(scored.values, target[:] @ rows[:].T, atol=1e-5)
    assert set(first.n_todo.values()) == {0}
    assert scored.targets.ids == one.inputs.target.ids
    # with the norms that were kept, the dot product
    norms = [store.norms(part.examples.ids) for part in (targets, pool) for store in part.stores]
    dots = run(name, represent__normalize=False).score().values
    np.testing.assert_allclose(dots, scored.values * np.outer(*norms), rtol=1e-4, atol=1e-5)


def test_unnormalised_influence_is_the_weighted_dot_product(run: Any) -> None:
    one = run("less", represent__normalize=False)
    pool, targets = one.pool_rows, one.target_rows
    expected = sum(
        weight
        * np.outer(t.norms(targets.examples.ids), p.norms(pool.examples.ids))
        * (t.rows(targets.examples.ids) @ p.rows(pool.examples.ids).T)
        for weight, t, p in zip(pool.lr_weights, targets.stores, pool.stores, strict=True)
    )
    np.testing.assert_allclose(one.score().values, expected, rtol=1e-4)
    assert one.score().path != run("less").score().path
    np.testing.assert_allclose(
        one.pool_rows.combined[:],
        sum(
            weight * p.norms(pool.examples.ids)[:, None] * p.rows(pool.examples.ids)
            for weight, p in zip(pool.lr_weights, pool.stores, strict=True)
        ),
        rtol=1e-4,
        atol=1e-6,
    )


def test_fewer_checkpoints(run: Any, recorder: Any) -> None:
    both = run("less").pool_rows.stores
    for wanted, places in (([2], [1]), ([-1], [1]), ([1], [0]), ([2, 1], [1, 0]), ([1, 2], [0, 1])):
        one = run("less", progress := recorder(), represent__checkpoints=wanted)
        assert [store.folder for store in one.pool_rows.stores] == [both[place].folder for place in places]
        rates = [checkpoint.mean_learning_rate for checkpoint in one.checkpoints]
        assert one.pool_rows.lr_weights == pytest.approx([rate / sum(rates) for rate in rates])
        assert set(progress.n_todo.values()) == {0}
    with pytest.raises(InputError, match=r"represent.checkpoints: expected numbers from 1 to 2 .*, got \[3\]"):
        run("less", represent__checkpoints=[3]).score()
    for twice in ([2, -1], [1, 1]):
        with pytest.raises(InputError, match="expected each checkpoint once"):
            run("less", represent__checkpoints=twice).score()
    for wrong in ([], [0]):
        with pytest.raises(InputError, match="expected checkpoints counted from 1"):
            run("less", represent__checkpoints=wrong)


@pytest.mark.parametrize("adam", ["sgd", "sign", "less"])
def test_other_directions_have_stores_of_their_own(run: Any, adam: str) -> None:
    one = run("less", represent__adam=adam)
    assert {store.recipe["adam"] for store in one.pool_rows.stores} == {adam}
    assert len(one.pick()) == 6
    if adam == "sgd":  # of which the target has the same: one store for both
        assert [s.folder for s in one.pool_rows.stores] == [s.folder for s in one.target_rows.stores]


@pytest.mark.parametrize("dtype", ["int8", "sign"])
def test_pool_rows_are_quantised_and_target_rows_are_not(run: Any, dtype: str) -> None:
    one, fine = run("less", represent__store_dtype=dtype), run("less")
    assert {store.recipe.get("store_dtype") for store in one.pool_rows.stores} == {dtype}
    assert [s.folder for s in one.target_rows.stores] == [s.folder for s in fine.target_rows.stores]
    tolerance = 0.02 if dtype == "int8" else 0.5
    np.testing.assert_allclose(one.score().values, fine.score().values, atol=tolerance)
    assert np.corrcoef(one.score().values.ravel(), fine.score().values.ravel())[0, 1] > 0.7
    assert len(one.pick()) == 6
    assert run("loss", represent__store_dtype=dtype).pool_rows.stores[0].recipe.get("store_dtype") is None


@pytest.mark.parametrize("name", ["loss", "perplexity", "ifd"])
def test_rankings_need_no_target_and_look_at_none(run: Any, name: str, recorder: Any) -> None:
    with_target = run(name, notes := recorder())
    picked = with_target.pick().ids
    assert f"{name} does not look at the target, but for leaks" in notes.notes
    without = run(name, data__target=[])
    scored = without.score()
    assert (scored.values.shape, len(scored.targets)) == ((1, len(scored.pool)), 0)
    order = np.argsort(-scored.values[0], kind="stable")[:6]
    assert without.pick().ids == picked == [scored.pool.ids[i] for i in order]
    assert without.pick().taken_by == [None] * 6
    lowest = run(name, data__target=[], represent__prefer="lowest")
    assert lowest.pick().ids != picked
    if name != "ifd":  # whose rows at 1 or above are last here and there
        np.testing.assert_array_equal(lowest.score().values, -scored.values)


def test_a_ranking_is_the_loss_of_the_base_model(run: Any) -> None:
    from tamis.evaluation.loss import losses
    from tamis.model.load import load_base
    from tamis.representations.loss import alone

    one = run("loss")
    scored = one.score()
    expected = losses(load_base(one.inputs.source), [one.inputs.encode(e) for e in scored.pool])
    np.testing.assert_allclose(scored.values[0], expected, rtol=1e-5)
    without = losses(load_base(one.inputs.source), [alone(one.inputs.encode(e)) for e in scored.pool])
    ratio = expected / without
    np.testing.assert_allclose(run("ifd").score().values[0], np.where(ratio < 1, ratio, -ratio), rtol=1e-5)
    perplexity = run("perplexity").score().values[0]
    np.testing.assert_allclose(perplexity, np.exp(expected), rtol=1e-4)
    assert run("perplexity").pool_rows.stores[0].folder == one.pool_rows.stores[0].folder


def test_several_projection_seeds_are_made_in_one_pass(
    run: Any, recorder: Any, workspace: Path, tmp_path: Path
) -> None:
    for seed in (0, 2):
        shutil.copytree(workspace / "checkpoints", tmp_path / str(seed) / "checkpoints")
    one = run("less", progress := recorder(), represent__dim=48)
    first = run("less", represent__dim=48, represent__projection_seed=1).score()  # of the three one is there
    scored = one.score_seeds(3)
    assert [s for s in progress.stages if "features" in s] == [
        f"{what} features {n}/2" for what in ("target", "pool") for n in (1, 2)
    ]
    assert scored[1].path == first.path
    for seed in (0, 2):
        alone = run("less", represent__dim=48, represent__projection_seed=seed, workspace=str(tmp_path / str(seed)))
        np.testing.assert_allclose(alone.score().values, scored[seed].values, atol=1e-6)
        assert alone.score().path.name == scored[seed].path.name
    assert len({s.values.tobytes() for s in scored}) == 3
    with pytest.raises(InputError, match="rds has no projection, so it has no seeds to vary"):
        run("rds").score_seeds(2)


def test_what_does_not_go_together_is_refused(run: Any) -> None:
    with pytest.raises(InputError, match=r"represent\.normalize=false: bm25 has no rows"):
        run("bm25", represent__normalize=False)
    with pytest.raises(InputError, match=r"knn_uniform takes 1 − similarity for a distance, which wants cosines"):
        run("less+knn_uniform", represent__normalize=False)
    with pytest.raises(InputError, match="herding looks at feature rows, and dsir has scores"):
        run("dsir+herding")
    for method in ("bm25", "random"):
        with pytest.raises(InputError, match="keeps no rows: there is nothing to represent"):
            run(method).represent_all()
    for folder in ("/nowhere", "./nowhere", "~/nowhere"):
        with pytest.raises(ModelError, match="no such folder"):
            run("embed", represent__encoder=folder).score()


def test_embeddings_need_no_language_model(run: Any) -> None:
    one = run("embed", model__name=None)
    assert len(one.pick()) == 6
    assert len(one.pool_rows.examples) == 20  # the row that no template writes and the one without room to answer too


def test_dsir_keeps_groups_and_named_targets_apart(run: Any, settings: dict[str, Any]) -> None:
    values = run("dsir").score().values
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[2], values[3])
    assert not np.array_equal(values[0], values[2])
    file = settings["data.target"]
    named = {"data.targets.a.files": [file], "data.targets.b.files": [file]}
    one = run("dsir", **{"data.target": [], **named})
    assert np.array_equal(one.score().values, np.concatenate([values, values]))
    assert run("dsir", represent__smoothing=1.0).score().path != run("dsir").score().path


def test_without_warm_up_the_adapter_is_untrained_and_adam_takes_its_first_step(run: Any, recorder: Any) -> None:
    from safetensors.numpy import load_file

    one = run("less", warmup__epochs=0)
    [checkpoint] = one.checkpoints
    assert (checkpoint.folder.name, checkpoint.step, checkpoint.mean_learning_rate) == ("epoch-0", 0, 1e-2)
    weights = load_file(checkpoint.folder / "adapter_model.safetensors")
    assert all(bool(w.any()) == ("lora_A" in name) for name, w in weights.items())  # PEFT starts with B = 0
    assert not any(w.any() for w in load_file(checkpoint.folder / "adam.safetensors").values())
    assert len(one.pick()) == 6
    again = run("less", second := recorder(), warmup__epochs=0)
    assert again.checkpoints == one.checkpoints
    assert again.pick().ids == one.pick().ids
    assert set(second.n_todo.values()) == {0}
    # Γ = g / (|g| + ε): of every coordinate that is not tiny the sign
    none = {"represent__projection": "none", "warmup__epochs": 0}
    adam, sign = (run("less", represent__adam=form, **none).pool_rows for form in ("torch", "sign"))
    np.testing.assert_allclose(
        adam.stores[0].rows(adam.examples.ids), sign.stores[0].rows(sign.examples.ids), atol=3e-3
    )


def test_a_row_skipped_at_one_checkpoint_alone_is_left_out(run: Any) -> None:
    one = run("less")
    store, usable = one.pool_rows.stores[0], one.pool_rows.examples.ids
    gone = usable[0]

    def assigned(path: Path) -> list[str]:
        return unpack_ids(store._ids(path).assigned)

    [path] = [p for p in store.folder.glob("*.safetensors") if gone in assigned(p)]
    ids = assigned(path)
    kept = [id_ for id_ in ids if id_ not in store.skipped() and id_ != gone]
    rows, norms, n_tokens = store.rows(kept), store.norms(kept), store.n_tokens(kept)
    skipped = {id_: reason for id_, reason in store.skipped().items() if id_ in ids} | {gone: "made up"}
    path.unlink()
    store.write(ids, rows, norms, n_tokens, kept, skipped)
    assert run("less").pool_rows.examples.ids == usable[1:]


def test_what_has_no_effect_is_said(
    run: Any, recorder: Any, cli: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    run("rds", said := recorder(), represent__adam="sign", represent__checkpoints=[77])
    [note] = [note for note in said.notes if note.startswith("without effect")]
    assert note.startswith("without effect with rds: represent.checkpoints, represent.adam, represent.dim")
    run("less", said := recorder(), represent__prefer="lowest")
    assert "without effect with less: represent.encoder, represent.prefer" in said.notes
    words = [f"{key}={value}" for key, value in settings.items()]
    where = ("--method", "random", "--workspace", tmp_path / "ws", "--out", tmp_path / "out")
    assert "without effect but in tamis score" in cli("select", *words, *where, "score.bootstrap=5").stderr


def test_weights_of_checkpoints_without_a_learning_rate(run: Any) -> None:
    first, second = run("less").checkpoints
    none = [replace(c, mean_learning_rate=0.0) for c in (first, second)]
    assert lr_weights(none[:1]) == [1.0]
    assert lr_weights([none[0], second]) == [0.0, 1.0]
    with pytest.raises(InputError, match="mean learning rates of zero"):
        lr_weights(none)


def test_a_token_budget_without_a_model_is_refused_before_any_work(run: Any, recorder: Any) -> None:
    one = run("embed", progress := recorder(), model__name=None, pick__budget="50tok")
    with pytest.raises(InputError, match="no model given"):
        one.pick()
    assert progress.stages == []


def test_the_manifest_says_what_rows_were_made_by(run: Any, encoder: str) -> None:
    manifest = run("embed", model__name=None).pick().manifest
    assert {recipe["encoder"] for recipe in manifest["stores"].values()} == {load_encoder(encoder, "cpu", False)[1]}
    assert "sentence-transformers" in manifest["versions"]


def test_checkpoints_kept_elsewhere_are_remembered_so_that_gc_keeps_their_features(
    run: Any, workspace: Path, tmp_path: Path
) -> None:
    [warmup] = (path for path in (workspace / "checkpoints").iterdir() if path.is_dir())
    here = tmp_path / "ws"
    one = run("less", workspace=str(here), warmup__checkpoints=str(warmup))
    one.score()
    run("less", workspace=str(here), warmup__epochs=0).score()  # so that some checkpoint is known
    for path in here.rglob("*"):
        os.utime(path, (0, 0))
    os.utime(here / "features", (0, 0))
    assert leftovers(here) == []
    for note in (here / "checkpoints").glob("given-*.json"):
        note.unlink()
    assert len(leftovers(here)) == 4


def test_a_similarity_that_is_not_finite_is_not_kept(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tamis.representations import loss

    plain = loss.ranking

    def broken(*given: Any) -> np.ndarray:
        values = plain(*given)
        values[3] = np.nan
        return values

    monkeypatch.setattr(loss, "ranking", broken)
    one = run("loss")
    fourth = one.pool_rows.examples[3]
    with pytest.raises(InputError, match=rf"the similarity of row 0 to .* row {fourth.row} is nan: leave that row out"):
        one.score()
    monkeypatch.setattr(loss, "ranking", plain)
    assert np.isfinite(run("loss").score().values).all()


@pytest.mark.parametrize("name", ["rds", "embed", "bm25", "loss"])
def test_a_pool_that_is_not_there_is_known_before_any_work(run: Any, recorder: Any, name: str) -> None:
    for act in ("score", "represent_all", "pick"):
        one = run(name, progress := recorder(), data__pool="/nowhere.jsonl")
        with pytest.raises(InputError, match=r"no such file|keeps no rows"):
            getattr(one, act)()
        assert progress.stages in ([], ["read"])
