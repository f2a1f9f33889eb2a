"""Asking a server again when it does not answer, and saying in one sentence what it said."""

import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tamis.errors import RemoteError, TamisError

T = TypeVar("T")

PATIENCE_SECONDS = 300.0  # a server that restarts, or throttles, is back by then
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.2, 15.0
_SAY_AFTER_SECONDS = 5.0

_PASSED_ON = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_PASSING_STATUS = {408, 409, 425, 429}
_PASSING_ERRNO = {
    None,
    *(errno.EIO, errno.EBUSY, errno.EAGAIN, errno.EPIPE, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, getattr(errno, "EREMOTEIO", None)),
}
# Errors of botocore, aiohttp, google-auth and azure about the connection: none of them is an OSError
_BROKEN_CONNECTION = {
    *("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError", "ClientConnectionError"),
    *("ClientPayloadError", "ServerDisconnectedError", "TransportError", "ServiceRequestError", "ServiceResponseError"),
}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}

_log = logging.getLogger("tamis.remote")
_told = threading.Lock(), [float("-inf")]


def attempt(url: str, do: Callable[[], T]) -> T:
    """What `do` returns; it is called again, after waits that grow, while its errors are such as pass.

    FileNotFoundError and its like come out as they are, named by the URL. RemoteError where the server refuses, or says
    nothing for `PATIENCE_SECONDS`.
    """
    start, wait = time.monotonic(), _FIRST_WAIT_SECONDS
    while True:
        try:
            return do()
        except TamisError:
            raise
        except Exception as error:
            seconds = time.monotonic() - start
            if not is_passing(error):
                raise _explained(url, error) from error
            if seconds + wait > PATIENCE_SECONDS:
                raise RemoteError(
                    f"{url}: no good answer for {PATIENCE_SECONDS:g} seconds ({said(error)}). When the server answers "
                    "again, the same command goes on from what is finished"
                ) from error
            if seconds + wait > _SAY_AFTER_SECONDS:
                _say(f"{url}: {said(error)}; trying again for {PATIENCE_SECONDS - seconds:.0f} seconds")
        time.sleep(wait * random.uniform(0.5, 1.0))  # many workers should not come back at the same moment
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may be answered later: the server is away, busy or in trouble."""
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS or (status >= 500 and status != 501)
    if isinstance(error, OSError):
        is_final = isinstance(error, (*_PASSED_ON, PermissionError))
        return not is_final and (isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _PASSING_ERRNO)
    return bool(_BROKEN_CONNECTION & _names(error))


def said(error: BaseException) -> str:
    """An error's text as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _explained(url: str, error: Exception) -> Exception:
    protocol = url.partition("://")[0]
    if isinstance(error, _PASSED_ON):
        return type(error)(error.errno or errno.ENOENT, said(error), url)
    if _NO_CREDENTIALS & _names(error):
        return RemoteError(
            f"{url}: {said(error)}. Give credentials as the environment or the files of {protocol} have them (for s3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws), never in settings"
        )
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return RemoteError(f"{url}: access denied ({said(error)}). Check the name, and what these credentials may do")
    if isinstance(error, NotImplementedError):
        return RemoteError(f"{url}: {protocol}:// cannot do this ({said(error)}); give a folder or an object store")
    if isinstance(error, ValueError) or "BotoCoreError" in _names(error):
        return RemoteError(f"{url}: cannot be used ({said(error)}); check the address")
    if isinstance(error, OSError):
        return RemoteError(f"{url}: the server refuses ({said(error)}); check the address and the server")
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error, or what caused it, carries."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        found = [getattr(one, name, None) for name in ("status", "status_code", "code")]
        if isinstance(response, dict):
            found.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        for value in found:
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _say(text: str) -> None:
    """A warning, at most one a minute: an outage meets many requests at once."""
    lock, last = _told
    with lock:
        if time.monotonic() - last[0] < 60:
            return
        last[0] = time.monotonic()
    _log.warning(text)
