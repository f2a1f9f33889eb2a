"""What a plan says."""

from dataclasses import asdict, dataclass
from typing import Any

from tamis.planning.disk import Place


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the run: what goes through it, and what it takes.

    writes         what of the run it writes, as errors name it
    found          rows, or epochs, that the workspace already has
    passing_bytes  on disk only while the run lasts
    """

    name: str
    writes: str = ""
    n_rows: int = 0
    n_tokens: int = 0
    found: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    disk_bytes: int = 0
    passing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of a pool or target. standard_error: of n_tokens, 0 where every row was tokenised."""

    n_rows: int
    n_tokens: int
    n_supervised: int
    n_skipped: int
    n_tokenised: int
    standard_error: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast of a run.

    host_bytes, gpu_bytes   peak of memory, of all processes on this host; what they may take is host_free, gpu_free
    core_share              cores that the probe of a model had, in the mean: below one, others had them; None: no probe
    cost                    price an hour × hours × workers; None without a price
    assumed                 a sentence for each assumption
    refused                 a sentence for each thing that does not fit, naming the setting to change
    """

    method: str
    pool: Tokens
    target: Tokens | None
    stages: tuple[Stage, ...]
    n_workers: int
    host_bytes: int
    host_free: int
    gpu_bytes: int | None
    gpu_free: int | None
    disk: tuple[Place, ...]
    core_share: float | None
    price: float | None
    assumed: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return sum(stage.flops for stage in self.stages)

    @property
    def disk_bytes(self) -> int:
        """That stay on disk after the run."""
        return sum(stage.disk_bytes for stage in self.stages)

    @property
    def cost(self) -> float | None:
        """In the price's currency."""
        return None if self.price is None else self.price * self.seconds / 3600 * self.n_workers

    def to_json(self) -> dict[str, Any]:
        """Everything, the totals included, as JSON values."""
        tree = asdict(self)
        for place in tree["disk"]:
            place["folder"] = str(place["folder"])
        totals = {name: getattr(self, name) for name in ("seconds", "flops", "disk_bytes", "cost")}
        return {**tree, **totals}
