"""A float16 store in another dtype, as a sibling, with the bytes that writing in that dtype would have given."""

from dataclasses import dataclass

from tamis.errors import InputError
from tamis.remote import Place
from tamis.store import files
from tamis.store import recipe as recipes
from tamis.store.feature_store import FeatureStore
from tamis.store.quantize import STORE_DTYPES, StoreDtype, quantize
from tamis.store.shards import encode_shard, read_shard

_TO: dict[str, StoreDtype] = {dtype: dtype for dtype in STORE_DTYPES if dtype != "float16"}


@dataclass(frozen=True, slots=True)
class Converted:
    """The new store; how many of its shards were made now (the others were there); bytes of all shards."""

    store: FeatureStore
    n_shards: int
    n_made: int
    bytes_before: int
    bytes_after: int


def convert(folder: Place, dtype: str) -> Converted:
    """Make the store beside this one that a run with this dtype would make, shard by shard.

    Shards that are there are passed over, so that an interrupted conversion goes on; any number of processes may
    convert or fill the new store at once. The float16 store stays.

    InputError unless the store is float16, its rows longer than one number, and `dtype` another. DamagedError for the
    first damaged shard: rows are checked before they are rounded.
    """
    source = FeatureStore.load(folder)
    if dtype not in _TO:
        raise InputError(f"expected a dtype to convert to of {', '.join(_TO)}, got {dtype!r}")
    to = _TO[dtype]
    if source.store_dtype != "float16":
        raise InputError(
            f"{folder}: its rows are {source.store_dtype}, and only float16 can be converted: rounded rows cannot be "
            "made finer, and rounding them again would give other rows than writing them so. Convert the float16 store"
        )
    if source.dim == 1:
        raise InputError(f"{folder}: its rows are one number each, which no other dtype makes smaller")
    recipe = recipes.with_store_dtype(source.recipe, to)
    # Not `folder.parent`: that of "." is "."
    target = FeatureStore.open(folder.absolute().parent / recipes.folder_name(recipe), recipe)
    shards, n_made = files.list_shards(folder), 0
    for path in shards:
        if not (target.folder / path.name).exists():
            ids, tensors = read_shard(path, recipes.digest(source.recipe), source.dim, "float16")
            encoded = quantize(tensors["features"], to)
            data = encode_shard(recipes.digest(recipe), ids, *encoded, tensors["norm"], tensors["n_tokens"])
            files.put(target.folder / path.name, data)
            n_made += 1
    made = [target.folder / path.name for path in shards]
    bytes_before, bytes_after = (sum(path.stat().st_size for path in paths) for paths in (shards, made))
    return Converted(target, len(shards), n_made, bytes_before, bytes_after)
