"""An S3 server that forgets nothing when it is killed, and can be slow or busy: moto's, behind a log of its writes.

    python -m benchmarks.faults.s3_server PORT FOLDER [--busy SHARE] [--slow SECONDS]

moto keeps buckets in memory. So every request that changes something is appended to a file (synced, after moto has
done it and before the client is answered), and a server that starts plays these again before it listens. What was
answered is thus there after a SIGKILL; a request under way is done or not, as with any server. Uploads in several
parts have random numbers, so they cannot be played again: files of 100 MB and more are refused.
"""

import argparse
import base64
import json
import os
import random
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]

_CHANGES = ("PUT", "POST", "DELETE")
_BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


def persistent(app: App, log: Path, busy: float, slow_seconds: float) -> App:
    """The server over its log. A share `busy` of requests is answered with 503, each after so many seconds."""
    rng = random.Random(0)
    _play(app, log)
    file = log.open("ab")

    def answer(environ: Environ, start: Any) -> Iterable[bytes]:
        time.sleep(slow_seconds)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if rng.random() < busy:
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(_BUSY)))])
            return [_BUSY]
        if environ["REQUEST_METHOD"] == "POST" and "uploads" in environ.get("QUERY_STRING", ""):
            start("501 Not Implemented", [("Content-Length", "0")])
            return [b""]
        plain = {key: value for key, value in environ.items() if isinstance(value, str)}
        said: list[Any] = []
        content = b"".join(app(_environ(plain, body), lambda status, headers, *_: said.append((status, headers))))
        status, headers = said[-1]
        if environ["REQUEST_METHOD"] in _CHANGES and status.startswith("2"):
            file.write(json.dumps([plain, base64.b64encode(body).decode()]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        start(status, headers)
        return [content]

    return answer


def _play(app: App, log: Path) -> None:
    if not log.exists():
        return
    whole = 0
    with log.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            plain, body = json.loads(line)
            b"".join(app(_environ(plain, base64.b64decode(body)), lambda *_: None))
            whole += len(line)
    os.truncate(log, whole)  # an entry that the kill cut short was not answered


def _environ(plain: dict[str, str], body: bytes) -> Environ:
    return {**plain, "wsgi.input": BytesIO(body), "wsgi.errors": BytesIO(), "wsgi.version": (1, 0),
            "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False}  # fmt: skip


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--busy", type=float, default=0.0)
    parser.add_argument("--slow", type=float, default=0.0)
    given = parser.parse_args()
    app = persistent(DomainDispatcherApplication(create_backend_app), given.folder / "requests", given.busy, given.slow)
    run_simple("127.0.0.1", given.port, app, threaded=given.slow > 0)


if __name__ == "__main__":
    main()
