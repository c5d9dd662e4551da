"""Runs the cases of a network in turns, with the machine's own peaks among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from fpt_ros.bench import machine
from fpt_ros.bench.cases import Cases
from fpt_ros.bench.report import Peaks, Row, row
from fpt_ros.bench.timing import Case, Timings, measure
from fpt_ros.core.engine import Engine
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel

# An int8 engine computes a part in integers and the rest in bfloat16.
_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.bfloat16,
}


class Plan(NamedTuple):
    """How much is measured.

    Attributes:
        turns: rounds of all cases.
        calls_per_turn: most calls of the engine in a round; the plain one is called as often.
        only: parts of the names of the cases that are measured; none: all.
        quick: small sizes only, to see that everything runs.
    """

    turns: int = 10
    calls_per_turn: int = 5
    only: tuple[str, ...] = ()
    quick: bool = False


def standard_cases(cases: Cases, quick: bool) -> list[Case]:
    """The stages, grids of 1, 1024 and 4096 points, 1, 8 and 64 candidates, joint sampling."""
    if quick:
        return [
            cases.encode(),
            cases.condition(2, 1),
            cases.query(1, 1, 1, None),
            cases.query(2, 1, 16, None),
            cases.joint_step(1, 4, None),
            cases.joint_grid(4, None),
            cases.moving_part(8, None),
        ]
    return [
        cases.encode(),
        *(cases.condition(candidates, 1) for candidates in (1, 8, 64)),
        cases.query(1, 1, 1, 7),
        cases.query(1, 1, 1024, 5),
        cases.query(1, 10, 4096, 5),
        cases.query(8, 1, 256, None),
        cases.query(64, 1, 256, 6),
        cases.joint_step(1, 512, 5),
        cases.joint_step(8, 512, 5),
        cases.joint_grid(32, 20),
        cases.moving_part(32, None),
    ]


def run(
    model: FlowPokeModel,
    engine: Engine,
    plan: Plan,
    on_progress: Callable[[int], object] = lambda turn: None,
) -> tuple[list[Row], Peaks]:
    """Measure an engine that runs this network, which stays in float32 for the plain one.

    on_progress is told the number of rounds done, 0 after the warm-up. Raises InvalidInputError
    if `only` matches no case.
    """
    cases = [
        case
        for case in standard_cases(Cases(model, engine), plan.quick)
        if not plan.only or any(part in case.name for part in plan.only)
    ]
    if not cases:
        raise InvalidInputError(f"no case has {' or '.join(map(repr, plan.only))} in its name")
    dtypes = (_DTYPES[engine.precision], torch.float32)
    loads = [machine.product(engine.device, dtype) for dtype in dtypes]
    loads.append(machine.traffic(engine.device))
    limits = [Case("limit", load.run, calls_per_turn=20) for load in loads]
    timings: list[Timings] = []
    turns = measure([*limits, *cases], engine.device, plan.turns, plan.calls_per_turn)
    for turn, so_far in enumerate(turns):
        timings = so_far
        on_progress(turn)
    n = len(loads)
    peaks = Peaks(
        *(load.amount / each.fastest_s for load, each in zip(loads, timings[:n], strict=True))
    )
    return [row(each, peaks) for each in timings[n:]], peaks
