"""Run one target: this process starts the fuzzer as a child, which libFuzzer ends, and sums up."""

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

TARGETS = ("readers", "config", "store")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _fuzz(given.target, given.seconds, Path(given.child))
    folder = Path(tempfile.mkdtemp(prefix=f"tamis-fuzz-{given.target}-"))
    command = [sys.executable, "-m", "benchmarks.fuzz", given.target, "--seconds", str(given.seconds)]
    done = subprocess.run(
        [*command, "--child", str(folder)], capture_output=True, text=True, errors="replace", check=False
    )
    findings = sorted(folder.glob("finding-*"))
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
    if executed is None:
        print(done.stderr[-3000:])
        raise SystemExit(f"{given.target}: the fuzzer itself ended early (exit code {done.returncode})")
    cov, features, corpus = coverage[-1]
    print(
        f"{given.target}: {int(executed[1]):,} inputs in {given.seconds} s; {cov} edges, {features} features, "
        f"corpus of {corpus}; {len(findings)} findings"
    )
    for finding in findings:
        print(finding.read_text(encoding="utf-8", errors="replace"))
    raise SystemExit(1 if findings else 0)


def _fuzz(name: str, seconds: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["tamis.data", "tamis.config", "tamis.store", "tamis.similarity", "yaml"]):
        target: Any = importlib.import_module(f"benchmarks.fuzz.{name}")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    seen: set[tuple[str, str, int | None]] = set()

    def one(data: bytes) -> None:
        try:
            target.one(data)
        except Exception as error:  # noqa: BLE001  # every kind is a finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            key = (type(error).__name__, place.filename, place.lineno)
            if key not in seen:
                seen.add(key)
                (folder / f"finding-{len(seen)}.txt").write_text(f"{data!r}\n{traceback.format_exc()}")

    limits = ["-max_len=20000", "-rss_limit_mb=8000", "-timeout=60", "-print_final_stats=1", "-close_fd_mask=1"]
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", *limits], one)
    atheris.Fuzz()


main()
