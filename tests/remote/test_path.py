"""Paths that are URLs: arithmetic, and what they do on a real S3 server."""

import pickle

import pytest

from tamis.errors import InputError, RemoteError
from tamis.remote import RemotePath, is_url, local_only, locate


def test_names_and_what_is_above() -> None:
    path = RemotePath("s3://bucket/a/pool.jsonl.gz")
    assert (path.name, path.stem, path.suffix, path.suffixes) == (
        "pool.jsonl.gz",
        "pool.jsonl",
        ".gz",
        [".jsonl", ".gz"],
    )
    assert str(path.parent / "b") == "s3://bucket/a/b"
    assert str(path.with_suffix(".lock")) == "s3://bucket/a/pool.jsonl.lock"
    assert path.parent.parent == path.parent.parent.parent == RemotePath("s3://bucket/")
    assert path.relative(RemotePath("s3://bucket")) == "a/pool.jsonl.gz"
    assert sorted([path, path.parent]) == [path.parent, path]
    assert {path: 1}[pickle.loads(pickle.dumps(path))] == 1  # noqa: S301


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s3://b/x", True), ("gs://b", True), ("hf://name", False), ("a/b", False), ("C:/x", False), ("s3:/b", False)],
)
def test_what_is_a_url(text: str, expected: bool) -> None:
    assert is_url(text) is expected
    assert isinstance(locate(text), RemotePath) is expected


def test_a_local_folder_is_one_and_a_url_is_refused_where_it_has_to_be() -> None:
    assert str(locate("file:///tmp/x")) == "/tmp/x"
    assert str(local_only("a/b", "it")) == "a/b"
    with pytest.raises(InputError, match="s3://b/x: expected a local folder for a study's folder"):
        local_only("s3://b/x", "a study's folder")


def test_a_kind_of_url_that_nobody_knows() -> None:
    with pytest.raises(RemoteError, match=r"s4://bucket: expected a local path, or a URL of a kind that fsspec knows"):
        RemotePath("s4://bucket/x").exists()


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def lacks(root: str) -> None:
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacks)
    with pytest.raises(RemoteError, match=r"gs://nobody-has: gs:// needs a package .*: pip install 'gcsfs'"):
        RemotePath("gs://nobody-has/x").exists()


# ---- on a server -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_there_for_everybody_at_once(s3: RemotePath) -> None:
    folder = s3 / "a"
    assert not folder.exists()
    assert list(folder.iterdir()) == []
    for name in ("x.json", "y.json", "sub/z.json"):
        (folder / name).write_bytes(name.encode())
    assert folder.is_dir()
    assert (folder / "x.json").is_file()
    assert [path.name for path in folder.iterdir()] == ["sub", "x.json", "y.json"]
    assert [path.name for path in folder.glob("*.json")] == ["x.json", "y.json"]
    assert [str(path) for path in folder.glob("*/*.json")] == [f"{folder}/sub/z.json"]
    assert [path.relative(folder) for path in folder.rglob("*.json")] == ["sub/z.json", "x.json", "y.json"]
    assert [path.name for path in (s3 / "*" / "?.json").matches()] == ["x.json", "y.json"]
    assert [path.name for path in (s3 / "**" / "*.json").matches()] == ["z.json", "x.json", "y.json"]
    other = RemotePath(str(folder / "x.json"))
    assert other.read_text() == "x.json"
    assert other.stat().st_size == 6
    assert other.read_bytes(2, 4) == b"js"


def test_written_again_removed_renamed(s3: RemotePath) -> None:
    path = s3 / "a" / "x"
    path.write_bytes(b"one")
    before = path.version
    path.write_bytes(b"two!")
    assert path.version != before
    assert [found.name for found in (path.replace(path.with_name("y"))).parent.iterdir()] == ["y"]
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="a/x"):
        path.read_bytes()
    (s3 / "a").remove_tree()
    (s3 / "a").remove_tree()
    assert not (s3 / "a").exists()


def test_only_one_creates_a_file(s3: RemotePath) -> None:
    path = s3 / "lock"
    assert path.create(b"mine")
    assert not path.create(b"yours")
    assert path.read_bytes() == b"mine"


def test_a_stream_is_the_content_in_blocks(s3: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.remote.path._BLOCK_BYTES", 1000)
    lines = [b"%d\n" % number for number in range(2000)]
    (s3 / "x").write_bytes(b"".join(lines))
    with (s3 / "x").open() as file:
        assert list(file) == lines
    raw = (s3 / "x").raw()
    assert raw.seek(-3, 2) == len(b"".join(lines)) - 3
    assert raw.read() == b"99\n"


def test_a_file_that_changes_under_a_reader_is_not_read_as_one(s3: RemotePath) -> None:
    (s3 / "x").write_bytes(b"a" * 100)
    raw = (s3 / "x").raw()
    assert raw.read(50) == b"a" * 50
    (s3 / "x").write_bytes(b"b" * 100)
    with pytest.raises(RemoteError, match=r"x: the file changed while it was read"):
        raw.readall()


def test_a_bucket_that_is_not_there(s3: RemotePath) -> None:
    nowhere = RemotePath("s3://no-such-bucket/x")
    assert not nowhere.exists()
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket/x: cannot be written \(.*bucket.*\); make the bucket"):
        nowhere.write_bytes(b"x")


def test_a_name_that_no_bucket_can_have(s3: RemotePath) -> None:
    with pytest.raises(RemoteError, match=r"s3://B!/x: cannot be used .*; check the address"):
        RemotePath("s3://B!/x").exists()


def test_without_credentials(s3: RemotePath, environment: pytest.MonkeyPatch) -> None:
    from tamis.remote import path

    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    path._connected.cache_clear()
    path.file_system(str(s3)).clear_instance_cache()
    path._connected.cache_clear()
    with pytest.raises(RemoteError, match=r"credentials.*never in settings"):
        (s3 / "x").write_bytes(b"x")
