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

SHARES = (0.25, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Shares of the tuned weights that are tried; 0 would be the base."""

_TRIMMED = 0.02
"""Share of the scenes, but at least one, left out at either end where changes are averaged: of 194
views three, of which all was suddenly expected to move, once made six of nine per cent."""


@dataclass(frozen=True)
class Trial:
    """One share and what it is worth on validation data.

    `nll` is the score on the recording, lower is better. `synthetic_epe_px` are errors in the
    synthetic world, over moving points or over all, at one poke or more: float [scenes] each, NaN
    where nothing moves; None where there is no such data.
    """

    share: float
    nll: float
    synthetic_epe_px: tuple[NDArray[np.float64], ...] | None = None

    def forgotten(self, base: Trial) -> tuple[float, float]:
        """By what share of the base's the error rose, and the standard error of that share.

        Of all errors, the one with the greater sum of both numbers. Zeros where there is none.
        The standard error is that of the change alone, infinite where scenes are too few to tell.
        NaN or infinite if an error became NaN.
        """
        if self.synthetic_epe_px is None or base.synthetic_epe_px is None:
            return 0.0, 0.0
        rises = [(0.0, 0.0)]
        for before, after in zip(base.synthetic_epe_px, self.synthetic_epe_px, strict=True):
            known = ~np.isnan(before)
            if known.any():
                change = np.array(_trimmed_mean((after - before)[known])) / before[known].mean()
                rises.append((float(change[0]), float(change[1])))
        return max(rises, key=lambda rise: or_infinite(sum(rise)))


def _trimmed_mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean without the extremes, and its standard error (Tukey and McLaughlin, 1963)."""
    n, out = len(values), math.ceil(_TRIMMED * len(values))
    if np.isnan(values).any():
        return math.nan, math.nan
    if n < 2 * out + 2:  # too few to tell how much they differ
        return float(np.median(values)), math.inf
    kept = np.sort(values)[out:-out]
    winsorized = np.concatenate([kept, kept[:1].repeat(out), kept[-1:].repeat(out)])
    return float(kept.mean()), float(winsorized.std(ddof=1) * math.sqrt(n) / (n - 2 * out))


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

    Little is at most `forget_percent` with one standard error as a margin: few scenes are looked
    at, and the gate looks at others and leaves no extremes out. If all forget more, the one that
    forgets least, and of equals the first.
    """
    forgotten = {trial.share: or_infinite(sum(trial.forgotten(base))) for trial in trials}
    mild = [trial for trial in trials if forgotten[trial.share] <= forget_percent / 100]
    if mild:
        return min(mild, key=lambda trial: or_infinite(trial.nll))
    return min(trials, key=lambda trial: forgotten[trial.share])


def or_infinite(value: float) -> float:
    """For comparing: NaN counts as the worst."""
    return math.inf if math.isnan(value) else value


def best(
    base: State, tuned: State, trial: Callable[[float, State], Trial], forget_percent: float
) -> tuple[Trial, State]:
    """Try all shares and `choose` one; `trial` measures a share with its weights."""
    before = trial(0.0, base)
    trials = [trial(share, interpolate(base, tuned, share)) for share in SHARES]
    chosen = choose(before, trials, forget_percent)
    for each in trials:
        rise, error = each.forgotten(before)
        log.info(
            "averaging: %.0f %% tuned: NLL %.3f (base %.3f), forgotten %.1f +- %.1f %%%s",
            100 * each.share,
            each.nll,
            before.nll,
            100 * rise,
            100 * error,
            ", chosen" if each is chosen else "",
        )
    return chosen, interpolate(base, tuned, chosen.share)
