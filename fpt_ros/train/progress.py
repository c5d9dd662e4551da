"""Where a fine-tuning stands, for whoever watches it: a person, a file, or a node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PHASES: Mapping[str, float] = {
    "reading the recording": 0.15,
    "making synthetic data": 0.05,
    "measuring the base": 0.1,
    "training": 0.55,
    "averaging weights": 0.05,
    "measuring the result": 0.1,
}
"""Phases in their order, with the share of the whole that each takes in a run of ten minutes."""


@dataclass(frozen=True)
class Progress:
    """What is going on.

    `fraction` of the whole done, 0 to 1; `time_left_s` and `loss` (nats) NaN while unknown;
    `measures` are the newest of validation.
    """

    phase: str
    fraction: float
    time_left_s: float = math.nan
    loss: float = math.nan
    measures: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], object]


class Tracker:
    """Turns progress within phases into progress of the whole, and tells it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._begun_s = time.monotonic()
        self._phase = next(iter(PHASES))
        self._loss = math.nan
        self._measures: dict[str, float] = {}

    def begin(self, phase: str) -> None:
        """Enter one of PHASES."""
        self._phase = phase
        self.advance(0.0)

    def advance(
        self,
        share: float,
        loss: float = math.nan,
        measures: Mapping[str, float] | None = None,
    ) -> None:
        """Tell that `share` of the phase is done; loss and measures stay until there are newer."""
        names = list(PHASES)
        before = sum(PHASES[name] for name in names[: names.index(self._phase)])
        fraction = min(1.0, before + PHASES[self._phase] * min(1.0, share))
        if not math.isnan(loss):
            self._loss = loss
        self._measures.update(measures or {})
        elapsed_s = time.monotonic() - self._begun_s
        left_s = elapsed_s * (1 - fraction) / fraction if fraction > 0.02 else math.nan
        self._listener(Progress(self._phase, fraction, left_s, self._loss, dict(self._measures)))
