"""A made-up study and made-up published tables, whose answers are known by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from tamis.study.tables import Results

EVIL = "<script>alert(1)</script>$x_1$&\"'\x1b[1m"
N_EXAMPLES, SEEDS, BUDGETS = 40, (0, 1, 2), ("5%", "10%")
# What each method's test losses are above random's: less is better on t1 alone, rds is worse there
EFFECT = {("t1", "less"): -0.5, ("t1", "rds"): 0.5, ("t2", "less"): 0.0, ("t2", "rds"): 0.0}
SPENT = {"warm up": 60.0, "represent": 30.0, "score": 2.0, "pick": 1.0, "fine-tune": 100.0}


def made_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of results and of examples: budgets of 100 and 200 examples of 10 tokens."""
    rng = np.random.default_rng(0)
    results, examples = [], []
    for target in ("t1", "t2"):
        hard = rng.normal(2, 1, N_EXAMPLES)  # of each test example, whatever was trained on
        cells = [(method, budget) for budget in BUDGETS for method in ("less", "random", "rds")]
        for method, budget in [*cells, ("zero-shot", ""), ("full pool", "100%")]:
            for seed in SEEDS if budget else (0,):
                losses = hard + EFFECT.get((target, method), 0) + rng.normal(0, 0.05, N_EXAMPLES)
                n = {"5%": 100, "10%": 200, "100%": 2000, "": 0}[budget]
                key = {"experiment": "budget", "target": target, "model": "m", "method": method, "budget": budget}
                key["seed"] = seed
                results.append(
                    key
                    | {"n_examples": n, "n_tokens": 10 * n, "n_steps": n // 4, "test_loss": float(losses.mean())}
                    | {"target_loss": float(losses.mean()) / 2, "mean_nearest": 0.1 if method == "less" else 0.5}
                    | {"metric": "numeric", "score": float((losses < 2).mean())}
                )
                examples += [
                    key | {"id": f"e{place}", "loss": float(loss), "score": float(loss < 2)}
                    for place, loss in enumerate(losses)
                ]
    for place, representation in enumerate(("gradient", "rds")):
        for number in range(5):
            results.append(
                {"experiment": "quantile", "target": "t1", "model": "m", "method": "quantile", "bin": number, "seed": 0}
                | {"representation": representation, "target_loss": [1 + 0.1 * number, 2 - 0.1 * number][place]}
                | {"mean_nearest": 0.1 * number, "wasserstein": 0.2 * number, "n_examples": 400}
            )
    return results, examples


def made_study(**changes: Any) -> Results:
    """The whole of it; `changes` to what `Results.of_rows` takes."""
    results, examples = made_rows()
    costs = [
        {"model": "m", "target": "" if stage == "represent" else target, "method": "less", "stage": stage}
        | {"seconds": seconds, "flops": 1e12, "bytes": 1e6}
        for target in ("t1", "t2")
        for stage, seconds in SPENT.items()
        if stage != "represent" or target == "t1"
    ]
    costs += [{"model": "m", "target": "t1", "method": "rds", "stage": stage} for stage in ("represent", "pick")]
    composition = [
        {"target": "t1", "model": "m", "method": method, "budget": "5%", "seed": seed, "source": source}
        | {"n_picked": n, "n_pool": n_pool}
        for method, seed, source, n, n_pool in (
            ("less", 0, "a", 30, 500), ("less", 0, "b", 70, 1500),
            ("less", 1, "a", 50, 500), ("less", 1, "b", 50, 1500),
            ("random", 0, "a", 25, 500), ("random", 0, "b", 75, 1500),
        )
    ]  # fmt: skip
    shown = [
        {"target": "t1", "model": "m", "method": "less", "rank": 1, "score": 0.25, "source": "a", "similarity": 0.5}
        | {"picked": [["user", EVIL], ["assistant", "Yes."]], "nearest": [["user", "Nearest " + EVIL]]},
        {"target": "t1", "model": "m", "method": "rds", "rank": 1, "score": None, "source": "a", "similarity": None}
        | {"picked": [["user", "x" * 5000]], "nearest": None},
    ]
    manifest = {
        "title": "A study of " + EVIL,
        "settings": "a: 1\nb: " + EVIL,
        "versions": {"torch": "2"},
        "n_pending": 0,
    }
    given = {"results": results, "examples": examples, "costs": costs, "composition": composition}
    return Results.of_rows(**{**given, "shown": shown, "manifest": manifest, **changes})


# Losses of method A and B and of Random, by budget; mean ranks by hand: t1 has a tie of B and Random
LOSSES = {"t1": {"A": 1.0, "B": 2.0, "Random": 2.0}, "t2": {"A": 3.0, "B": 1.0, "Random": 2.0}}
MEAN_RANKS = {"A": 2.0, "B": 1.75, "random": 2.25}
BINS = {"up": [1, 2, 3, 4, 9], "down": [9, 4, 3, 2, 1], "neither": [1, 2, 5, 2, 1]}
RHO = {"up": 1.0, "down": -1.0, "neither": 0.0}


def made_tables(folder: Path) -> Path:
    """A folder of the published shape: budgets and bins, losses and metric apart; zero-shot losses."""
    folder.mkdir()
    lines = {name: [] for name in ("a_loss_budget", "a_metric_budget", "bins_loss", "bins_metric", "zero")}
    for target, losses in LOSSES.items():
        lines["zero"].append(f"{target},9,9.5")
        for method, loss in losses.items():
            for n in (100, 50):
                for seed in (0, 1, 2):
                    lines["a_loss_budget"].append(f"{target},{method},{n},{loss},{loss + seed},{seed}")
                    lines["a_metric_budget"].append(f"{target},{method},{n},{seed},{10 * loss}")
        for method, values in BINS.items():
            for number, value in enumerate(values):
                lines["bins_loss"].append(f"{target},{method},{number},{value},{value}")
                lines["bins_metric"].append(f"{target},{method},{number},{value}")
    heads = {
        "a_loss_budget": "dataset,method,num_samples,dev,test,seed",
        "a_metric_budget": "dataset,method,num_samples,seed,true_metric",
        "bins_loss": "dataset,method,bin,dev,test",
        "bins_metric": "dataset,method,bin,true_metric",
        "zero": "dataset,dev,test",
    }
    for name, head in heads.items():
        (folder / f"{name}.csv").write_text("\n".join([head, *lines[name]]) + "\n", encoding="utf-8")
    return folder
