"""Between a base model and its fine-tuned copy: averaged weights that forget less.

Models that come from one another by fine-tuning lie in one valley of the loss, so a weighted mean
of their weights is a model too, often a better one on both data sets (Wortsman et al., Robust
fine-tuning of zero-shot models, 2022).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

State = dict[str, Tensor]

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the tuned weights that are tried; 0 would be the base."""

_TRIMMED = 0.02
"""Share of the views, but at least one, left out at either end where changes are averaged: of 194
views one alone, of which all was suddenly expected to move, made six of seven per cent."""


@dataclass(frozen=True)
class Trial:
    """One share and what it is worth on validation data.

    `nll` is the score on the recording, lower is better. `synthetic_epe_px` are the errors over
    moving and over all points of the synthetic world, float [views] each, NaN where nothing moves;
    None where there is no such data.
    """

    share: float
    nll: float
    synthetic_epe_px: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def forgotten(self, base: Trial) -> float:
        """By what share of the base's the error rose that rose more; 0 if neither did."""
        if self.synthetic_epe_px is None or base.synthetic_epe_px is None:
            return 0.0
        rises = [0.0]
        for before, after in zip(base.synthetic_epe_px, self.synthetic_epe_px, strict=True):
            known = ~np.isnan(before)
            if known.any():
                change = _trimmed_mean((after - before)[known])
                rises.append(change / float(before[known].mean()))
        return float(np.max(rises))  # NaN if one is


def _trimmed_mean(values: NDArray[np.float64]) -> float:
    out = math.ceil(_TRIMMED * len(values))
    return float(np.sort(values)[out:-out].mean() if len(values) > 2 * out else np.median(values))


def interpolate(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> State:
    """`(1 - share) * base + share * tuned`; exactly one of them at 0 and 1.

    Tensors that are no floating-point numbers are taken from `tuned`.
    """
    if share in (0, 1):
        return {name: value.clone() for name, value in (tuned if share else base).items()}
    return {
        name: base[name].lerp(value, share) if value.is_floating_point() else value.clone()
        for name, value in tuned.items()
    }


def choose(base: Trial, trials: list[Trial], forget_percent: float) -> Trial:
    """The trial with the lowest `nll` among those that forget little.

    Little is half of `forget_percent`, because the choice is made on few samples and the gate looks
    at others. If all forget more, the one that forgets least.
    """
    limit = forget_percent / 200
    mild = [trial for trial in trials if trial.forgotten(base) <= limit]
    if mild:
        return min(mild, key=lambda trial: trial.nll)
    return min(trials, key=lambda trial: trial.forgotten(base))


def best(
    base: State, tuned: State, trial: Callable[[float, State], Trial], forget_percent: float
) -> tuple[Trial, State]:
    """Try all shares and `choose` one; `trial` measures a share with its weights."""
    before = trial(0.0, base)
    trials = [trial(share, interpolate(base, tuned, share)) for share in SHARES]
    chosen = choose(before, trials, forget_percent)
    for each in trials:
        log.info(
            "averaging: %.0f %% tuned: NLL %.3f (base %.3f), forgotten %+.1f %%%s",
            100 * each.share,
            each.nll,
            before.nll,
            100 * each.forgotten(before),
            ", chosen" if each is chosen else "",
        )
    return chosen, interpolate(base, tuned, chosen.share)
