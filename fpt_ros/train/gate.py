"""May fine-tuned weights replace the base? Better on what was held out, and little forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

POKES = (1, 5)
"""Numbers of pokes at which the gate looks; evaluations need these counts."""

ERRORS = {"epe_moving_px": "error over moving points", "nll": "NLL"}
"""Measures that must fall."""

LIMITED = {"epe_moving_px": "moving points", "epe_all_px": "all points"}
"""Errors that may rise little on the synthetic test; over all points, because motion that bleeds
into what stays is forgotten knowledge too."""

COVERAGES = {"coverage_90": "all points", "coverage_90_likely": "points likely to move"}
"""Measures that must stay near 90 %."""

MAX_COVERAGE_LOSS = 0.05
"""How much farther from 90 % the coverage of the 90 % regions may be than before."""

FEWEST_BLOCKS = 5
"""Intervals over fewer blocks (or scenes) are too wide to tell anything but enormous changes; there
every block must be better instead."""

Measures = Mapping[tuple[int, str], float]
"""Mean by number of pokes and name of the measure, as in `fpt evaluate`."""

Interval = tuple[float, float, float]
"""Mean, lower and upper end of its 95 % interval."""


@dataclass(frozen=True)
class Verdict:
    """What the gate decided; `reasons` says what stood against promotion."""

    promoted: bool
    reasons: tuple[str, ...]

    def sentence(self) -> str:
        """For people."""
        if self.promoted:
            return "promoted: better on what was held out, and little was forgotten"
        return "not promoted: " + "; ".join(self.reasons)


class Change(NamedTuple):
    """After minus before."""

    interval: Interval  # over blocks (scenes); bounds NaN where there is one only
    of_blocks: tuple[float, ...]  # mean of each


@dataclass(frozen=True)
class Comparison:
    """The same samples, measured with the base and with the tuned weights."""

    before: Measures
    after: Measures
    changes: Mapping[tuple[int, str], Change] = field(default_factory=dict)

    def change_percent(self, pokes: int, measure: str) -> float:
        """Relative change; negative is better for errors."""
        before = self.before[pokes, measure]
        return 100 * (self.after[pokes, measure] - before) / before

    def may_be_chance(self, pokes: int, measure: str) -> bool:
        """Tell whether the interval of the change reaches zero, or one of few blocks does."""
        if (change := self.changes.get((pokes, measure))) is None:
            return False
        few = len(change.of_blocks) < FEWEST_BLOCKS
        return (max(change.of_blocks) if few else change.interval[2]) >= 0


def judge(
    held_out: Comparison, synthetic: Comparison | None, forget_percent: float, *, unseen: bool
) -> Verdict:
    """Decide over promotion.

    On what was held out of the recording: lower error over moving points and lower NLL at one and
    at five pokes, by more than chance (95 % intervals over blocks of time; of fewer than
    FEWEST_BLOCKS, each must be better); and coverage of the 90 % regions, over all points
    and over those likely to move, at most MAX_COVERAGE_LOSS farther from 90 %. On the synthetic
    test: error over moving and over all points at most `forget_percent` higher. A measure that is
    not a number in some sample counts against, and so does a missing synthetic test. `unseen`: the
    weights were not chosen on what was held out; of weights that were, being better there says
    nothing, and they are refused.
    """
    reasons = []
    if not unseen:
        reasons.append(
            "the weights were chosen on what was held out, for there is no test split: it takes "
            "longer recordings with more motion, or for shards, `fpt tracks --test`"
        )
    for pokes in POKES:
        for measure, label in ERRORS.items():
            before, after = (side[pokes, measure] for side in (held_out.before, held_out.after))
            where = f"at {_pokes(pokes)} ({before:.2f} -> {after:.2f})"
            if not after - before < 0:  # refuses NaN too
                reasons.append(f"{label} on what was held out did not fall {where}")
            elif not math.isfinite(after):
                reasons.append(f"{label} on what was held out is no number {where}")
            elif held_out.may_be_chance(pokes, measure):
                reasons.append(
                    f"{label} on what was held out fell {where}, but not in every block of the "
                    "recording, or by no more than they differ"
                )
        for measure, points in COVERAGES.items():
            if (pokes, measure) not in held_out.before or (pokes, measure) not in held_out.after:
                continue  # nowhere is motion likely
            before, after = (side[pokes, measure] for side in (held_out.before, held_out.after))
            if not abs(after - 0.9) <= abs(before - 0.9) + MAX_COVERAGE_LOSS:
                reasons.append(
                    f"the 90 % regions cover {100 * after:.0f} % of {points} at {_pokes(pokes)}, "
                    f"before {100 * before:.0f} %"
                )
    if synthetic is None:
        reasons.append(
            "what was forgotten is not known without synthetic data of the same horizon "
            "(--rehearsal)"
        )
    else:
        for pokes in POKES:
            for measure, points in LIMITED.items():
                change = synthetic.change_percent(pokes, measure)
                if not change <= forget_percent:
                    reasons.append(
                        f"error over {points} on the synthetic test rose by {change:.1f} % at "
                        f"{_pokes(pokes)}, allowed are {forget_percent:g} %"
                    )
    return Verdict(not reasons, tuple(reasons))


def _pokes(count: int) -> str:
    return "one poke" if count == 1 else f"{count} pokes"
