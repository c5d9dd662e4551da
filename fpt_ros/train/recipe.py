"""How strongly a fine-tuning may change a model: the paper's recipe, scaled to small budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PAPER_RATE = 5e-7
PAPER_BATCH = 128
PAPER_STEPS = 1_000_000
"""The paper does not say how long it fine-tuned; this is the length of its pre-training."""
MAX_SHARE = 1 / 3
"""Of the rate that the base was trained with."""
PUBLISHED_RATE = 5e-5
"""Of pre-training, for bases that do not say theirs: the published one."""


def base_rate(training: Mapping[str, Any]) -> float:
    """The highest rate of the runs behind a base, from what its file says of its training.

    A run that began with the weights of another (`init`) is often short and gentle; how much
    change the weights can take is told by the run that brought them up.
    """
    rates = []
    run: Any = training
    while isinstance(run, Mapping):
        rates.append(_within(run, "config", "learning_rate"))
        run = _within(run, "init", "training")
    # What a file says of itself may be anything.
    known = [rate for rate in rates if isinstance(rate, float) and 0 < rate < math.inf]
    return max(known, default=PUBLISHED_RATE)


def _within(tree: Mapping[str, Any], outer: str, inner: str) -> Any:
    section = tree.get(outer)
    return section.get(inner) if isinstance(section, Mapping) else None


def learning_rate(steps: int, batch: int, base_rate: float) -> float:
    """The peak rate of a run of `steps` steps of `batch` views.

    The paper's 5e-7 at batch 128 barely moves a model within minutes. An Adam step changes a weight
    by about its rate, so rate times steps is how far the weights can travel: that is kept at the
    paper's, and the rate goes with the root of the batch, as the noise of a gradient does. It never
    exceeds a third of `base_rate`, the rate at which the base was trained.
    """
    travel = PAPER_RATE * max(1.0, PAPER_STEPS / steps)
    return min(travel * math.sqrt(batch / PAPER_BATCH), MAX_SHARE * base_rate)
