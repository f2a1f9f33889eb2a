"""What a run will take, before it is run: tokens, FLOPs, seconds, memory, bytes on disk, cost.

Seconds and memory come from a probe: the run's own functions over some of its own rows, weighted by tokens with their
padding (see `probe`, `after`). FLOPs and bytes are counted by formula (`flops`, `disk`). What the workspace already
holds counts nothing. Nothing is left behind: what the probe writes is in a temporary folder, gone afterwards.

Not covered: `tamis score` with draws, studies, fine-tuning, evaluation; a GPU's driver; how workers on one machine slow
one another down.
"""

from tamis.planning.forecast import Plan, Stage, Tokens
from tamis.planning.make import plan

__all__ = ["Plan", "Stage", "Tokens", "plan"]
