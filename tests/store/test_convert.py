"""A converted store has the bytes of one written so, whatever stops the conversion on the way."""

import signal
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import DamagedError, InputError, StoreError
from tamis.inputs import digest
from tamis.store import FeatureStore
from tamis.store.convert import convert
from tamis.store.recipe import folder_name, with_store_dtype


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def written(tmp_path: Path, rows):
    """written(dtype): the folder of a store written in this dtype from float32 rows."""

    def make(dtype: str) -> Path:
        recipe = with_store_dtype(rows.recipe, dtype)
        store = FeatureStore.open(tmp_path / "written" / folder_name(recipe), recipe)
        rows.fill(store, rows.ids(60))
        return store.folder

    return make


@pytest.mark.parametrize("dtype", ["int8", "sign"])
def test_the_bytes_are_those_of_writing_in_that_dtype(store: FeatureStore, rows, written, dtype: str) -> None:
    rows.fill(store, rows.ids(60))
    before = contents(store.folder)
    done = convert(store.folder, dtype)
    expected = written(dtype)
    assert contents(done.store.folder) == contents(expected)
    assert done.store.folder.name == expected.name
    assert done.store.folder.parent == store.folder.parent
    assert contents(store.folder) == before
    assert (done.n_shards, done.n_made) == (15, 15)
    assert done.bytes_before == sum(len(data) for name, data in before.items() if name != "recipe.json")
    assert done.bytes_after == sum(p.stat().st_size for p in done.store.folder.glob("*.safetensors"))
    again = convert(store.folder, dtype)
    assert (again.n_made, again.bytes_after) == (0, done.bytes_after)


@pytest.mark.parametrize("dtype", ["float16", "int8", "sign"])
@pytest.mark.parametrize("recipe", [{"dim": 5}, {"kind": "gradient", "projection": {"seed": 3, "dim": 8}, "dim": 8}])
def test_the_folder_has_the_name_that_a_run_gives_it(recipe: dict[str, object], dtype: str) -> None:
    made_by = with_store_dtype(recipe, dtype)
    assert folder_name(made_by) == digest(made_by)
    assert with_store_dtype(made_by, "float16") == recipe


def test_what_is_added_to_the_pool_later_is_converted_later(store: FeatureStore, rows, written) -> None:
    rows.fill(store, rows.ids(20))
    assert convert(store.folder, "int8").n_made == 5
    rows.fill(store, rows.ids(60))
    assert convert(store.folder, "int8").n_made == 10
    done = convert(store.folder, "int8")
    assert done.n_made == 0
    assert contents(done.store.folder) == contents(written("int8"))


@pytest.mark.parametrize("n_published", [0, 1, 7])
def test_a_conversion_killed_at_a_shard_goes_on_there(store: FeatureStore, rows, spawn, written, n_published) -> None:
    rows.fill(store, rows.ids(60))
    killed = spawn(
        """
from tamis.store.convert import convert
publish, left = files.publish, [int(sys.argv[2])]
def publish_or_die(*paths):
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    publish(*paths)
files.publish = publish_or_die
convert(files.Path(sys.argv[1]), "sign")
        """,
        store.folder,
        n_published,
    )
    assert killed.wait() == -signal.SIGKILL
    done = convert(store.folder, "sign")
    assert done.n_made == 15 - max(0, n_published - 1)  # the recipe was the first to be published
    assert done.store.verify() == []
    [leftover] = done.store.folder.glob(".*.tmp")
    leftover.unlink()
    assert contents(done.store.folder) == contents(written("sign"))


def test_several_conversions_at_once_give_what_one_gives(store: FeatureStore, rows, spawn, written) -> None:
    rows.fill(store, rows.ids(60))
    script = "from tamis.store.convert import convert; convert(files.Path(sys.argv[1]), 'int8')"
    converters = [spawn(script, store.folder) for _ in range(3)]
    assert [converter.wait() for converter in converters] == [0, 0, 0]
    assert contents(convert(store.folder, "int8").store.folder) == contents(written("int8"))


def test_runs_within_the_store_too(store: FeatureStore, rows, monkeypatch: pytest.MonkeyPatch) -> None:
    rows.fill(store, rows.ids(4))
    monkeypatch.chdir(store.folder)
    assert convert(Path(), "int8").store.folder.parent == store.folder.parent


@pytest.mark.parametrize("store", ["int8", "sign"], indirect=True)
def test_only_float16_is_converted(store: FeatureStore, rows) -> None:
    rows.fill(store, rows.ids(8))
    for dtype in ("int8", "sign"):
        with pytest.raises(
            InputError, match=f"{store.folder}: its rows are {store.store_dtype}, .*cannot be made finer"
        ):
            convert(store.folder, dtype)
    assert list(store.folder.parent.iterdir()) == [store.folder]


def test_refuses_what_makes_no_sense(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of int8, sign, got 'float16'"):
        convert(store.folder, "float16")
    losses = FeatureStore.open(tmp_path / "losses", {"dim": 1})
    with pytest.raises(InputError, match="one number each"):
        convert(losses.folder, "int8")
    with pytest.raises(StoreError, match="no feature store here"):
        convert(tmp_path, "int8")


def test_damage_is_not_converted(store: FeatureStore, rows) -> None:
    """Features are checked as nowhere but in `verify`: under a new checksum, their damage could not be found again."""
    paths = rows.fill(store, rows.kept(rows.ids(12)), 4)
    whole = paths[1].read_bytes()
    row = rows.features(rows.kept(rows.ids(12))[4:5]).astype(np.float16).tobytes()
    start = whole.index(row)
    paths[1].write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
    with pytest.raises(DamagedError, match=f"{paths[1].name}.*checksum of features.*`tamis verify {store.folder}`"):
        convert(store.folder, "int8")
    store.set_aside(paths[1])
    done = convert(store.folder, "int8")
    assert not (done.store.folder / paths[1].name).exists()
    assert done.store.verify() == []
