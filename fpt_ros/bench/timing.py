"""Times things side by side.

On a machine that does other work too, absolute times say little. So everything runs in turns, an
engine and what it is compared with right after each other, and ratios are taken turn by turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fpt_ros.bench.machine import PeakMemory

Run = Callable[[], object]

# A turn calls something again only if this has not passed yet.
_TURN_S = 1.0


@dataclass(frozen=True)
class Case:
    """Something to time."""

    name: str
    run: Run
    plain: Run | None = None  # the same in the plain implementation
    plain_calls: int = 1  # how many such calls the case takes there; they are all alike
    answers: int = 0  # mixtures that come out
    flops: float = 0.0
    bytes_moved: float = 0.0
    target: float | None = None  # ratio that is aimed at


@dataclass
class Timings:
    """What was measured of a case."""

    case: Case
    turns_s: list[tuple[list[float], float]] = field(default_factory=list)  # calls; plain or NaN
    memory_bytes: int = 0  # at most, beyond what was in use before the call
    plain_memory_bytes: int = 0

    @property
    def calls_s(self) -> list[float]:
        """Times of all calls of the engine."""
        return [call for calls, _ in self.turns_s for call in calls]

    @property
    def plain_s(self) -> float:
        """Median time in the plain implementation, NaN where there is none."""
        return float(np.median([plain for _, plain in self.turns_s]))

    @property
    def ratio(self) -> float:
        """How many times as fast as the plain implementation: median over the turns, or NaN."""
        return float(np.median([plain / np.median(calls) for calls, plain in self.turns_s]))

    def percentile_s(self, level: float) -> float:
        """Percentile of the times of the engine."""
        return float(np.percentile(self.calls_s, level))


def measure(
    cases: Sequence[Case], device: torch.device, turns: int, calls_per_turn: int
) -> Iterator[list[Timings]]:
    """Time all cases in turns, after a call of each to warm up; yields after the warm-up and turns.

    In a turn the engine is called up to calls_per_turn times, and the plain implementation once,
    before or after that in turns.
    """
    timings = [Timings(case) for case in cases]
    memory = PeakMemory(device)
    for each in timings:
        each.case.run()
        each.memory_bytes = _memory(each.case.run, memory)
        if each.case.plain is not None:
            each.plain_memory_bytes = _memory(each.case.plain, memory)
    yield timings
    for turn in range(turns):
        for each in timings:
            plain_s = _plain(each.case, device) if turn % 2 else float("nan")
            calls_s: list[float] = []
            while len(calls_s) < calls_per_turn and sum(calls_s) < _TURN_S:
                calls_s.append(_seconds(each.case.run, device))
            each.turns_s.append((calls_s, plain_s if turn % 2 else _plain(each.case, device)))
        yield timings


def _plain(case: Case, device: torch.device) -> float:
    if case.plain is None:
        return float("nan")
    return case.plain_calls * _seconds(case.plain, device)


def _seconds(run: Run, device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _memory(run: Run, memory: PeakMemory) -> int:
    """Peak memory of a call beyond what is in use before."""
    memory.reset()
    before = memory.now()
    run()
    return max(0, memory.peak() - before)
