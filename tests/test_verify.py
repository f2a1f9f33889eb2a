"""`verify`: whole things are counted, damaged ones named; shards are set aside and recomputed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.config import load_config
from tamis.errors import InputError
from tamis.pipeline import select
from tamis.store.convert import convert
from tamis.verify import verify_folder

Contents = Callable[[Path], dict[str, bytes]]

N_WHOLE = 2 * 1 + 2 * 3 + 2 + 1  # shards of the target and of the pool, checkpoints, similarity


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 8
    path.write_bytes(data)


def test_a_whole_workspace(workspace: Path) -> None:
    assert verify_folder(workspace) == (N_WHOLE, [])
    assert verify_folder(workspace / "checkpoints") == (2, [])


def test_a_damaged_shard_is_set_aside_and_computed_again(
    workspace: Path, settings: dict[str, Any], recorder: Any, contents: Contents
) -> None:
    before = contents(workspace)
    shard = max(workspace.glob("features/*/*.safetensors"), key=lambda path: path.stat().st_size)
    flip(shard)
    n_whole, [(aside, reason)] = verify_folder(workspace)
    assert (n_whole, aside) == (N_WHOLE - 1, shard.with_name(shard.name + ".damaged"))
    assert "checksum" in reason
    assert verify_folder(workspace) == (N_WHOLE - 1, [])
    told = recorder()
    select(load_config(None, {**settings, "workspace": str(workspace)}), told)
    assert sorted(told.n_todo.values()) == [0, 0, 0, 8]
    aside.unlink()
    assert contents(workspace) == before


@pytest.mark.parametrize("name", ["adam.safetensors", "adapter_model.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(workspace: Path, name: str) -> None:
    [path] = workspace.glob(f"checkpoints/*/epoch-2/{name}")
    flip(path)
    n_whole, [(folder, reason)] = verify_folder(workspace)
    assert (n_whole, folder) == (N_WHOLE - 1, path.parent)
    assert "remove" in reason
    assert "run `tamis warmup` again" in reason


@pytest.mark.parametrize(
    "damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-8]), lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("pattern", ["*.npy", "*.ids"])
def test_a_damaged_similarity_is_set_aside_and_computed_again(
    workspace: Path, settings: dict[str, Any], contents: Contents, damage: Callable[[Path], Any], pattern: str
) -> None:
    before = contents(workspace)
    [path] = workspace.glob(f"similarity/{pattern}")
    damage(path)
    [(aside, reason)] = verify_folder(workspace)[1]
    assert aside.name.endswith(".npy.damaged")
    assert "the next run makes both again" in reason
    select(load_config(None, {**settings, "workspace": str(workspace)}))
    aside.unlink()
    assert contents(workspace) == before


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_text("{")])
def test_a_damaged_recipe_is_named_and_the_rest_is_checked(
    workspace: Path, settings: dict[str, Any], contents: Contents, damage: Callable[[Path], Any]
) -> None:
    before = contents(workspace)
    recipe = min(workspace.glob("features/*/recipe.json"))
    n_shards = len(list(recipe.parent.glob("*.safetensors")))
    damage(recipe)
    n_whole, [(path, reason)] = verify_folder(workspace)
    assert (n_whole, path) == (N_WHOLE - n_shards, recipe)
    assert "recipe" in reason
    recipe.unlink(missing_ok=True)
    select(load_config(None, {**settings, "workspace": str(workspace)}))
    assert contents(workspace) == before


def test_what_a_killed_warm_up_left_is_no_checkpoint(workspace: Path) -> None:
    [epoch] = workspace.glob("checkpoints/*/epoch-2")
    epoch.rename(epoch.with_name(".epoch-2.123.tmp"))
    assert verify_folder(workspace) == (N_WHOLE - 1, [])


def test_the_name_of_a_folder_above_does_not_matter(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    assert verify_folder(workspace.rename(tmp_path / "trainer" / "ws")) == (N_WHOLE, [])


def test_folders_that_hold_nothing_of_tamis_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; give a workspace"):
        verify_folder(tmp_path / "none")
    with pytest.raises(InputError, match="nothing here that tamis keeps"):
        verify_folder(tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "sign"])
def test_a_damaged_shard_of_a_quantised_store_is_set_aside_and_converted_again(
    workspace: Path, contents: Contents, dtype: str
) -> None:
    shard = max(workspace.glob("features/*/*.safetensors"), key=lambda path: path.stat().st_size)
    made = convert(shard.parent, dtype).store.folder
    before = contents(workspace)
    assert verify_folder(workspace) == (N_WHOLE + 3, [])
    flip(made / shard.name)
    n_whole, [(aside, reason)] = verify_folder(made)
    assert (n_whole, aside) == (2, made / f"{shard.name}.damaged")
    assert "checksum" in reason
    assert convert(shard.parent, dtype).n_made == 1
    aside.unlink()
    assert contents(workspace) == before
