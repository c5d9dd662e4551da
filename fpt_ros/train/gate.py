"""May fine-tuned weights replace the base? Better on what was held out, and little forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

POKES = (1, 5)
"""Numbers of pokes at which the gate looks; evaluations need these counts."""

MAX_COVERAGE_LOSS = 0.05
"""How much farther from 90 % the coverage of the 90 % regions may be than before."""

Measures = Mapping[tuple[int, str], float]
"""Mean by number of pokes and name of the measure, as in `fpt evaluate`."""


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


@dataclass(frozen=True)
class Comparison:
    """The same samples, measured with the base and with the tuned weights."""

    before: Measures
    after: Measures

    def change_percent(self, pokes: int, measure: str) -> float:
        """Relative change; negative is better for errors."""
        before = self.before[pokes, measure]
        return 100 * (self.after[pokes, measure] - before) / before

    def difference(self, pokes: int, measure: str) -> float:
        """After minus before."""
        return self.after[pokes, measure] - self.before[pokes, measure]


def judge(held_out: Comparison, synthetic: Comparison | None, forget_percent: float) -> Verdict:
    """Decide over promotion.

    On what was held out of the recording: lower error over moving points and lower NLL at one and
    at five pokes, and coverage of the 90 % regions not much farther from 90 %. On the synthetic
    test: error over moving points at most `forget_percent` higher. A measure that is not a number
    counts against, and so does a missing synthetic test.
    """
    reasons = []
    for pokes in POKES:
        for measure, label in (("epe_moving_px", "error over moving points"), ("nll", "NLL")):
            if not held_out.difference(pokes, measure) < 0:  # refuses NaN too
                before, after = (side[pokes, measure] for side in (held_out.before, held_out.after))
                reasons.append(
                    f"{label} on what was held out did not fall at {_pokes(pokes)} "
                    f"({before:.2f} -> {after:.2f})"
                )
        off_before, off_after = (
            abs(side[pokes, "coverage_90"] - 0.9) for side in (held_out.before, held_out.after)
        )
        if not off_after <= off_before + MAX_COVERAGE_LOSS:
            reasons.append(
                f"the 90 % regions cover {100 * held_out.after[pokes, 'coverage_90']:.0f} % at "
                f"{_pokes(pokes)}, before {100 * held_out.before[pokes, 'coverage_90']:.0f} %"
            )
    if synthetic is None:
        reasons.append("what was forgotten is not known without synthetic data (--rehearsal)")
    else:
        for pokes in POKES:
            change = synthetic.change_percent(pokes, "epe_moving_px")
            if not change <= forget_percent:
                reasons.append(
                    f"error over moving points on the synthetic test rose by {change:.1f} % at "
                    f"{_pokes(pokes)}, allowed are {forget_percent:g} %"
                )
    return Verdict(not reasons, tuple(reasons))


def _pokes(count: int) -> str:
    return "one poke" if count == 1 else f"{count} pokes"
