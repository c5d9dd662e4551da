"""Moving-part scores and masks on mixtures with known divergences."""

import math

import numpy as np
import pytest
import torch

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.parts import DEFAULT_THRESHOLD_NATS, influence, moving_part_mask
from fpt_ros.params import Settings


def gaussians(means, deviation=1.0):
    """A batch of single round Gaussians with the given means [..., 2]."""
    means = torch.tensor(means, dtype=torch.float64).unsqueeze(-2)
    log_weights = torch.zeros(means.shape[:-1], dtype=torch.float64)
    factors = deviation * torch.eye(2, dtype=torch.float64).expand(*means.shape, 2)
    return GaussianMixture(log_weights, means, factors)


def test_influence_is_the_divergence_from_the_unconditional_answer():
    still = gaussians([[0, 0]] * 3, deviation=2.0)
    poked = gaussians([[0, 0], [4, 0], [0, 2]], deviation=2.0)
    score = influence(poked, still)
    assert isinstance(score, np.ndarray)
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, [0, 16 / 8, 4 / 8], atol=1e-6)

    certain = influence(gaussians([[0, 0]], deviation=1.0), still[:1])
    np.testing.assert_allclose(certain, [2 * (math.log(2) + 0.25 / 2 - 0.5)], rtol=1e-6)
    assert not np.isclose(certain, influence(still[:1], gaussians([[0, 0]])))  # not symmetric


def test_one_unconditional_answer_serves_all_candidates():
    still = gaussians([[0, 0], [1, 0]])
    candidates = gaussians([[[0, 0], [1, 0]], [[2, 0], [1, 2]], [[0, 0], [5, 0]]])
    np.testing.assert_allclose(influence(candidates, still), [[0, 0], [2, 2], [0, 8]], atol=1e-6)


def test_influence_takes_gradients_off():
    means = torch.zeros(1, 1, 2, requires_grad=True)
    poked = GaussianMixture(torch.zeros(1, 1), means, torch.eye(2).expand(1, 1, 2, 2))
    assert influence(poked, poked).tolist() == [0.0]


def test_mask_covers_the_cells_above_the_threshold():
    transform = CropTransform(60, 40, 32)
    score = np.zeros((4, 4), np.float32)
    score[1, 2] = 4.0  # the cell x 30..40, y 10..20 of the source image
    mask = moving_part_mask(score, transform, threshold_nats=2.0)
    assert mask.shape == (40, 60)
    assert mask.dtype == bool
    y, x = np.nonzero(mask)
    # The interpolated score halves at the edges of the cell.
    assert (x.min(), x.max(), y.min(), y.max()) == (30, 39, 10, 19)
    assert mask[15, 35]
    assert not moving_part_mask(score, transform, threshold_nats=4.0).any()


def test_masks_per_poke_and_their_union():
    transform = CropTransform(24, 24, 32)
    scores = np.random.default_rng(0).exponential(size=(3, 6, 6)).astype(np.float32)
    masks = moving_part_mask(scores, transform)
    assert masks.shape == (3, 24, 24)
    union = moving_part_mask(scores.max(axis=0), transform)
    assert (union | ~masks.any(axis=0)).all()


def test_unknown_scores_and_the_outside_are_not_moving():
    transform = CropTransform(60, 40, 32)
    assert not moving_part_mask(np.full((4, 4), np.nan), transform).any()
    everywhere = moving_part_mask(np.full((4, 4), 9.0), transform, threshold_nats=0.0)
    assert everywhere[:, 10:50].all()
    assert everywhere.sum() == 40 * 40


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_thresholds_must_not_be_negative(threshold):
    with pytest.raises(InvalidInputError, match="threshold_nats"):
        moving_part_mask(np.zeros((4, 4)), CropTransform(60, 40, 32), threshold)


def test_the_node_has_the_same_default_threshold():
    assert Settings().moving_part_threshold_nats == DEFAULT_THRESHOLD_NATS
