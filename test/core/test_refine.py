"""Refinement of functions whose values are known everywhere."""

import numpy as np
import pytest

from fpt_ros.core.refine import refine

NO_SEEDS = np.zeros((0, 2), np.float32)
NO_THRESHOLD = np.array([np.nan, np.nan], np.float32)


class Scene:
    """A disc that turns about its left edge while the rest stays: [flow across, score]."""

    def __init__(self):
        self.asked = []

    def __call__(self, points):
        self.asked.append(points)
        return self.at(points)

    @staticmethod
    def at(points):
        x, y = points.T
        inside = np.hypot(x - 0.6, y - 0.45) < 0.22
        return np.where(inside, [30 * (x - 0.38), 3 + x], [0 * x, 0.1 * y]).astype(np.float32)


def centres(n):
    ticks = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2).astype(np.float32)


def run(scene, n=16, tolerance=0.5, threshold=NO_THRESHOLD, doublings=3, seeds=NO_SEEDS):
    coarse = scene.at(centres(n)).reshape(2, n, n)
    limits = np.array([tolerance, np.inf], np.float32)
    return refine(coarse, scene, limits, threshold, doublings, seeds)


def test_without_doublings_nothing_is_asked_and_the_coarse_answers_stay():
    scene = Scene()
    lattice = run(scene, doublings=0)
    assert not scene.asked
    np.testing.assert_allclose(
        lattice.resample(16), scene.at(centres(16)).reshape(2, 16, 16), atol=1e-5
    )


def test_no_tolerance_at_all_asks_everywhere():
    lattice = run(Scene(), tolerance=-1.0, doublings=2)
    assert lattice.known.all()
    points = np.stack(np.meshgrid(lattice.ticks, lattice.ticks), -1).reshape(-1, 2)
    np.testing.assert_array_equal(lattice.values.reshape(2, -1), Scene.at(points))


@pytest.mark.parametrize("tolerance", [0.2, 1.0])
def test_few_answers_give_nearly_all_of_the_map(tolerance):
    scene = Scene()
    threshold = np.array([np.nan, 1.0], np.float32)
    lattice = run(scene, tolerance=tolerance, threshold=threshold)
    n_asked = sum(map(len, scene.asked))
    assert n_asked + 16**2 == lattice.known.sum()
    every = np.concatenate(scene.asked)
    assert len(np.unique(every, axis=0)) == n_asked  # nothing twice
    rows, columns = np.nonzero(lattice.known)
    points = np.stack([lattice.ticks[columns], lattice.ticks[rows]], -1)
    np.testing.assert_allclose(lattice.values[:, rows, columns], Scene.at(points), atol=2e-5)

    size = 128
    truth = Scene.at(centres(size)).reshape(2, size, size)
    result = lattice.resample(size)
    assert size**2 > 5 * (n_asked + 16**2)
    assert np.abs(result[0] - truth[0]).mean() < tolerance / 5
    ours, theirs = result[1] > 1, truth[1] > 1
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


def test_a_smaller_tolerance_asks_more():
    counts = [run(Scene(), tolerance=each).known.sum() for each in (4.0, 1.0, 0.25, 0.05)]
    assert counts == sorted(counts)
    assert counts[-1] > 1.5 * counts[0]


def test_a_threshold_alone_traces_the_border():
    scene = Scene()
    lattice = run(scene, tolerance=np.inf, threshold=np.array([np.nan, 1.0], np.float32))
    points = np.concatenate(scene.asked)
    off_border = np.abs(np.hypot(points[:, 0] - 0.6, points[:, 1] - 0.45) - 0.22)
    assert off_border.max() < 2 * np.sqrt(2) / 16
    assert lattice.known.mean() < 0.2


def test_around_a_seed_a_part_between_the_coarse_points_is_found():
    def speck(points):
        values = Scene.at(points)
        values[0] += 50 * (np.abs(points - 0.125).max(1) < 0.02)
        return values

    speck.at = speck  # no point of the coarse grid falls on it
    missed = run(speck, seeds=NO_SEEDS)
    found = run(speck, seeds=np.array([[0.125, 0.125]], np.float32))
    assert missed.resample(128)[0, 16, 16] < 1
    assert found.resample(128)[0, 16, 16] > 40


def test_planes_are_not_asked_about_inside():
    def plane(points):
        return np.stack([100 * points[:, 0] - 40 * points[:, 1], points[:, 0]]).astype(np.float32)

    plane.at = plane
    lattice = run(plane, n=8, doublings=2, tolerance=0.1)
    inside = lattice.known[12:-12, 12:-12]
    assert inside[::4, ::4].all()
    assert inside.sum() == inside[::4, ::4].sum()


def test_values_that_are_not_numbers_stay_where_they_are():
    scene = Scene()
    coarse = scene.at(centres(8)).reshape(2, 8, 8)
    coarse[:, 0, 0] = np.nan
    limits = np.array([0.5, np.inf], np.float32)
    lattice = refine(coarse, scene, limits, NO_THRESHOLD, 1, NO_SEEDS)
    assert np.isnan(lattice.values).any()
    assert np.isfinite(lattice.values[:, 5:, 5:]).all()
