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

from fpt_ros.bench.machine import AddedMemory

Run = Callable[[], object]

# A turn calls something more than once only if all calls take about this long at most.
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


@dataclass
class Timings:
    """What was measured of a case."""

    case: Case
    # Calls of the engine and as many of the plain implementation, if there is one, in each turn.
    turns: list[tuple[list[Duration], list[Duration]]] = field(default_factory=list)
    # At most, beyond what was in use before the first call: some keep what they once needed.
    memory_bytes: float = math.nan
    plain_memory_bytes: float = math.nan

    @property
    def calls(self) -> list[Duration]:
        """All calls of the engine."""
        return [call for calls, _ in self.turns for call in calls]

    @property
    def fastest_s(self) -> float:
        """The fastest call of the engine, had it been alone."""
        return min(call.alone_s for call in self.calls)

    @property
    def alone_s(self) -> float:
        """Median time of the engine, had it been alone."""
        return _median_alone_s(self.calls)

    @property
    def plain_s(self) -> float:
        """Median time in the plain implementation, had it been alone; NaN where there is none."""
        return _median_alone_s([call for _, plain in self.turns for call in plain])

    @property
    def ratio(self) -> float:
        """How many times as fast as the plain implementation: median over the turns, or NaN."""
        ratios = [_median_alone_s(plain) / _median_alone_s(calls) for calls, plain in self.turns]
        return float(np.median(ratios))

    def percentile_s(self, level: float) -> float:
        """Percentile of the times of the engine by the clock."""
        return float(np.percentile([call.passed_s for call in self.calls], level))


def measure(
    cases: Sequence[Case], device: torch.device, turns: int, calls_per_turn: int
) -> Iterator[list[Timings]]:
    """Time all cases in turns, after a call of each to warm up; yields after the warm-up and turns.

    In a turn the engine is called up to calls_per_turn times, and the plain implementation as
    often, before or after that in turns.
    """
    timings = [Timings(case) for case in cases]
    n_calls = []
    for each in timings:
        case = each.case
        each.memory_bytes, longest_s = _first_calls(case.run, device)
        if case.plain is not None:
            each.plain_memory_bytes, plain_s = _first_calls(case.plain, device)
            longest_s = max(longest_s, plain_s)
        most = case.calls_per_turn or calls_per_turn
        n_calls.append(max(1, min(most, int(_TURN_S / longest_s))))
    yield timings
    for turn in range(turns):
        for each, n in zip(timings, n_calls, strict=True):
            case = each.case
            plain = _plain(case, device, n) if turn % 2 else []
            calls = [_timed(case.run, device) for _ in range(n)]
            each.turns.append((calls, plain if turn % 2 else _plain(case, device, n)))
        yield timings


def by_cpu_time(device: torch.device) -> bool:
    """Whether the time for which the process has the CPU tells how long something takes alone."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def _first_calls(run: Run, device: torch.device) -> tuple[float, float]:
    """Bytes that two calls add at most to what was in use, and how long the second one takes."""
    memory = AddedMemory(device)
    run()
    passed_s = _timed(run, device).passed_s
    return memory.peak_bytes(), passed_s


def _plain(case: Case, device: torch.device, n_calls: int) -> list[Duration]:
    if case.plain is None:
        return []
    calls = [_timed(case.plain, device) for _ in range(n_calls)]
    return [Duration(case.plain_calls * p_s, case.plain_calls * a_s) for p_s, a_s in calls]


def _median_alone_s(calls: Sequence[Duration]) -> float:
    return float(np.median([call.alone_s for call in calls])) if calls else math.nan


def _timed(run: Run, device: torch.device) -> Duration:
    start_s, start_busy_s = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    passed_s, busy_s = time.perf_counter() - start_s, time.process_time() - start_busy_s
    return Duration(passed_s, busy_s if by_cpu_time(device) else passed_s)
