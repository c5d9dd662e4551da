"""Meshes against their known volumes; textures; seeds."""

import numpy as np
import pytest

from fpt_ros.data.scenes import shapes, textures
from fpt_ros.data.scenes.builder import SceneBuilder


def volume(vertices, faces):
    """Volume inside a closed mesh with outward faces (divergence theorem)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def test_lathe_of_a_rectangle_is_a_cylinder():
    mesh = shapes.lathe([[0, 0], [0.3, 0], [0.3, 0.7], [0, 0.7]], sides=200)
    assert volume(*mesh) == pytest.approx(np.pi * 0.09 * 0.7, rel=1e-3)


def test_torus_volume():
    mesh = shapes.torus(0.5, 0.1, sides=150, tube_sides=80)
    assert volume(*mesh) == pytest.approx(2 * np.pi**2 * 0.5 * 0.01, rel=3e-3)


def test_prism_volume_of_a_rounded_rectangle():
    outline = shapes.rounded_rectangle(0.4, 0.2, 0.1, steps=60)
    area = 0.8 * 0.4 - (4 - np.pi) * 0.01
    assert volume(*shapes.prism(outline, 0.3)) == pytest.approx(area * 0.3, rel=1e-3)


@pytest.mark.parametrize("name", textures.PATTERNS)
def test_textures_keep_to_their_colour_and_seed(name):
    base = np.array([0.6, 0.5, 0.4])
    picture = textures.PATTERNS[name](np.random.default_rng(3), base, 64)
    again = textures.PATTERNS[name](np.random.default_rng(3), base, 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, again)
    assert 20 < picture.mean() < 235


@pytest.mark.parametrize("kind", ["any", "wood", "metal", "carton", "grey", "light", "dark"])
def test_colours_are_in_range(kind):
    b = SceneBuilder(np.random.default_rng(0))
    colours = np.array([b.colour(kind) for _ in range(200)])
    assert colours.shape == (200, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
