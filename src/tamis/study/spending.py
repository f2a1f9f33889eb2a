"""What a study spends, by stage: seconds as measured, FLOPs as counted, bytes as kept.

seconds  of the stage's work; where a stage was interrupted or found partly done, the time of what was measured times
         all tokens by measured tokens. What was computed before the study, or elsewhere, is not known.
FLOPs    of passes through models alone, 2 a parameter and token forwards and as many for each of the two halves of
         the backward pass; with an adapter the half that the frozen weights' gradients take is not spent. The input
         embedding counts only where it is also the output embedding. Of similarities 2 a product.
bytes    on disk: checkpoints, feature rows of the pool, similarities.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tamis.inputs import digest
from tamis.methods import REPRESENTATIONS
from tamis.model.load import ModelSource, empty_model
from tamis.pipeline import Pipeline
from tamis.progress import Advance, Progress
from tamis.remote import Place
from tamis.remote.lease import lock
from tamis.settings import home
from tamis.store.files import put, size


@dataclass
class Measured:
    """Of one stage of one piece of work: tokens in all, tokens of which the seconds are known."""

    total: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def all_seconds(self) -> float:
        """Of all tokens, at the measured rate; what has no tokens is not scaled."""
        return self.seconds * max(1.0, self.total / self.tokens) if self.tokens else self.seconds


@dataclass
class Spending:
    """Progress of a study that keeps, in `folder`, what each stage of each piece of work took."""

    folder: Place
    shown: Progress
    _about: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _costs: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def note(self, text: str) -> None:
        """See Progress; each sentence once, though many runs say it."""
        if text not in self._said:
            self._said.add(text)
            self.shown.note(text)

    @contextmanager
    def stage(self, name: str, n_tokens: int) -> Iterator[Advance]:
        """See Progress."""
        done, start = 0, time.perf_counter()
        key = _key(self._about, name)
        self._add(key, Measured(total=n_tokens))
        with self.shown.stage(name, n_tokens) as advance:

            def count(n: int) -> None:
                nonlocal done
                done += n
                advance(n)

            try:
                yield count
            finally:
                self._add(key, Measured(tokens=done, seconds=time.perf_counter() - start))

    def _add(self, key: str, more: Measured) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / f"{key}.lock"):
            before = self._read(key)
            total = max(before.total, more.total)
            after = Measured(total, before.tokens + more.tokens, before.seconds + more.seconds)
            put(self.folder / f"{key}.json", (json.dumps(vars(after)) + "\n").encode())

    def _read(self, key: str) -> Measured:
        path = self.folder / f"{key}.json"
        return Measured(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Measured()

    @contextmanager
    def of_run(self, model: str, target: str, method: str, run: Pipeline) -> Iterator[None]:
        """Stages within belong to this method's run; afterwards its costs are known."""
        self._about = _about(run)
        try:
            yield
        finally:
            self._about = {}
        self._costs[model, target, method] = self._cost(run)

    def costs(self) -> Iterator[dict[str, Any]]:
        """Lines of the costs' table."""
        for (model, target, method), stages in self._costs.items():
            for stage, line in stages.items():
                yield {"model": model, "target": target, "method": method, "stage": stage, **line}

    def _cost(self, run: Pipeline) -> dict[str, Any]:
        name = run.method.representation
        found: dict[str, Any] = {}
        by_rows = name is not None and REPRESENTATIONS[name].makes == "rows"
        about = _about(run)

        def read(stage: str) -> Measured:
            return self._read(_key(about, stage))

        parameters: int | None = 0
        if name == "embed":
            parameters = n_encoder_parameters(run.config.represent.encoder)
        elif name not in (None, "ngrams") and REPRESENTATIONS[name].makes != "scores":
            parameters = n_parameters(run.inputs.source)
        backward = 6 if run.config.warmup.tuning == "full" else 4
        if name == "gradient":
            warm = read("warm up")
            folder = run.checkpoints[0].folder.parent
            flops = backward * n_parameters(run.inputs.source) * warm.total if warm.total else None
            found["warm up"] = _line([warm], flops, size(folder))
        if name is not None and REPRESENTATIONS[name].makes != "scores":
            rows = run.pool_rows
            parts = [read(f"pool features {k}/{len(rows.stores)}") for k in range(1, len(rows.stores) + 1)]
            per_token = backward if name == "gradient" else 2
            n_tokens = sum(part.total for part in parts) if all(part.total for part in parts) else None
            flops = None if parameters is None or n_tokens is None else per_token * parameters * n_tokens
            found["represent"] = _line(parts, flops, sum(size(store.folder) for store in rows.stores))
        if name is not None:
            scored = run.score()
            dim = run.pool_rows.stores[0].recipe["dim"] * len(run.pool_rows.stores) if by_rows else 0
            found["score"] = _line([read("score")], 2 * scored.values.size * dim, size(scored.path))
        found["pick"] = _line([read("pick")], 0, 0)
        return found


def _key(about: dict[str, tuple[str, ...]], stage: str) -> str:
    known = next((about[name] for name in about if stage.startswith(name)), ())
    return digest(stage, *known)


def _line(parts: list[Measured], flops: int | None, n_bytes: int) -> dict[str, Any]:
    known = all(part.seconds for part in parts)
    seconds = sum(part.all_seconds for part in parts) if known else None
    return {"seconds": seconds, "flops": flops, "bytes": n_bytes}


def _about(run: Pipeline) -> dict[str, tuple[str, ...]]:
    """What the stages of a run depend on: those that several runs share have less to name."""
    config, name = run.config, run.method.representation
    inputs = run.inputs
    data = (inputs.pool.digest, inputs.base_digest, inputs.dtype, inputs.chat.fingerprint, str(config.seed))
    warm_up = (*data, str(config.warmup.model_dump()))
    rows = (*(warm_up if name == "gradient" else data), str(name), str(config.represent.model_dump()))
    scored = (*rows, inputs.target.digest)
    return {
        "warm up": warm_up,
        "pool features": rows,
        "target features": scored,
        "score": scored,
        "pick": (*scored, str(config.pick.model_dump())),
    }


@cache
def n_parameters(source: ModelSource) -> int:
    """Parameters that a token is multiplied by: all, but for an input embedding that is not the output's too."""
    import torch

    with torch.device("meta"):
        model: Any = empty_model(source)
    return _n_multiplied(model, tied=bool(model.config.tie_word_embeddings))


@cache
def n_encoder_parameters(encoder: str) -> int | None:
    """The same of a sentence encoder's transformer; None where its folder or hub page tells no size."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        make: Any = AutoModel.from_config
        config = AutoConfig.from_pretrained(str(home(encoder)))
        with torch.device("meta"):
            model = make(config)
    except (OSError, ValueError):
        return None
    return _n_multiplied(model, tied=False)


def _n_multiplied(model: Any, *, tied: bool) -> int:
    looked_up = 0 if tied else model.get_input_embeddings().weight.numel()
    return int(sum(p.numel() for p in model.parameters()) - looked_up)
