"""Times things side by side.

On a machine that does other work too, absolute times say little. So everything runs in turns, an
engine and what it is compared with right after each other, and ratios are taken turn by turn. With
one thread, what counts for them is the time for which it has the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
    calls_per_turn: int = 0  # 0: as for all cases


class Duration(NamedTuple):
    """How long something took, in seconds.

    Attributes:
        passed_s: by the clock on the wall.
        alone_s: if nothing else had run, as far as that can be known: with one thread on the CPU,
            the time for which it had the CPU; else the same.
    """

    passed_s: float
    alone_s: float


NOT_MEASURED = Duration(math.nan, math.nan)


@dataclass
class Timings:
    """What was measured of a case."""

    case: Case
    turns: list[tuple[list[Duration], Duration]] = field(default_factory=list)  # calls, plain
    memory_bytes: int = 0  # at most, beyond what was in use before the call
    plain_memory_bytes: int = 0

    @property
    def calls(self) -> list[Duration]:
        """All calls of the engine."""
        return [call for calls, _ in self.turns for call in calls]

    @property
    def fastest_s(self) -> float:
        """The fastest call of the engine, had it been alone."""
        return min(call.alone_s for call in self.calls)

    @property
    def plain_s(self) -> float:
        """Median time in the plain implementation, had it been alone; NaN where there is none."""
        return float(np.median([plain.alone_s for _, plain in self.turns]))

    @property
    def ratio(self) -> float:
        """How many times as fast as the plain implementation: median over the turns, or NaN."""
        ratios = [
            plain.alone_s / np.median([call.alone_s for call in calls])
            for calls, plain in self.turns
        ]
        return float(np.median(ratios))

    def percentile_s(self, level: float) -> float:
        """Percentile of the times of the engine by the clock."""
        return float(np.percentile([call.passed_s for call in self.calls], level))


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
            plain = _plain(each.case, device) if turn % 2 else NOT_MEASURED
            calls: list[Duration] = []
            n_calls = each.case.calls_per_turn or calls_per_turn
            while len(calls) < n_calls and sum(call.passed_s for call in calls) < _TURN_S:
                calls.append(_timed(each.case.run, device))
            each.turns.append((calls, plain if turn % 2 else _plain(each.case, device)))
        yield timings


def _plain(case: Case, device: torch.device) -> Duration:
    if case.plain is None:
        return NOT_MEASURED
    passed_s, alone_s = _timed(case.plain, device)
    return Duration(case.plain_calls * passed_s, case.plain_calls * alone_s)


def _timed(run: Run, device: torch.device) -> Duration:
    start_s, start_busy_s = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    passed_s, busy_s = time.perf_counter() - start_s, time.process_time() - start_busy_s
    one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return Duration(passed_s, busy_s if one_thread else passed_s)


def _memory(run: Run, memory: PeakMemory) -> int:
    """Peak memory of a call beyond what is in use before."""
    memory.reset()
    before = memory.now()
    run()
    return max(0, memory.peak() - before)
