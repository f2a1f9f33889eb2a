"""What is asked again, for how long, and what is said in the end."""

import errno
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tamis.errors import RemoteError
from tamis.remote import RemotePath, attempts
from tamis.remote.attempts import attempt, is_passing


class Answer(Exception):
    """An error that carries a status as those of HTTP libraries do."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class HTTPClientError(Exception):  # as botocore calls its own
    pass


def of_s3(status: int) -> OSError:
    """As s3fs raises them: an OSError that is caused by what botocore says."""
    cause = Exception("said the server")
    cause.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    error = OSError(errno.EIO, "said the server")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        *map(Answer, (500, 502, 503, 504, 429, 408, 409)),
        *map(of_s3, (500, 503)),
        *(ConnectionRefusedError(), ConnectionResetError(), TimeoutError(), OSError("cut off"), HTTPClientError()),
        *(OSError(errno.EBUSY, "slow down"), OSError(errno.EHOSTUNREACH, "gone")),
    ],
)
def test_these_pass(error: Exception) -> None:
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        *map(Answer, (400, 401, 403, 404, 412, 501)),
        *map(of_s3, (400, 403)),
        *(FileNotFoundError(), PermissionError(), FileExistsError(), IsADirectoryError()),
        *(OSError(errno.ENOSPC, "full"), OSError(errno.EINVAL, "no such thing"), TypeError("a mistake"), ValueError()),
    ],
)
def test_these_do_not(error: Exception) -> None:
    assert not is_passing(error)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted and not made; time goes on by them."""
    now, made = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        made.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(attempts.time, "sleep", sleep)
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(attempts, "_told", (attempts._told[0], [float("-inf")]))
    return made


def failing(n_times: int, error: Exception) -> Callable[[], str]:
    left = [n_times]

    def do() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "answer"

    return do


def test_waits_grow_to_a_limit_and_are_not_all_alike(waits: list[float]) -> None:
    assert attempt("s3://b/x", failing(12, of_s3(503))) == "answer"
    assert len(waits) == 12
    bounds = [min(0.2 * 2**k, 15.0) for k in range(12)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) == 12


def test_a_server_that_stays_away_is_told_of_and_given_up(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(
            RemoteError, match=r"s3://b/x: no good answer for 300 seconds \(said no\).*the same command goes"
        ),
    ):
        attempt("s3://b/x", failing(10**6, ConnectionError("said no")))
    assert 300 - 15 <= sum(waits) <= 300
    told = [record.getMessage() for record in caplog.records]
    assert 2 <= len(told) <= 6  # once a minute
    assert told[0].startswith("s3://b/x: said no; trying again for 29")


def test_what_will_not_pass_is_said_at_once(waits: list[float]) -> None:
    for error, kind, said in (
        (PermissionError("Forbidden"), RemoteError, r"access denied \(Forbidden\). Check the name"),
        (of_s3(400), RemoteError, r"the server refuses \(.*said the server\)"),
        (NotImplementedError("no writing"), RemoteError, r"s3:// cannot do this \(no writing\)"),
        (ValueError("bad name"), RemoteError, r"cannot be used \(bad name\)"),
        (FileNotFoundError("not here"), FileNotFoundError, "not here"),
        (TypeError("a mistake"), TypeError, "a mistake"),
    ):
        with pytest.raises(kind, match=said):
            attempt("s3://b/x", failing(1, error))
    assert waits == []


def test_a_stream_that_breaks_off_loses_and_repeats_nothing(told: Any, waits: list[float]) -> None:
    path, calls = RemotePath("told://b/x"), list[str]()
    content = bytes(range(256)) * 100
    path.write_bytes(content)

    def before(what: str, _: str) -> None:
        calls.append(what)
        if what == "cat" and calls.count("cat") % 2:
            raise ConnectionResetError("broken off")

    told.before = staticmethod(before)
    raw = path.raw()
    assert b"".join(iter(lambda: raw.read(1000), b"")) == content
    assert calls.count("cat") == 2 * 26
