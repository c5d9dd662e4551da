"""Which parts of the scene a poke moves: what is likely to move, and differently without the poke.

Influence alone (Flow Poke Transformer, moving parts) also holds for what the poke keeps from
moving, and for what it makes less sure of; the likelihood of motion alone also for what moves by
itself. On validation scenes masks that ask for both overlap more with what moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .errors import InvalidInputError
from .geometry import CropTransform
from .mixture import GaussianMixture

MOVING = 0.01
"""A point moves when it is displaced by more than this share of the side of what the model sees.
The rule by which a camera is called static, too."""

# Probabilities are integrals, which take some 5 kB a point: so many stay in the cache.
_POINTS_AT_ONCE = 512


@dataclass(frozen=True)
class PartCriterion:
    """What makes a point one of the parts that move; the defaults were chosen on validation scenes.

    Attributes:
        threshold_nats: the influence of the pokes on it must be larger. A shift of the expected
            motion along an axis by its standard deviation there makes half a nat.
        least_probability: of moving by more than MOVING; 0 leaves that out.
    """

    threshold_nats: float = 0.5
    least_probability: float = 0.4

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a threshold that is negative, a probability beyond [0, 1]."""
        if not self.threshold_nats >= 0:
            raise InvalidInputError(
                f"threshold_nats must not be negative, got {self.threshold_nats}"
            )
        if not 0 <= self.least_probability <= 1:
            raise InvalidInputError(
                f"least_probability must be in [0, 1], got {self.least_probability}"
            )


DEFAULT_CRITERION = PartCriterion()


def influence(conditional: GaussianMixture, unconditional: GaussianMixture) -> np.ndarray:
    """Moving-part score, float32 array [...], in nats: KL(conditional || unconditional).

    `conditional` knows the pokes, `unconditional` the image alone; both are about the same points
    and their batches broadcast, so that one unconditional answer serves many sets of pokes.
    """
    score = conditional.kl_divergence(unconditional)
    return score.detach().float().cpu().numpy()


def motion_probability(mixture: GaussianMixture, transform: CropTransform) -> np.ndarray:
    """Probability, float32 array [...], of moving by more than MOVING.

    `mixture` is in px of the source image, of which `transform` says what the model sees. As exact
    as `GaussianMixture.prob_longer_than` in float32.
    """
    mixture = mixture.to(torch.float32)
    n_rows, *others = mixture.batch_shape
    step = max(1, _POINTS_AT_ONCE // math.prod(others))
    probability = torch.cat(
        [
            mixture[low : low + step].prob_longer_than(MOVING * transform.roi[2])
            for low in range(0, max(1, n_rows), step)
        ]
    )
    return probability.detach().cpu().numpy()


def moving_part_mask(
    score: np.ndarray,
    probability: np.ndarray,
    transform: CropTransform,
    criterion: PartCriterion = DEFAULT_CRITERION,
) -> np.ndarray:
    """Masks bool [..., H, W] over the source image from maps [..., n, n] of `transform.grid(n)`.

    `score` is the `influence`, `probability` the `motion_probability`. True where both, after
    interpolation, meet the criterion; False outside the crop and where one of them is NaN. For the
    union over several pokes, take the maximum of each map first. Raises InvalidInputError when the
    maps are not [n, n].
    """
    influenced = transform.paste(score, fill=0) > criterion.threshold_nats
    return influenced & (transform.paste(probability, fill=np.nan) >= criterion.least_probability)


def moving_part_of_grid(
    score: np.ndarray,
    mixture: GaussianMixture,
    transform: CropTransform,
    criterion: PartCriterion = DEFAULT_CRITERION,
) -> np.ndarray:
    """`moving_part_mask` from the `influence` [..., n, n] and the answers of those grid points.

    Probabilities are computed only where interpolation can meet an influence above the threshold.
    """
    influenced = torch.from_numpy(score > criterion.threshold_nats).float()
    near = F.max_pool2d(influenced.reshape(-1, 1, *score.shape[-2:]), 3, stride=1, padding=1) > 0
    at = near.reshape(mixture.batch_shape)
    probability = np.zeros(score.shape, np.float32)
    probability[at.reshape(score.shape).numpy()] = motion_probability(
        mixture[at.to(mixture.means.device)], transform
    )
    return moving_part_mask(score, probability, transform, criterion)
