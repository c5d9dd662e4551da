"""Which parts of the scene a poke moves: where it changes what the network expects to happen."""

from __future__ import annotations

import numpy as np

from .errors import InvalidInputError
from .geometry import CropTransform
from .mixture import GaussianMixture

# A shift of the expected motion by sqrt(2) of its own standard deviation makes one nat.
DEFAULT_THRESHOLD_NATS = 1.0


def influence(conditional: GaussianMixture, unconditional: GaussianMixture) -> np.ndarray:
    """Moving-part score, float32 array [...], in nats: KL(conditional || unconditional).

    `conditional` knows the pokes, `unconditional` the image alone; both are about the same points
    and their batches broadcast, so that one unconditional answer serves many sets of pokes.
    """
    score = conditional.kl_divergence(unconditional)
    return score.detach().float().cpu().numpy()


def moving_part_mask(
    score: np.ndarray, transform: CropTransform, threshold_nats: float = DEFAULT_THRESHOLD_NATS
) -> np.ndarray:
    """Masks bool [..., H, W] over the source image from scores [..., n, n] of `transform.grid(n)`.

    True where the interpolated score exceeds the threshold; False outside the crop and where the
    score is NaN. For the union over several pokes, take the maximum of their scores first.
    Raises InvalidInputError when the threshold is negative or NaN, or the scores are not [n, n].
    """
    if not threshold_nats >= 0:
        raise InvalidInputError(f"threshold_nats must not be negative, got {threshold_nats}")
    return transform.paste(score, fill=0) > threshold_nats
