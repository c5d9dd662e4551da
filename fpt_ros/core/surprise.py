"""How likely a prediction found what then happened: density, calibration, and where it failed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .errors import InvalidInputError
from .mixture import GaussianMixture

Floats = NDArray[np.float64]

_SAMPLES = 256  # per point: shares of probability are exact to 0.03 at worst
_WORST_SHARE = 0.02  # of the regions: what decides how surprising a picture is
_FEWEST_NEIGHBOURS = 4  # known points of the 3 x 3 around a point, itself included


@dataclass(frozen=True, eq=False)
class Surprise:
    """The verdict on N points, each float64 [N], NaN where it is not known what happened.

    Attributes:
        nll: negative logarithm of the predicted density of what happened, nats (px^2).
        expected_nll: its mean over what was predicted to happen, that is, the entropy.
        mass: probability of outcomes with a higher density than what happened; uniform in [0, 1]
            if the prediction is true.
    """

    nll: Floats
    expected_nll: Floats
    mass: Floats

    @property
    def excess(self) -> Floats:
        """Nats beyond what was expected, [N]: 0 on average if the prediction is true."""
        return self.nll - self.expected_nll

    def coverage(self, probability: float) -> float:
        """Share of the known points inside the smallest region of this probability."""
        known = self.mass[np.isfinite(self.mass)]
        return float((known <= probability).mean()) if len(known) else float("nan")


def judge(mixture: GaussianMixture, displacement_px: ArrayLike, noise_px: float) -> Surprise:
    """Compare predicted with measured displacements.

    The mixture is widened by the error of the measurement first: what is measured is the sum of
    both. Deterministic.

    Args:
        mixture: batch [N], px; NaN where there is no prediction.
        displacement_px: [N, 2]; NaN where the motion is not known.
        noise_px: standard deviation of the measurement along either axis.

    Raises:
        InvalidInputError: shapes that do not fit, or a noise that is no positive number.
    """
    moved = torch.as_tensor(np.asarray(displacement_px, np.float64))
    if len(mixture.batch_shape) != 1 or moved.shape != (*mixture.batch_shape, 2):
        raise InvalidInputError(
            f"displacements must be [N, 2] to go with {list(mixture.batch_shape)} predictions, "
            f"got {list(moved.shape)}"
        )
    if not 0 < noise_px < float("inf"):
        raise InvalidInputError(f"noise_px must be positive and finite, got {noise_px}")
    known = moved.isfinite().all(-1) & mixture.means.isfinite().all(-1).all(-1)
    verdict = Surprise(*(np.full(len(moved), np.nan) for _ in range(3)))
    if not known.any():
        return verdict
    sure, moved = mixture[known].to(torch.float64), moved[known]
    noise = torch.tensor([noise_px**2, 0.0, noise_px**2], dtype=torch.float64)
    measured = GaussianMixture.from_covariances(sure.weights, sure.means, sure.covariances + noise)
    nll = -measured.log_prob(moved)
    outcomes = measured.sample(_SAMPLES, torch.Generator().manual_seed(0))
    expected = -measured.log_prob(outcomes)
    where = known.numpy()
    verdict.nll[where] = nll.numpy()
    verdict.expected_nll[where] = expected.mean(dim=0).numpy()
    verdict.mass[where] = (expected < nll).double().mean(dim=0).numpy()
    return verdict


def regional(values: ArrayLike) -> Floats:
    """Median over the known ones of the 3 x 3 points around each, from values [n, n] to [n, n].

    NaN where the point itself or most of its neighbours are not known: a single point that was
    followed wrongly is no surprise.
    """
    grid = np.asarray(values, np.float64)
    if grid.ndim != 2:
        raise InvalidInputError(f"values must be [n, n], got {list(grid.shape)}")
    padded = np.pad(grid, 1, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*grid.shape, 9)
    keep = np.isfinite(grid) & (np.isfinite(around).sum(-1) >= _FEWEST_NEIGHBOURS)
    result = np.full(grid.shape, np.nan)
    result[keep] = np.nanmedian(around[keep], axis=-1)
    return result


def worst_region(values: ArrayLike) -> float:
    """What a fiftieth of the known regions [n, n] exceed; NaN if none is known."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(np.quantile(known, 1 - _WORST_SHARE)) if len(known) else float("nan")
