import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RATIOS = {"ratio (min)", "ratio (median)"}
NUMBERS = {
    "features": {"plain examples/s", "tamis examples/s", "tamis tokens/s"} | RATIOS,
    "large_pool": {"seconds", "read s", "pool s", "rows/s", "peak MB", "about the topic"},
    "plan_reality": {"forecast", "real", "real / forecast"},
    "published_way": {"published examples/s", "tamis examples/s"} | RATIOS,
    "quantized": {"MB", "score seconds", "product seconds", "read seconds", "kept by top_k", "kept by round_robin"},
    "ray_overhead": {"local seconds", "ray seconds"} | RATIOS,
    "select_store": {"seconds", "peak MB", "the same in memory"},
    "selectors": {"tamis seconds", "plain seconds", "same picks"} | RATIOS,
    "selectors_density": {"tamis seconds", "plain seconds", "tamis GFLOP/s", "product GFLOP/s"} | RATIOS,
    "selectors_pursuit": {"tamis seconds", "products seconds", "gain of computing ahead"} | RATIOS,
    "selectors_scoring": {"tamis seconds", "product seconds", "of the reading rate"} | RATIOS,
    "selectors_million": {"tamis seconds"},
    "sketch": {"read GB/s", "sketch GB/s"} | RATIOS,
    "store": {"compute seconds", "write seconds", "write MB/s"} | RATIOS,
}


def _benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_benchmark_runs_and_leaves_its_numbers_and_the_machine_s(tmp_path: Path) -> None:
    done = _benchmarks("--quick", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.iterdir()} == NUMBERS.keys()
    for name, numbers in NUMBERS.items():
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["benchmark"] == name
        assert result["quick"] is True
        assert {"title", "target"} <= result.keys()
        assert {"cpu", "cores", "threads", "device", "torch"} <= result["machine"].keys()
        for row in result["rows"]:
            assert all(row[key] > 0 for key in numbers)
            assert row["case"]
        assert result["title"].split()[0] in done.stdout


def test_a_benchmark_that_is_not_there_is_named() -> None:
    done = _benchmarks("sketches")
    assert done.returncode == 2
    assert f"no benchmark 'sketches'; there are {', '.join(NUMBERS)}" in done.stderr
