"""Moving-part scores and masks on mixtures with known divergences."""

import math

import numpy as np
import pytest
import torch

from fpt_ros.core import parts
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.parts import (
    PartCriterion,
    influence,
    motion_probability,
    moving_part_mask,
    moving_part_of_grid,
)


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


def test_probability_of_moving_by_one_percent_of_the_side():
    transform = CropTransform(140, 100, 32)  # the model sees a square of 100 px
    mixture = gaussians([[0, 0], [3, 0]], deviation=0.5)
    probability = motion_probability(mixture, transform)
    assert probability.dtype == np.float32
    # Of a round distribution around 0: exp(-r^2 / 2 sigma^2), Rayleigh.
    assert probability[0] == pytest.approx(math.exp(-2), rel=1e-5)
    assert probability[1] > 0.99


@pytest.mark.parametrize("n_candidates", [None, 3])
def test_probability_is_the_same_in_slices(monkeypatch, n_candidates):
    transform = CropTransform(140, 100, 32)
    shape = (7, 2) if n_candidates is None else (n_candidates, 7, 2)
    mixture = gaussians(np.random.default_rng(0).normal(size=shape).tolist(), deviation=0.7)
    whole = motion_probability(mixture, transform)
    monkeypatch.setattr(parts, "_POINTS_AT_ONCE", 3)
    np.testing.assert_allclose(motion_probability(mixture, transform), whole, atol=1e-6)
    assert whole.shape == shape[:-1]


CERTAIN = np.ones((4, 4), np.float32)


def test_mask_covers_the_cells_that_are_influenced():
    transform = CropTransform(60, 40, 32)
    score = np.zeros((4, 4), np.float32)
    score[1, 2] = 4.0  # the cell x 30..40, y 10..20 of the source image
    mask = moving_part_mask(score, CERTAIN, transform, PartCriterion(threshold_nats=2.0))
    assert mask.shape == (40, 60)
    assert mask.dtype == bool
    y, x = np.nonzero(mask)
    # The interpolated score halves at the edges of the cell.
    assert (x.min(), x.max(), y.min(), y.max()) == (30, 39, 10, 19)
    assert mask[15, 35]
    assert not moving_part_mask(score, CERTAIN, transform, PartCriterion(4.0)).any()


def test_mask_covers_the_cells_that_are_likely_to_move():
    transform = CropTransform(60, 40, 32)
    probability = np.zeros((4, 4), np.float32)
    probability[1, 2] = 0.8
    criterion = PartCriterion(0.0, least_probability=0.4)
    y, x = np.nonzero(moving_part_mask(CERTAIN, probability, transform, criterion))
    assert (x.min(), x.max(), y.min(), y.max()) == (30, 39, 10, 19)
    both = moving_part_mask(CERTAIN, probability, transform, PartCriterion(1.0, 0.4))
    assert not both.any()
    all_influenced = moving_part_mask(CERTAIN, 0 * CERTAIN, transform, PartCriterion(0.5, 0.0))
    assert all_influenced[:, 10:50].all()


@pytest.mark.parametrize("shape", [(9,), (3, 9)])
@pytest.mark.parametrize("threshold_nats", [0.5, 2.0, 4.0])
def test_mask_of_a_grid_needs_no_probabilities_far_from_influence(shape, threshold_nats):
    transform = CropTransform(50, 40, 32)
    rng = np.random.default_rng(0)
    n = shape[-1]
    batch = (*shape[:-1], n, n)
    mixture = gaussians(rng.normal(scale=0.4, size=(*shape[:-1], n * n, 2)).tolist(), 0.3)
    score = rng.exponential(size=batch).astype(np.float32)
    score[..., 0, 4] = np.nan
    criterion = PartCriterion(threshold_nats)
    everywhere = motion_probability(mixture, transform).reshape(batch)
    expected = moving_part_mask(score, everywhere, transform, criterion)
    assert expected.any()
    assert not expected.all()
    mask = moving_part_of_grid(score, mixture, transform, criterion)
    np.testing.assert_array_equal(mask, expected)


def test_mask_of_a_grid_without_influence_is_empty():
    transform = CropTransform(50, 40, 32)
    mixture = gaussians(np.ones((16, 2)).tolist())
    assert not moving_part_of_grid(0 * CERTAIN, mixture, transform).any()


def test_masks_per_poke_and_their_union():
    transform = CropTransform(24, 24, 32)
    maps = np.random.default_rng(0).uniform(size=(2, 3, 6, 6)).astype(np.float32)
    masks = moving_part_mask(*maps, transform)
    assert masks.shape == (3, 24, 24)
    union = moving_part_mask(*maps.max(axis=1), transform)
    assert (union | ~masks.any(axis=0)).all()


def test_what_is_unknown_and_the_outside_are_not_moving():
    transform = CropTransform(60, 40, 32)
    anything = PartCriterion(0.0, 0.0)
    unknown = np.full((4, 4), np.nan)
    assert not moving_part_mask(unknown, CERTAIN, transform, anything).any()
    assert not moving_part_mask(CERTAIN, unknown, transform, anything).any()
    everywhere = moving_part_mask(CERTAIN, CERTAIN, transform, anything)
    assert everywhere[:, 10:50].all()
    assert everywhere.sum() == 40 * 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold_nats", -0.1),
        ("threshold_nats", math.nan),
        ("least_probability", -0.1),
        ("least_probability", 1.1),
        ("least_probability", math.nan),
    ],
)
def test_impossible_criteria_are_refused(name, value):
    with pytest.raises(InvalidInputError, match=name):
        PartCriterion(**{name: value})
