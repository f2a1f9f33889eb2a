"""Damaged files in a finished workspace: what `tamis select` says, what `tamis verify` sets aside, and the next run.

    python -m benchmarks.faults.damaged

For each kind of damage, and for several at once with Ray's workers: either the run finishes as an undisturbed one did,
or it stops with one sentence that names the file; after `tamis verify` (and what its words ask for) the same command
finishes with the stores and picks of an undisturbed run.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults import small_run
from benchmarks.faults.small_run import WORKERS, outcome, row


def byte_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


Damage = tuple[str, Callable[[Path], None]]
DAMAGES: dict[str, Damage] = {
    "a byte flipped in a shard": ("features/*/[!.]*.safetensors", byte_flipped),
    "a shard cut in half": ("features/*/[!.]*.safetensors", truncated),
    "a shard of no bytes": ("features/*/[!.]*.safetensors", emptied),
    "half a recipe.json": ("features/*/recipe.json", truncated),
    "a byte flipped in a similarity": ("similarity/*.npy", byte_flipped),
    "a similarity cut in half": ("similarity/*.npy", truncated),
    "a byte flipped in a checkpoint's moments": ("checkpoints/*/epoch-2/adam.safetensors", byte_flipped),
}


def main() -> None:
    good = []
    with small_run.prepared() as (folder, data, calm):
        for what, damage in DAMAGES.items():
            good.append(mended(what, [damage], folder / "here", data, calm, ()))
        distinct = [DAMAGES[what] for what in ("a shard cut in half", "half a recipe.json", "a similarity cut in half")]
        good.append(
            mended("shard, recipe and similarity cut in half, Ray", distinct, folder / "here", data, calm, WORKERS)
        )
    raise SystemExit(not all(good))


def mended(
    what: str, damages: list[Damage], folder: Path, data: list[str], calm: Path, settings: tuple[str, ...]
) -> bool:
    """Do damage to a copy of the finished workspace, then do what one is told until it finishes; a row of the table."""
    shutil.rmtree(folder, ignore_errors=True)
    workspace, out = folder / "ws", folder / "out"
    shutil.copytree(calm / "ws", workspace)
    for pattern, harm in damages:
        found = sorted(workspace.glob(pattern))
        harm(found[len(found) // 2])
    if not any(pattern.startswith("similarity") for pattern, _ in damages):
        for path in workspace.glob("similarity/*"):  # which would serve in place of what is damaged
            path.unlink()
    said, good = [], True
    for _ in range(2 * len(damages) + 1):
        code, stderr = small_run.tamis("select", data, workspace, out, *settings)
        if code == 0:
            break
        stopped, sentence = outcome(code, stderr)
        good &= stopped
        said.append(sentence.replace(f"{workspace}/", "").removeprefix("tamis: "))
        print(f"  {what}: {said[-1]}")
        do_as_told(workspace)
    n_left = len(do_as_told(workspace))
    identical = code == 0 and small_run.same(calm, workspace, out)
    if not identical:
        print(stderr[-2000:])
    return row(
        what,
        " Then: ".join(said) or f"finishes; `tamis verify` names {n_left} damaged",
        "identical" if identical else "NOT identical",
        identical and good,
    )


def do_as_told(workspace: Path) -> list[Path]:
    """`tamis verify`, and what its words ask for; the files or folders it named."""
    words = [sys.executable, "-m", "tamis.cli", "verify", str(workspace)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=small_run.environment())
    print("    verify: " + done.stdout.replace(f"{workspace}/", "").strip().replace("\n", "\n            "))
    named = [Path(line.split(": ")[1]) for line in done.stdout.splitlines() if line.startswith("damaged: ")]
    for path in named:
        if path.name == "recipe.json":
            path.unlink()  # "Delete this file"
        elif path.parent.parent.name == "checkpoints":
            shutil.rmtree(path)  # "remove the folder"
    return named


if __name__ == "__main__":
    main()
