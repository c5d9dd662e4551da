import numpy as np
import pytest
import torch
from scipy import stats

from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.data.samples import REPORT_SIDE_PX
from fpt_ros.evaluate import metrics


def test_endpoint_error_is_in_pixels_of_the_report_side():
    error = metrics.endpoint_error_px(np.array([[0.03, 0.04]]), np.zeros((1, 2)))
    np.testing.assert_allclose(error, 0.05 * REPORT_SIDE_PX)


def test_iou_by_hand():
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert metrics.intersection_over_union(a, b) == pytest.approx(1 / 3)
    assert metrics.intersection_over_union(a & ~a, b & ~b) == 1.0


def test_pearson_of_a_constant_is_undefined():
    assert np.isnan(metrics.pearson(np.ones(5), np.arange(5.0)))
    assert metrics.pearson(np.arange(5.0), -2 * np.arange(5.0)) == pytest.approx(-1)


def test_rigid_bodies_have_no_rank5_residual_and_noise_has():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 3))
    flows = []
    for _ in range(8):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        moved = points @ rotation.T + rng.normal(size=3)
        flows.append((moved - points)[:, :2])  # orthographic camera
    assert metrics.rank5_residual(np.array(flows)) < 1e-6
    assert metrics.rank5_residual(rng.normal(size=(8, 30, 2))) > 0.3
    assert metrics.rank5_residual(rng.normal(size=(8, 12, 2))) > 0.1
    assert np.isnan(metrics.rank5_residual(rng.normal(size=(8, 11, 2))))


def test_mode_measures_by_hand():
    mixture = GaussianMixture.from_covariances(
        torch.tensor([[0.75, 0.25]]),
        torch.tensor([[[0.0, 0.0], [0.4, 0.0]]]),
        torch.tensor([[[1e-4, 0.0, 1e-4]] * 2]),
    )
    got = metrics.mode_measures(mixture, torch.tensor([[0.4, 0.0]]))
    side = REPORT_SIDE_PX
    expected = {
        "mode_diversity_px": side * (0.75 * 0.1 + 0.25 * 0.3),
        "mode_confidence": 0.75,
        "top_mode_error_px": 0.4 * side,
        "best_mode_error_px": 0.0,
    }
    assert {name: float(value[0]) for name, value in got.items()} == pytest.approx(expected)


def test_the_interval_covers_the_mean_and_widens_when_scenes_are_few():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=100), 10)  # ten identical samples a scene
    scenes = np.repeat(np.arange(100), 10)
    mean, lower, upper = metrics.mean_with_interval(values, scenes)
    assert mean == pytest.approx(values.mean())
    assert 0.15 < upper - mean < 0.25  # 1.96 / sqrt(100), not / sqrt(1000)
    assert 0.15 < mean - lower < 0.25


def test_the_interval_leaves_out_nan():
    assert np.isnan(metrics.mean_with_interval(np.array([np.nan]), np.array(["a"]))[0])
    values = np.array([1.0, np.nan, 3.0])
    assert metrics.mean_with_interval(values, np.array(["a", "b", "c"]))[0] == 2.0


@pytest.mark.parametrize(
    ("n_scenes", "least"), [(2, 0.93), (3, 0.93), (5, 0.93), (7, 0.93), (20, 0.9)]
)
def test_intervals_cover_what_they_should(n_scenes, least):
    """Of a thousand draws of scenes, whose own mean differs as much as their samples do."""
    rng = np.random.default_rng(n_scenes)
    scenes = np.repeat(np.arange(n_scenes), 4)
    covered = 0
    for _ in range(1000):
        values = rng.normal(size=n_scenes)[scenes] + rng.normal(size=len(scenes))
        _, lower, upper = metrics.mean_with_interval(values, scenes)
        covered += lower <= 0 <= upper
    assert least < covered / 1000 < 0.97


def test_intervals_cover_also_where_scenes_differ_in_size():
    """One with ten times the samples of others; resampling covers 50, 77 and 82 %."""
    rng = np.random.default_rng(0)
    for n_scenes in (2, 3, 5):
        scenes = np.repeat(np.arange(n_scenes), [20] + [2] * (n_scenes - 1))
        covered = 0
        for _ in range(500):
            values = rng.normal(size=n_scenes)[scenes] + rng.normal(size=len(scenes))
            _, lower, upper = metrics.mean_with_interval(values, scenes)
            covered += lower <= 0 <= upper
        assert covered / 500 > 0.87


def test_of_few_scenes_the_interval_is_that_of_the_t_test():
    values = np.array([3.0, 5.0, 4.0, 9.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = metrics.mean_with_interval(values.repeat(3), np.arange(4).repeat(3))
    assert found == pytest.approx((values.mean(), *expected))


def test_one_scene_has_no_interval():
    mean, *bounds = metrics.mean_with_interval(np.array([1.0, 2.0]), np.array(["a", "a"]))
    assert mean == 1.5
    assert np.isnan(bounds).all()


def test_half_of_what_happens_lies_in_the_50_percent_regions_of_who_expects_just_that():
    n, generator = 4000, torch.Generator().manual_seed(0)
    mixture = GaussianMixture.from_covariances(
        torch.tensor([0.7, 0.3]).expand(n, 2),
        torch.tensor([[0.0, 0.0], [0.3, 0.1]]).expand(n, 2, 2),
        torch.tensor([[4e-3, 1e-3, 1e-3], [1e-3, 0.0, 9e-3]]).expand(n, 2, 3),
    )
    truth = mixture.sample(1, generator)[0]
    mass = metrics.region_mass(mixture, truth, generator, n_samples=8)
    for level in (0.5, 0.9):
        error = np.sqrt(level * (1 - level) / n)
        assert (mass <= level).mean() == pytest.approx(level, abs=3 * error)
