import math

import numpy as np
import pytest
import torch

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.surprise import judge, regional, worst_region


def gaussians(means, deviation):
    """One round Gaussian for each mean."""
    means = np.asarray(means, np.float64)
    covariance = [deviation**2, 0.0, deviation**2]
    return GaussianMixture.from_covariances(
        np.ones((len(means), 1)), means[:, None], np.tile(covariance, (len(means), 1, 1))
    )


def test_one_gaussian_has_a_closed_form():
    deviation, noise = 3.0, 4.0  # together 5
    moved = np.array([[10.0, 20.0], [13.0, 16.0], [40.0, 20.0]])
    verdict = judge(gaussians([[10.0, 20.0]] * 3, deviation), moved, noise)
    distance = np.array([0.0, 5.0, 30.0]) / 5
    np.testing.assert_allclose(
        verdict.nll, distance**2 / 2 + math.log(2 * math.pi * 25), rtol=1e-12
    )
    entropy = 1 + math.log(2 * math.pi * 25)
    np.testing.assert_allclose(verdict.expected_nll, entropy, atol=4 / math.sqrt(256))
    # Of a round Gaussian, 1 - exp(-d^2 / 2) lies nearer than d deviations.
    np.testing.assert_allclose(verdict.mass, 1 - np.exp(-(distance**2) / 2), atol=0.1)
    np.testing.assert_allclose(verdict.excess, verdict.nll - verdict.expected_nll)


def test_true_predictions_are_covered_as_often_as_they_say():
    torch.manual_seed(0)
    n = 2000
    mixture = GaussianMixture.from_covariances(
        torch.tensor([0.3, 0.7], dtype=torch.float64).expand(n, 2),
        10 * torch.randn(n, 2, 2, dtype=torch.float64),
        torch.tensor([4.0, 1.5, 9.0], dtype=torch.float64).expand(n, 2, 3),
    )
    noise = 2.0
    measured = mixture.sample(1)[0] + noise * torch.randn(n, 2, dtype=torch.float64)
    verdict = judge(mixture, measured.numpy(), noise)
    for probability in (0.5, 0.9):
        assert verdict.coverage(probability) == pytest.approx(probability, abs=0.04)
    assert verdict.excess.mean() == pytest.approx(0.0, abs=0.1)
    too_sure = judge(gaussians(mixture.mean().numpy(), 0.5), measured.numpy(), noise)
    assert too_sure.coverage(0.9) < 0.5
    assert too_sure.excess.mean() > 1


def test_unknown_points_stay_unknown():
    mixture = gaussians(np.zeros((3, 2)), 1.0)
    mixture.means[1] = torch.nan
    verdict = judge(mixture, [[0.0, 0.0], [0.0, 0.0], [np.nan, 0.0]], 1.0)
    assert np.isfinite(verdict.nll).tolist() == [True, False, False]
    assert verdict.coverage(0.5) == 1.0
    nothing = judge(mixture, np.full((3, 2), np.nan), 1.0)
    assert math.isnan(nothing.coverage(0.5))


@pytest.mark.parametrize(
    ("moved", "noise", "reason"),
    [
        (np.zeros((2, 2)), 1.0, r"\[N, 2\]"),
        (np.zeros((3, 2)), 0.0, "noise_px"),
        (np.zeros((3, 2)), math.nan, "noise_px"),
    ],
)
def test_what_does_not_fit_is_refused(moved, noise, reason):
    with pytest.raises(InvalidInputError, match=reason):
        judge(gaussians(np.zeros((3, 2)), 1.0), moved, noise)


def test_regions_outvote_single_points():
    values = np.zeros((8, 8))
    values[2, 2] = 100.0  # one point that was followed wrongly
    values[5:, 5:] = 50.0  # a thing
    values[0, 7] = np.nan
    found = regional(values)
    assert found[2, 2] == 0.0
    assert found[6, 6] == found[7, 7] == 50.0
    assert np.isnan(found[0, 7])
    assert worst_region(found) == 50.0
    assert worst_region(np.zeros((8, 8))) == 0.0

    alone = np.full((5, 5), np.nan)
    alone[2, 1:4] = 7.0
    assert np.isnan(regional(alone)).all()
    assert math.isnan(worst_region(alone * np.nan))
    with pytest.raises(InvalidInputError, match=r"\[n, n\]"):
        regional(np.zeros(4))
