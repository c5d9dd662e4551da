"""Which weights a fine-tuning ends with: averaged with the base, then calibrated.

Averaging is in `blend`. Averaged weights keep part of the base's doubts about what has been learned
since, so one factor on all deviations follows, as the temperature of classifiers (Guo et al., On
calibration of modern neural networks, 2017): it leaves the means of the components as they are.
Both are chosen on validation data.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fpt_ros.core.checkpoint import Checkpoint, load_checkpoint
from fpt_ros.train import blend
from fpt_ros.train.validate import ValidationSet, measure, validate

log = logging.getLogger(__name__)

STD_FACTORS = (0.7, 0.85, 1.0, 1.2, 1.4)
"""Values of `HeadConfig.std_factor` that are tried, whatever the base has: a product would drift
away where one fine-tuning follows another. No farther from 1, because a few blocks of time say
little: the likelihood of three blocks asked for 0.5, which was too narrow for others."""


@dataclass(frozen=True)
class Chosen:
    """What is kept. `checkpoint` is the base with other weights and deviations."""

    checkpoint: Checkpoint
    share: float  # of the tuned weights in the average
    std_factor: float


def choose_weights(
    base: Checkpoint,
    tuned_path: Path,
    own: ValidationSet,
    synthetic: ValidationSet | None,
    forget_percent: float,
    device: torch.device,
    advance: Callable[[float], object],
) -> Chosen:
    """Choose by the NLL on `own` among averages that forget little on `synthetic`.

    NLL is that over all and that over moving points, at one poke. `advance` is told the share of
    the work that is done.
    """

    def own_nll(checkpoint: Checkpoint) -> float:
        found = validate(checkpoint.build_model().to(device), own, device)
        return found["nll/one_poke"] + found["nll/one_poke_moving"]

    def trial(share: float, state: blend.State) -> blend.Trial:
        advance(0.8 * share)
        averaged = dataclasses.replace(base, state_dict=state)
        errors_px = None
        if synthetic is not None:
            rows = measure(averaged.build_model().to(device), synthetic, device)
            moving_px, all_px = (
                np.array([row[f"epe_px/{points}"] for row in rows]) for points in ("moving", "all")
            )
            errors_px = (moving_px, all_px)
        return blend.Trial(share, own_nll(averaged), errors_px)

    tuned = load_checkpoint(tuned_path).state_dict
    best, state = blend.best(base.state_dict, tuned, trial, forget_percent)

    advance(0.9)
    head = base.config.head
    calibrated = {
        factor: dataclasses.replace(
            base,
            config=dataclasses.replace(
                base.config, head=dataclasses.replace(head, std_factor=factor)
            ),
            state_dict=state,
        )
        for factor in dict.fromkeys((head.std_factor, *STD_FACTORS))
    }
    nll = {factor: own_nll(checkpoint) for factor, checkpoint in calibrated.items()}
    chosen = min(nll, key=lambda factor: nll[factor])
    listed = ", ".join(f"{factor:g}: {nll[factor]:.3f}" for factor in sorted(nll))
    log.info("NLL with deviations times %s; %g chosen", listed, chosen)
    return Chosen(calibrated[chosen], best.share, chosen)
