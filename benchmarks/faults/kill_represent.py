"""kill -9 of `tamis represent` at random moments, then completion; and rows appended to the pool.

    python -m benchmarks.faults.kill_represent --pool POOL.jsonl.gz --model MODEL [--kills 5] [KEY=VALUE …]

Shows, at each kill, how many shards were whole; then that the completed store is byte-identical to an uninterrupted
run's and that no whole shard was written again; then that appended rows are the only ones computed.
"""

import argparse
import gzip
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

N_APPENDED = 500


def tamis(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tamis.cli", *arguments, "--progress", "plain"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(*arguments: str) -> tuple[str, float]:
    start = time.perf_counter()
    process = tamis(*arguments)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)
    return output, time.perf_counter() - start


def shards(workspace: Path) -> dict[str, tuple[str, int]]:
    """Name → (digest of the bytes, time of writing)."""
    found = {}
    for path in sorted(workspace.rglob("features/*/*.safetensors")):
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        found[str(path.relative_to(workspace))] = (digest, path.stat().st_mtime_ns)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/kill"))
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)

    lines = gzip.open(given.pool, "rb").read().splitlines(keepends=True)  # noqa: SIM115
    short, whole = given.folder / "short.jsonl", given.folder / "whole.jsonl"
    short.write_bytes(b"".join(lines[:-N_APPENDED]))
    whole.write_bytes(b"".join(lines))

    calm, killed = given.folder / "calm", given.folder / "killed"
    common = ["--pool", str(short), "--model", given.model, *given.settings]
    run("warmup", *common, "--workspace", str(calm))
    folder = next((calm / "checkpoints").iterdir())
    common += ["--checkpoints", str(folder)]
    _, seconds = run("represent", *common, "--workspace", str(calm))
    expected = shards(calm)
    print(f"uninterrupted: {len(expected)} shards in {seconds:.0f} s")

    before: dict[str, tuple[str, int]] = {}
    for kill in range(1, given.kills + 1):
        process = tamis("represent", *common, "--workspace", str(killed))
        wait = rng.uniform(0.1, 0.9) * seconds / given.kills + 8  # 8 s for imports and the model
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        now = shards(killed)
        kept = all(now.get(name) == found for name, found in before.items())
        temporary = len(list(killed.rglob("features/*/.*")))
        print(
            f"kill {kill} after {wait:.0f} s: {len(now)} of {len(expected)} shards whole, "
            f"{len(now) - len(before)} new, {temporary} unfinished file(s), earlier shards untouched: {kept}"
        )
        before = now
    output, _ = run("represent", *common, "--workspace", str(killed))
    now = shards(killed)
    print(f"completed: {len(now) - len(before)} shards computed, {len(before)} found")
    print("  " + "\n  ".join(line for line in output.splitlines() if "to compute" in line))
    print(f"earlier shards untouched: {all(now.get(name) == found for name, found in before.items())}")
    same = {name: d for name, (d, _) in now.items()} == {name: d for name, (d, _) in expected.items()}
    print(f"byte-identical to the uninterrupted run: {same}")

    common[1] = str(whole)
    output, seconds = run("represent", *common, "--workspace", str(killed))
    print(f"{N_APPENDED} rows appended, {seconds:.0f} s:")
    print("  " + "\n  ".join(line for line in output.splitlines() if "to compute" in line))
    grown = shards(killed)
    untouched = all(grown.get(name) == found for name, found in now.items())
    print(f"{len(grown) - len(now)} new shards, earlier ones untouched: {untouched}")
    if not (same and untouched):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
