"""What the predictor answers: where points go, the parts that move, maps of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import CropTransform
from .mixture import GaussianMixture


class PointFlag(IntFlag):
    """Why the answer for a point is not to be used; 0 means it is."""

    OUTSIDE_ROI = 1  # the model did not see this point
    NONFINITE = 2  # the network overflowed
    OUTSIDE_IMAGE = 4  # the point is no point of the image at all
    CONTACT_OUTSIDE_ROI = 8  # the model did not see where a poke of this candidate starts


@dataclass(frozen=True, eq=False)
class Motion:
    """Where points go.

    Attributes:
        points_px: float32 [N, 2].
        on_device: displacements in px, batch [N], or [C, N] for C candidates; float64, where the
            engine computes. NaN where flags are set.
        flags: uint8 [N] or [C, N], bits of `PointFlag`.
        transform: what the model saw of the image.
        horizon_s: seconds that the displacements take; 0 means unknown.
    """

    points_px: NDArray[np.float32]
    on_device: GaussianMixture
    flags: NDArray[np.uint8]
    transform: CropTransform
    horizon_s: float

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The displacements, on the CPU."""
        return self.on_device.to("cpu")


class MovingParts(NamedTuple):
    """What moves with a poke, at the size of the source image."""

    mask: NDArray[np.bool_]  # [H, W], or [P, H, W] for one part per poke
    score: NDArray[np.float32]  # same shape: KL divergence in nats; NaN where nothing was seen


class DenseMaps(NamedTuple):
    """Answers for every pixel of the source image; NaN where the model does not see."""

    displacement_px: NDArray[np.float32]  # [H, W, 2], expected
    uncertainty_px: NDArray[np.float32]  # [H, W], standard deviation of the displacement
    parts: MovingParts
    n_queried: int  # points at which the network was asked, once with and once without the pokes
