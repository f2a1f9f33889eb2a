"""Filling a store: which rows it gets, which it skips and why."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tamis.data.chat import Encoded
from tamis.data.example import Example
from tamis.errors import DamagedError, ModelError
from tamis.model.batch import Batch, collate, example_losses
from tamis.model.checkpoint import Checkpoint, load_model_at, read_checkpoint
from tamis.model.load import ModelSource, trainable
from tamis.progress import Told
from tamis.representations import gradient, recipes
from tamis.representations.compute import fill_shards
from tamis.representations.recipes import GradientRecipe, feature_dim
from tamis.store import FeatureStore

NAN_TOKEN = 200
SILENT = Told()
IDS = tuple(f"{number:032x}" for number in range(6))


def shard(ids: Iterable[str]) -> list[Example]:
    """Examples of these ids, of which nothing else is looked at."""
    return [Example((), id_, None, "s", None, "f", 1) for id_ in ids]


def of(rows: dict[str, Encoded | str]) -> Callable[[Example], Encoded | str]:
    return lambda example: rows[example.id]


@pytest.fixture
def checkpoint(workspace: Path) -> Checkpoint:
    return read_checkpoint(next(workspace.glob("checkpoints/*/epoch-2")))


@pytest.fixture
def recipe(checkpoint: Checkpoint, tiny_model: Path) -> GradientRecipe:
    return GradientRecipe(
        source=ModelSource(str(tiny_model)),
        checkpoint=checkpoint,
        form="sgd",
        kind="none",
        dim=feature_dim("none", 0, checkpoint),
        projection_seeds=(0,),
        template="t",
        max_tokens=96,
        dtype="float32",
    )


@pytest.fixture
def rows() -> dict[str, Encoded | str]:
    rng = np.random.default_rng(0)
    return {
        id_: Encoded(rng.integers(0, 150, n).astype(np.int32), np.arange(n) >= n // 2, 0)
        for id_, n in zip(IDS, (9, 30, 14, 5, 22, 11), strict=True)
    }


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., FeatureStore]:
    """fill(recipe, rows, ...): a new store with one shard of these rows."""

    def run(
        recipe: GradientRecipe,
        rows: dict[str, Encoded | str],
        *,
        batch_tokens: int = 4096,
        told: Told = SILENT,
        **more: Any,
    ) -> Any:
        store = FeatureStore.open(tmp_path / f"store{len(list(tmp_path.iterdir()))}", recipe.to_dicts()[0])
        more = {"activation_checkpointing": False, **more}
        work = fill_shards(recipe, [store], of(rows), batch_tokens=batch_tokens, **more)
        assert work(shard(rows), told) == len(rows)
        assert store.held() == set(rows)
        return store

    return run


def test_rows_are_the_unit_gradients_and_their_norms(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any]
) -> None:
    model = load_model_at(recipe.source, recipe.checkpoint)
    parameters = trainable(model)
    assert recipe.dim == sum(parameter.numel() for parameter in parameters.values())
    store = fill(recipe, rows, batch_tokens=40)
    for id_, row, norm in zip(IDS, store.rows(IDS), store.norms(IDS), strict=True):
        loss = example_losses(model, collate([rows[id_]], torch.device("cpu")))[0]
        gradient = dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))
        expected = torch.cat([gradient[name].flatten() for name in sorted(gradient)]).numpy()
        assert np.isclose(norm, np.linalg.norm(expected), rtol=1e-5)
        assert np.allclose(row, expected / norm, atol=1e-3)
    assert store.n_tokens(IDS).tolist() == [rows[id_].n_supervised for id_ in IDS]


def test_activation_checkpointing_gives_the_same_rows(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any]
) -> None:
    plain, checkpointed = (fill(recipe, rows, activation_checkpointing=on).rows(IDS) for on in (False, True))
    assert np.allclose(plain, checkpointed, atol=1e-3)


def test_what_has_no_gradient_is_skipped_with_the_reason_and_hurts_no_neighbour(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][NAN_TOKEN] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    expected = fill(recipe, rows).rows(IDS)
    rows[IDS[1]] = "the chat template refuses this conversation"
    rows[IDS[2]] = "no completion token within 96 tokens"
    rows[IDS[4]].input_ids[3] = NAN_TOKEN
    store = fill(replace(recipe, source=ModelSource(str(broken))), rows)
    assert store.skipped() == {
        IDS[1]: "the chat template refuses this conversation",
        IDS[2]: "no completion token within 96 tokens",
        IDS[4]: "the gradient is not finite",
    }
    kept = [0, 3, 5]
    assert np.allclose(store.rows([IDS[k] for k in kept]), expected[kept], atol=1e-3)


def test_a_zero_gradient_is_skipped(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeroed(*given: Any) -> torch.nn.Module:
        model = load_model_at(*given)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.zero_()
        return model

    monkeypatch.setattr(recipes, "load_model_at", zeroed)
    assert fill(recipe, rows).skipped() == dict.fromkeys(IDS, "the gradient is zero")


def test_an_adapter_that_changed_is_refused_whatever_the_direction(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any]
) -> None:
    path = recipe.checkpoint.folder / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(DamagedError, match="expected fingerprint"):
        fill(replace(recipe, form="sgd"), rows)


def test_a_shard_without_one_usable_row_is_written(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any]
) -> None:
    store = fill(recipe, dict.fromkeys(rows, "no"))
    assert store.skipped() == dict.fromkeys(IDS, "no")
    assert store.verify() == []


def test_a_shard_that_another_writer_made_is_left_alone(
    recipe: GradientRecipe, rows: dict[str, Any], tmp_path: Path
) -> None:
    store = FeatureStore.open(tmp_path / "store", recipe.to_dicts()[0])
    work = fill_shards(recipe, [store], of(rows), batch_tokens=50, activation_checkpointing=False)
    computed: list[int] = []
    found: list[int] = []
    assert work(shard(IDS), Told(computed.append)) == len(IDS)
    [path] = store.folder.glob("*.safetensors")
    before = path.stat().st_mtime_ns
    assert work(shard(IDS), Told(found.append)) == 0
    assert path.stat().st_mtime_ns == before
    assert sum(found) == sum(computed) == sum(len(e.input_ids) for e in rows.values())


def test_where_memory_runs_out_the_shard_is_computed_again(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(recipe, rows)
    losses = gradient.example_losses
    notes: list[str] = []

    def allocate(model: Any, batch: Batch) -> Any:
        if batch.input_ids.numel() > 60 and batch.input_ids.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, batch)

    monkeypatch.setattr(gradient, "example_losses", allocate)
    store = fill(recipe, rows, told=Told(note=notes.append))
    assert notes == [
        "out of memory at 180 tokens a batch: going on with 90",
        "out of memory at 90 tokens a batch: going on with 45",
    ]
    assert [path.name for path in store.folder.glob("*.safetensors")] == [
        path.name for path in expected.folder.glob("*.safetensors")
    ]
    np.testing.assert_allclose(store.rows(IDS), expected.rows(IDS), atol=1e-3)
    np.testing.assert_allclose(store.norms(IDS), expected.norms(IDS), rtol=1e-4)


def test_rows_that_are_too_much_alone(
    recipe: GradientRecipe, rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore.open(tmp_path / "store", recipe.to_dicts()[0])
    work = fill_shards(recipe, [store], of(rows), batch_tokens=50, activation_checkpointing=False)

    def never(model: Any, batch: Batch) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gradient, "example_losses", never)
    with pytest.raises(ModelError, match="out of memory with single rows of up to 30 tokens: use a smaller"):
        work(shard(IDS), Told())
    assert list(store.folder.glob("*.safetensors")) == []

    def broken(model: Any, batch: Batch) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(gradient, "example_losses", broken)
    with pytest.raises(RuntimeError, match="something else"):
        work(shard(IDS), Told())


def test_everything_a_row_depends_on_is_in_its_recipe(recipe: GradientRecipe) -> None:
    sketch = replace(recipe, kind="sketch", dim=64)
    changed = [
        recipe,
        sketch,
        replace(sketch, kind="rademacher"),
        replace(sketch, dim=65),
        replace(sketch, projection_seeds=(1,)),
        replace(sketch, form="torch"),
        replace(sketch, template="u"),
        replace(sketch, max_tokens=97),
        replace(sketch, dtype="bfloat16"),
        replace(sketch, store_dtype="int8"),
        replace(sketch, store_dtype="sign"),
        replace(sketch, checkpoint=replace(recipe.checkpoint, fingerprint="0")),
        replace(sketch, checkpoint=replace(recipe.checkpoint, base_digest="0")),
    ]
    assert len({str(one.to_dicts()) for one in changed}) == len(changed)
    same = [  # where things are, and what only other projections read
        replace(recipe, projection_seeds=(1,)),
        replace(recipe, checkpoint=replace(recipe.checkpoint, folder=Path("/elsewhere"))),
        replace(recipe, source=ModelSource("/elsewhere", device="cpu")),
    ]
    assert all(one.to_dicts() == recipe.to_dicts() for one in same)


def test_several_projections_in_one_pass_are_each_as_by_itself(
    fill: Callable[..., FeatureStore], recipe: GradientRecipe, rows: dict[str, Any], tmp_path: Path
) -> None:
    several = replace(recipe, kind="sketch", dim=64, projection_seeds=(0, 5, 9), form="torch")
    stores = [FeatureStore.open(tmp_path / str(n), made_by) for n, made_by in enumerate(several.to_dicts())]
    rows[IDS[3]] = "no"
    work = fill_shards(several, stores, of(rows), batch_tokens=60, activation_checkpointing=False)
    work(shard(IDS), Told())
    for seed, store in zip((0, 5, 9), stores, strict=True):
        alone = fill(replace(several, projection_seeds=(seed,)), rows, batch_tokens=60)
        [mine], [other] = store.folder.glob("*.safetensors"), alone.folder.glob("*.safetensors")
        assert (mine.name, mine.read_bytes()) == (other.name, other.read_bytes())
    # one of them is there already: the others alone are written
    [gone] = stores[1].folder.glob("*.safetensors")
    kept = [path.stat().st_mtime_ns for store in (stores[0], stores[2]) for path in store.folder.glob("*.safetensors")]
    before = gone.read_bytes()
    gone.unlink()
    work(shard(IDS), Told())
    assert gone.read_bytes() == before
    assert kept == [
        path.stat().st_mtime_ns for store in (stores[0], stores[2]) for path in store.folder.glob("*.safetensors")
    ]
