"""Where a fine-tuning stands, for whoever watches it: a person, a file, or a node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TRAINING = "training"
PHASES: Mapping[str, float] = {
    "reading the recording": 0.15,
    "making synthetic data": 0.03,
    "measuring the base": 0.02,
    TRAINING: 0.65,
    "averaging weights": 0.12,
    "measuring the result": 0.03,
}
"""Phases in their order, with the share of the whole that each takes when training takes
_USUAL_MINUTES."""

_USUAL_MINUTES = 10.0
_KNOWN = 0.02  # share of the work from which on its pace says when the rest will be done


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

    def __init__(self, listener: Listener, training_minutes: float | None = None) -> None:
        """training_minutes: what training may take; None where only its steps are known."""
        self._listener = listener
        self._shares = dict(PHASES)
        self._paced = list(PHASES)  # phases whose time is told by the pace of what is done
        self._training_s = 0.0
        if training_minutes is not None:
            self._shares[TRAINING] *= training_minutes / _USUAL_MINUTES
            self._paced.remove(TRAINING)
            self._training_s = 60 * training_minutes
        self._phase = next(iter(PHASES))
        self._begun: set[str] = set()
        self._done = dict.fromkeys(PHASES, 0.0)  # share of each phase
        self._spent_s = dict.fromkeys(PHASES, 0.0)
        self._last_s = time.monotonic()
        self._loss = math.nan
        self._measures: dict[str, float] = {}

    def begin(self, phase: str) -> None:
        """Enter one of PHASES; those before are over, and those left out count for nothing."""
        self._clock()
        self._phase = phase
        self._begun.add(phase)
        for name in PHASES:
            if name == phase:
                break
            if name not in self._begun:
                self._shares[name] = 0.0
            self._done[name] = 1.0
        self.advance(0.0)

    def advance(
        self,
        share: float,
        loss: float = math.nan,
        measures: Mapping[str, float] | None = None,
    ) -> None:
        """Tell that `share` of the phase is done; loss and measures stay until there are newer."""
        self._clock()
        self._done[self._phase] = min(1.0, share)
        if not math.isnan(loss):
            self._loss = loss
        self._measures.update(measures or {})
        fraction = self._share_done(list(PHASES))
        self._listener(
            Progress(self._phase, fraction, self._left_s(), self._loss, dict(self._measures))
        )

    def _clock(self) -> None:
        now_s = time.monotonic()
        self._spent_s[self._phase] += now_s - self._last_s
        self._last_s = now_s

    def _share_done(self, names: list[str]) -> float:
        done = sum(self._shares[name] * self._done[name] for name in names)
        return done / sum(self._shares[name] for name in names)

    def _left_s(self) -> float:
        done = self._share_done(self._paced)
        if done <= _KNOWN:
            return math.nan
        spent_s = sum(self._spent_s[name] for name in self._paced)
        return spent_s * (1 - done) / done + self._training_s * (1 - self._done[TRAINING])
