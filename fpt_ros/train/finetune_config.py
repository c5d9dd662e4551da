"""Everything that decides a fine-tuning."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.train.config import SelectionConfig, require


@dataclass(frozen=True)
class FineTuneConfig:
    """Fine-tune a model on recordings, and say whether it got better.

    The recordings are split in time, so that what is measured on was never trained on. The result
    is promoted only if it is better there and has forgotten little of the synthetic world. Exit
    code: 0 promoted, 1 not.
    """

    out: Path
    """Folder for everything: shards, checkpoints, TensorBoard logs, report, verdict."""
    bag: tuple[Path, ...] = ()
    """Recordings: rosbag2 folders or files, videos, folders of videos or images."""
    topics: tuple[str, ...] = ()
    """Image topics of the recordings; none: those of every camera."""
    data: Path | None = None
    """Shards made before (train, val, test), instead of recordings."""
    base: Path | None = None
    """Weights to start from; default: those that come with the package."""
    horizon_s: float | None = None
    """Time that a displacement in recordings spans; default: that of the base."""
    rehearsal: Path | None = None
    """Folder with synthetic shards (train, val, test) as `fpt scenes` writes them; default: a small
    one is made, if this machine can render."""
    rehearsal_share: float = 0.5
    """Share of the training views that is rehearsal; 0: only measure with it."""
    resume: bool = False
    """Go on with the interrupted run in `out`."""

    minutes: float | None = None
    """Training time; 10 if neither this nor --steps is given."""
    steps: int | None = None
    """Optimizer steps instead of minutes: then the same run gives the same weights."""
    batch: int = 16
    """Views per step."""
    learning_rate: float | None = None
    """Default: the paper's 5e-7 at batch 128, scaled to the budget (`fpt_ros.train.recipe`)."""
    patience: int = 4
    """Stop after so many of the ten validations in a row without a better NLL; 0: never."""
    forget_percent: float = 5.0
    """By how much the errors, over moving and over all points, may rise on the synthetic test."""
    test_views: int = 192
    """Views of each data set to measure on, before and after."""
    selection: SelectionConfig = field(
        default_factory=lambda: SelectionConfig(queries_on_parts=0.0, queries_at_borders=0.0)
    )
    """Queries everywhere alike: what stays is what is forgotten first."""

    seed: int = 0
    device: str = "auto"
    """auto: CUDA when present."""
    threads: int = 0
    """CPU threads; 0: PyTorch's choice."""
    workers: int = 1
    """Loader processes; 0: load in the training process."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming them."""
        if bool(self.bag) == (self.data is not None):
            raise InvalidInputError("give recordings (--bag) or shards (--data), one of the two")
        if self.minutes is not None and self.steps is not None:
            raise InvalidInputError("give --minutes or --steps, not both")
        if self.data is not None:
            for option, value in (("--topics", self.topics), ("--horizon-s", self.horizon_s)):
                if value not in ((), None):
                    raise InvalidInputError(
                        f"{option} tells what to take from recordings (--bag); the shards of "
                        "--data are made already: leave it out, or make others with `fpt tracks`"
                    )
        for name in ("horizon_s", "minutes", "learning_rate"):
            if getattr(self, name) is not None:
                require(self, "positive and finite", name)
        if self.steps is not None:
            require(self, "at least 1", "steps")
        require(self, "at least 1", "batch", "test_views")
        require(self, "at least 0", "patience", "forget_percent", "seed", "threads", "workers")
        require(self, "in [0, 1)", "rehearsal_share")

    @property
    def budget_minutes(self) -> float | None:
        """Training time, None if steps are given."""
        return self.minutes or (10.0 if self.steps is None else None)

    def decisive(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as plain values."""
        plain = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        free = ("out", "resume", "device", "threads", "workers", "test_views")
        return {name: value for name, value in plain.items() if name not in free}
