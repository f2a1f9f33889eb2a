from tamis.data.example import Example, Message
from tamis.data.pool import Pool


def example(text: str, row: int) -> Example:
    return Example.of([Message("user", text)], source=f"s{row}", group=f"g{row}", row=row)


A, B, A2, A3 = example("a", 1), example("b", 2), example("a", 3), example("a", 4)


def test_the_first_of_equal_ids_is_the_candidate() -> None:
    pool = Pool.of([A, B, A2, A3])
    assert list(pool) == [A, B]
    assert (len(pool), pool[1], pool.n_duplicates) == (2, B, 2)
    assert pool.ids == [A.id, B.id]
    assert pool.sources == ["s1", "s2"]
    assert pool.groups == ["g1", "g2"]


def test_kept_duplicates_are_candidates_of_their_own() -> None:
    pool = Pool.of([A, B, A2], keep_duplicates=True)
    assert [pool[position].row for position in range(3)] == [1, 2, 3]
    assert pool.ids == [A.id, B.id, A.id]
    assert pool.n_duplicates == 1
