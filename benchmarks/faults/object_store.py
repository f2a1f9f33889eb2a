"""`tamis select` with pool, workspace and output on an S3 server that fails: killed and restarted, busy, slow.

    python -m benchmarks.faults.object_store [--kills 3] [--folder FOLDER]

The server is moto's, in a process of its own, behind `benchmarks.faults.s3_server`, which keeps its state through a
SIGKILL. It is killed at moments spread over the run (each time when some more files are there) and started again a few
seconds later, while tamis goes on. Shown for each case: whether the run ended well, its seconds, how many files are not
byte for byte those of a run on a local disk, and whether the picked rows are the same. Of the workspace all files count
but locks, and in adapter_config.json the order of lists, which PEFT takes from the process's hash seed.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmarks.faults.small_run import SETTINGS, make_data, tamis
from tamis.remote import RemotePath
from tamis.remote import path as paths

_BUCKET = RemotePath("s3://bucket")
_COLUMNS = ("case", "exit", "kills", "seconds", "files", "differing", "same picks")
_DOWN_SECONDS = 4.0


class Server:
    """The server's process; its state is in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder, self._options = folder, options
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        words = [sys.executable, "-m", "benchmarks.faults.s3_server", str(self._port), str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*words, *self._options], stdout=log, stderr=log)
        while self._process.poll() is None:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit((self._folder / "log").read_text())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def comparable(files: dict[str, bytes]) -> dict[str, Any]:
    """What has to be the same: see the module's page."""
    found: dict[str, Any] = {}
    for name, data in files.items():
        if name.endswith("adapter_config.json"):
            found[name] = {key: sorted(v) if isinstance(v, list) else v for key, v in json.loads(data).items()}
        elif not name.endswith("lock"):
            found[name] = data
    return found


def prepared(server: Server, folder: Path, data: list[str]) -> list[str]:
    """A new bucket with pool and target; the arguments of a run in it."""
    os.environ |= {"AWS_ENDPOINT_URL": server.address, "TAMIS_CACHE": str(folder)}
    paths._connected.cache_clear()
    paths.file_system(str(_BUCKET)).clear_instance_cache()  # it knows the address of the server before
    paths._connected.cache_clear()
    paths.file_system(str(_BUCKET)).mkdir(_BUCKET.name)
    words = ["select"]
    for word in data:
        if word.endswith(".jsonl"):
            there = _BUCKET / "data" / Path(word).name
            there.upload(Path(word))
            word = str(there)
        words.append(word)
    return [*words, *SETTINGS, "--workspace", str(_BUCKET / "ws"), "--out", str(_BUCKET / "out")]


def run_on(server: Server, words: list[str], n_files: int, kills: int) -> tuple[int, int]:
    """The run's exit code, and how often the server was killed under it."""
    with TemporaryFile("w+") as stderr:
        run = subprocess.Popen([sys.executable, "-m", "tamis.cli", *words], stdout=subprocess.DEVNULL, stderr=stderr)
        done = 0
        while run.poll() is None:
            time.sleep(0.2)
            if done < kills and _n_files() >= (done + 1) * n_files // (kills + 1):
                server.kill()
                done += 1
                time.sleep(_DOWN_SECONDS)
                server.start()
        if run.returncode:
            stderr.seek(0)
            print(stderr.read()[-2000:])
    return run.returncode, done


def _n_files() -> int:
    return sum(not path.name.endswith("lock") for path in (_BUCKET / "ws").rglob("*"))


def content(name: str) -> dict[str, bytes]:
    """Every file of a folder in the bucket."""
    return {path.relative(_BUCKET / name): path.read_bytes() for path in (_BUCKET / name).rglob("*")}


def local_content(folder: Path) -> dict[str, bytes]:
    """The same of a local folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def show(rows: list[dict[str, Any]]) -> None:
    """Columns of text."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/object_store"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    data = make_data(given.folder / "data")
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    local = given.folder / "local"
    start = time.perf_counter()
    code, stderr = tamis("select", data, local / "ws", local / "out")
    if code:
        raise SystemExit(stderr)
    seconds = time.perf_counter() - start
    expected, picks = comparable(local_content(local / "ws")), (local / "out" / "selected.jsonl").read_bytes()
    rows = [dict(zip(_COLUMNS, ("local disk", 0, 0, round(seconds), len(expected), 0, True), strict=True))]
    for name, options, kills in (
        ("calm server", (), 0),
        ("killed server", (), given.kills),
        ("busy server, 10% are 503", ("--busy", "0.1"), 0),
        ("slow server, 200 ms", ("--slow", "0.2"), 0),
    ):
        folder = given.folder / name.split()[0]
        server = Server(folder, *options)
        try:
            words = prepared(server, folder / "cache", data)
            start = time.perf_counter()
            code, killed = run_on(server, words, len(expected), kills)
            seconds = time.perf_counter() - start
            found, picked = comparable(content("ws")), content("out").get("selected.jsonl")
        finally:
            server.kill()
        differing = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        row = (name, code, killed, round(seconds), len(found), len(differing), picked == picks)
        rows.append(dict(zip(_COLUMNS, row, strict=True)))
        for key in differing:
            print(f"{name}: {key} differs")
    show(rows)
    good = all(row["exit"] == 0 and not row["differing"] and row["same picks"] for row in rows)
    raise SystemExit(0 if good and rows[2]["kills"] == given.kills else 1)


if __name__ == "__main__":
    main()
