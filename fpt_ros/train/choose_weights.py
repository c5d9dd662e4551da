"""Which weights a fine-tuning ends with: averaged with the base, then calibrated.

Averaging is in `blend`. How sure weights are is off where they were trained for minutes, so a
factor on their deviations follows (`HeadConfig.std_factor`), found like the temperature of
classifiers (Guo et al., On calibration of modern neural networks, 2017): it leaves the means of the
components as they are. Both are chosen on validation data.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fpt_ros.core.checkpoint import Checkpoint, load_checkpoint
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train import blend
from fpt_ros.train.gate import POKES
from fpt_ros.train.validate import ValidationSet, errors_px, validate

log = logging.getLogger(__name__)

STD_FACTORS = (0.85, 1.0, 1.2)
"""Values of `HeadConfig.std_factor` that are tried, and the base's own. They are no multiples of
the base's: from one fine-tuning to the next those would drift away. No farther from 1: likelihood
hardly tells 0.7 from 0.85, but in other scenes the 90 % regions of moving points then cover 8 to 9
points less than the base's, and 5 to 6 less with 0.85."""

_CALIBRATION_VIEWS = 64  # synthetic ones, at most


@dataclass(frozen=True)
class Chosen:
    """What is kept: weights, and with which factor on deviations, is in the model."""

    model: FlowPokeModel
    share: float  # of the tuned weights in the average


def choose_weights(
    base: Checkpoint,
    tuned_path: Path,
    own: ValidationSet,
    synthetic: ValidationSet | None,
    forget_percent: float,
    device: torch.device,
    advance: Callable[[float], object],
) -> Chosen:
    """Choose the share by the NLL on `own` among those that forget little on `synthetic`.

    What is forgotten is looked at with as many pokes as by the gate. The factor on deviations is
    chosen by the NLL on both together. NLL is the sum of that over all and that over moving points,
    at one poke. `advance` is told the share of the work that is done.
    """
    head = base.config.head

    def model_of(state: blend.State, std_factor: float) -> FlowPokeModel:
        config = dataclasses.replace(
            base.config, head=dataclasses.replace(head, std_factor=std_factor)
        )
        built = dataclasses.replace(base, config=config, state_dict=state).build_model()
        return built.to(device)

    def nll(model: FlowPokeModel, views: ValidationSet) -> float:
        found = validate(model, views, device)
        # In a few of the synthetic views, perhaps nothing moves.
        return found["nll/one_poke"] + found.get("nll/one_poke_moving", 0.0)

    def trial(share: float, state: blend.State) -> blend.Trial:
        advance(0.8 * share)
        model = model_of(state, head.std_factor)
        of_scenes = None
        if synthetic is not None:
            rows = errors_px(model, synthetic, device, POKES)
            of_scenes = tuple(
                _by_scene(rows, (points, n_pokes), synthetic.scene)
                for n_pokes in POKES
                for points in ("moving", "all")
            )
        return blend.Trial(share, nll(model, own), of_scenes)

    tuned = load_checkpoint(tuned_path).state_dict
    best, state = blend.best(base.state_dict, tuned, trial, forget_percent)

    some = synthetic and synthetic.every(math.ceil(len(synthetic) / _CALIBRATION_VIEWS))
    nlls: dict[float, float] = {}
    for n, factor in enumerate(dict.fromkeys((head.std_factor, *STD_FACTORS))):
        advance(0.8 + 0.05 * n)
        model = model_of(state, factor)
        nlls[factor] = nll(model, own) + (nll(model, some) if some else 0.0)
    chosen = min(nlls, key=lambda factor: blend.or_infinite(nlls[factor]))
    listed = ", ".join(f"{factor:g}: {nlls[factor]:.3f}" for factor in sorted(nlls))
    log.info("NLL by the factor on deviations: %s; %g chosen", listed, chosen)
    return Chosen(model_of(state, chosen), best.share)


def _by_scene(
    rows: list[dict[tuple[str, int], float]], error: tuple[str, int], scene: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Means of an error over the views of each scene in which it is defined; NaN where in none."""
    defined = np.array([error in row for row in rows])
    values = np.array([row.get(error, math.nan) for row in rows])
    sums = np.bincount(scene[defined], values[defined], minlength=scene.max() + 1)
    counts = np.bincount(scene[defined], minlength=scene.max() + 1)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
