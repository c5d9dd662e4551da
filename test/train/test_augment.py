"""Geometry acts on image, positions and displacements alike; light keeps shape and range."""

import dataclasses

import cv2
import numpy as np
import pytest

from fpt_ros.data.augment import (
    IDENTITY,
    NO_AUGMENTATION,
    AugmentConfig,
    draw_geometry,
    vary_light,
)
from fpt_ros.data.samples import cell_centres

SIDE_PX = 256


def blob(centre: np.ndarray) -> np.ndarray:
    """An image with one smooth spot at a unit-square position."""
    xy = cell_centres(SIDE_PX)
    value = 250 * np.exp(-np.square((xy - centre) * SIDE_PX).sum(-1) / (2 * 4.0**2))
    return value.reshape(SIDE_PX, SIDE_PX, 1).repeat(3, axis=2).astype(np.uint8)


def spot(image: np.ndarray) -> np.ndarray:
    """Unit-square centre of mass of the bright pixels."""
    weight = np.where(image[..., 0] > 25, image[..., 0], 0).astype(float).ravel()
    return (cell_centres(image.shape[0]) * weight[:, None]).sum(0) / weight.sum()


@pytest.mark.parametrize("seed", range(25))
def test_positions_and_flow_follow_the_image(seed):
    """Move a spot, warp both images: the spots in the warped images are where the labels say."""
    rng = np.random.default_rng(seed)
    geometry = draw_geometry(rng, AugmentConfig(p_rotate=1, max_angle_deg=40, p_crop=1))
    inverse = np.linalg.inv(geometry.matrix)
    seen = rng.uniform(0.2, 0.8, (2, 2))
    start, end = (seen - geometry.offset) @ inverse.T
    warped = [geometry.image(blob(each), 192) for each in (start, end)]
    tolerance = 0.3 / 192
    np.testing.assert_allclose(geometry.points(start), spot(warped[0]), atol=tolerance)
    np.testing.assert_allclose(
        geometry.displacements(end - start), spot(warped[1]) - spot(warped[0]), atol=2 * tolerance
    )


def test_window_stays_inside_the_image():
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    config = AugmentConfig(p_rotate=1, max_angle_deg=45)
    rng = np.random.default_rng(0)
    for _ in range(300):
        geometry = draw_geometry(rng, config)
        source = (corners - geometry.offset) @ np.linalg.inv(geometry.matrix).T
        assert (source > -1e-9).all()
        assert (source < 1 + 1e-9).all()


def test_flip_mirrors():
    geometry = draw_geometry(
        np.random.default_rng(0), AugmentConfig(p_flip=1, p_rotate=0, p_crop=0)
    )
    image = np.random.default_rng(1).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(geometry.image(image, 32), image[:, ::-1])
    np.testing.assert_allclose(geometry.points(np.array([0.2, 0.3])), [0.8, 0.3], atol=1e-6)
    np.testing.assert_allclose(geometry.displacements(np.array([0.2, 0.3])), [-0.2, 0.3], atol=1e-6)


def test_nothing_drawn_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    geometry = draw_geometry(rng, NO_AUGMENTATION)
    np.testing.assert_array_equal(geometry.image(image, 32), image)
    np.testing.assert_array_equal(vary_light(image, rng, NO_AUGMENTATION), image)


def test_shrinking_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = IDENTITY.image(stripes, 64).astype(int)
    assert abs(small - 127).max() < 20


def test_light_keeps_greys_grey_and_range():
    """Hue and saturation turn about the grey axis, so a grey image stays grey."""
    rng = np.random.default_rng(0)
    config = AugmentConfig(p_noise=0, p_jpeg=0)
    grey = np.full((16, 16, 3), 120, np.uint8)
    for _ in range(50):
        varied = vary_light(grey, rng, config)
        assert varied.dtype == np.uint8
        assert varied.max() - varied.min() <= 1
    colour = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(16, 16), cv2.COLORMAP_JET)
    levels = [vary_light(colour, rng, AugmentConfig()).mean() for _ in range(100)]
    assert np.std(levels) > 10


def test_blur_may_be_as_weak_as_wanted():
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    config = dataclasses.replace(NO_AUGMENTATION, p_blur=1, max_blur_px=0.1)
    np.testing.assert_array_equal(vary_light(image, np.random.default_rng(0), config), image)


def test_compression_keeps_of_fine_stripes_what_their_colour_weighs_in_brightness():
    """JPEG keeps brightness at full and colour at half resolution: red stripes stay, blue fade."""
    kept = []
    for channel in (0, 2):
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2, channel] = 255
        image = vary_light(
            stripes, np.random.default_rng(0), dataclasses.replace(NO_AUGMENTATION, p_jpeg=1)
        )
        kept.append(image[:, ::2].mean() - image[:, 1::2].mean())
    assert kept[0] / kept[1] == pytest.approx(0.299 / 0.114, rel=0.15)


def test_noise_has_no_offset():
    grey = np.full((256, 256, 3), 120, np.uint8)
    noisy = vary_light(
        grey, np.random.default_rng(0), dataclasses.replace(NO_AUGMENTATION, p_noise=1)
    )
    assert noisy.std() > 1
    assert noisy.mean() == pytest.approx(120, abs=0.1)
