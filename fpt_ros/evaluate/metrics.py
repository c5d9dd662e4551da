"""The measures, each a small function of predictions and truth.

Positions and flows are in unit-square coordinates; errors are reported in pixels of a picture
REPORT_SIDE_PX wide.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import stdtrit

from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.data.samples import REPORT_SIDE_PX

PCK_THRESHOLDS_PX = (2.0, 4.0, 8.0, 16.0, 32.0)
FEWEST_RIGID_POINTS = 12
"""Any motion of few points looks rigid: that of five or fewer is always explained by rank 5."""
FEWEST_TO_RESAMPLE = 8
"""Groups. Resampling fewer covers too little: of two groups, half of what 95 % should."""


def endpoint_error_px(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Length of the difference of flows [..., 2] -> [...], in px."""
    return REPORT_SIDE_PX * np.linalg.norm(flow - truth, axis=-1)


def intersection_over_union(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU of two boolean masks; two empty masks agree perfectly."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two vectors; NaN where one of them is constant."""
    if a.std() < 1e-12 or b.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def mode_measures(mixture: GaussianMixture, truth: torch.Tensor) -> dict[str, np.ndarray]:
    """Diversity, confidence and errors of the mixture's components, each [N].

    mode_diversity_px: weighted mean distance of the components from their common mean.
    mode_confidence: weight of the most confident component.
    top_mode_error_px, best_mode_error_px: error of the most confident and of the closest one.
    """
    spread = (mixture.means - mixture.mean().unsqueeze(-2)).norm(dim=-1)
    error = (mixture.means - truth.unsqueeze(-2)).norm(dim=-1)
    confidence, top = mixture.weights.max(dim=-1)
    return {
        "mode_diversity_px": REPORT_SIDE_PX * (mixture.weights * spread).sum(-1).numpy(),
        "mode_confidence": confidence.numpy(),
        "top_mode_error_px": REPORT_SIDE_PX * error.gather(-1, top[..., None])[..., 0].numpy(),
        "best_mode_error_px": REPORT_SIDE_PX * error.min(dim=-1).values.numpy(),
    }


def region_mass(
    mixture: GaussianMixture,
    truth: torch.Tensor,
    generator: torch.Generator,
    n_samples: int = 64,
) -> np.ndarray:
    """Share [N] of what is expected that lies in the smallest region to hold the truth [N, 2].

    Uniform on (0, 1) if the truth is drawn from the mixture, for any number of samples: the rank of
    the truth among them is one of n_samples + 1, and is spread evenly inside its step.
    """
    rank = n_samples * mixture.highest_density_mass(truth, n_samples, generator)
    return ((rank + torch.rand(rank.shape, generator=generator)) / (n_samples + 1)).numpy()


def rank5_residual(flows: np.ndarray) -> float:
    """How far joint samples are from the motion of one rigid body; 0 is rigid.

    Args:
        flows: [n_samples, N, 2], jointly sampled displacements of N points of one part.

    Under an affine camera the stacked displacements [2 n_samples, N] of a rigid body are linear in
    (1, X, Y, Z) of each point, so they have rank 4; a fifth dimension absorbs the first-order
    perspective effect. The score is the share of the motion's energy outside the best rank-5
    approximation (Eckart-Young), as a square root so that it scales like a length. NaN for fewer
    than FEWEST_RIGID_POINTS points.
    """
    if flows.shape[1] < FEWEST_RIGID_POINTS:
        return float("nan")
    stacked = np.moveaxis(flows, -1, 1).reshape(-1, flows.shape[1])
    energy = np.linalg.svd(stacked, compute_uv=False) ** 2
    return float(np.sqrt(energy[5:].sum() / max(energy.sum(), 1e-20)))


def mean_with_interval(
    values: np.ndarray, groups: np.ndarray, level: float = 0.95, n_resamples: int = 1000
) -> tuple[float, float, float]:
    """Mean of `values` with an interval for which whole groups (scenes) are what chance draws.

    Samples of one scene share its geometry, so drawing them alone would overstate certainty. Bounds
    are percentiles of means of resampled groups (bootstrap). Of fewer than FEWEST_TO_RESAMPLE
    groups, they are Student's t with one degree of freedom less than groups, times the standard
    error by the jackknife, which leaves out one group at a time: exact where groups are alike in
    size and normal, and where sizes differ less optimistic than linearising the mean as a ratio.

    Values that are not finite are left out. Returns (mean, lower, upper): NaN when nothing is
    left, bounds NaN when it is all of one group, which says nothing of how groups differ.
    """
    keep = np.isfinite(values)
    if not keep.any():
        return float("nan"), float("nan"), float("nan")
    _, index = np.unique(groups[keep], return_inverse=True)
    total = np.bincount(index, weights=values[keep])
    count = np.bincount(index)
    n, mean = len(count), float(total.sum() / count.sum())
    if n < 2:
        return mean, float("nan"), float("nan")
    if n < FEWEST_TO_RESAMPLE:
        without = (total.sum() - total) / (count.sum() - count)
        standard_error = np.sqrt((n - 1) / n * np.square(without - mean).sum())
        reach = float(stdtrit(n - 1, 0.5 + level / 2) * standard_error)
        return mean, mean - reach, mean + reach
    draw = np.random.default_rng(0).integers(n, size=(n_resamples, n))
    means = total[draw].sum(axis=1) / count[draw].sum(axis=1)
    tail = 50 * (1 - level)
    lower, upper = np.percentile(means, [tail, 100 - tail])
    return mean, float(lower), float(upper)
