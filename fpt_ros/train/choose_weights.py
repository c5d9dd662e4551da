"""Which weights a fine-tuning ends with: averaged with the base, as validation likes best."""

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


@dataclass(frozen=True)
class Chosen:
    """What is kept."""

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

    What is forgotten is looked at with as many pokes as by the gate. NLL is the sum of that over
    all and that over moving points, at one poke. `advance` is told the share of the work that is
    done.
    """

    def model_of(state: blend.State) -> FlowPokeModel:
        return dataclasses.replace(base, state_dict=state).build_model().to(device)

    def trial(share: float, state: blend.State) -> blend.Trial:
        advance(share)
        model = model_of(state)
        of_scenes = None
        if synthetic is not None:
            rows = errors_px(model, synthetic, device, POKES)
            of_scenes = tuple(
                _by_scene(rows, (points, n_pokes), synthetic.scene)
                for n_pokes in POKES
                for points in ("moving", "all")
            )
        found = validate(model, own, device)
        return blend.Trial(share, found["nll/one_poke"] + found["nll/one_poke_moving"], of_scenes)

    tuned = load_checkpoint(tuned_path).state_dict
    best, state = blend.best(base.state_dict, tuned, trial, forget_percent)
    return Chosen(model_of(state), best.share)


def _by_scene(
    rows: list[dict[tuple[str, int], float]], error: tuple[str, int], scene: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Means of an error over the views of each scene in which it is defined; NaN where in none."""
    defined = np.array([error in row for row in rows])
    values = np.array([row.get(error, math.nan) for row in rows])
    sums = np.bincount(scene[defined], values[defined], minlength=scene.max() + 1)
    counts = np.bincount(scene[defined], minlength=scene.max() + 1)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
