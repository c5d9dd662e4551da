"""Turns what callers pass into arrays that the predictor can rely on, or says what is wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InvalidInputError
from .geometry import CropTransform
from .pixels import Pixels

# A longer poke leaves the picture wherever it starts; no network has seen one.
MAX_POKE_SIDES = 2.0


def checked_image(rgb: object) -> Pixels:
    """Pixels from RGB uint8 [H, W, 3], H, W >= 1; Pixels pass. Raises InvalidInputError."""
    if isinstance(rgb, Pixels):
        return rgb
    if not isinstance(rgb, np.ndarray):
        raise InvalidInputError(
            f"rgb must be a numpy array uint8 [H, W, 3], got {type(rgb).__name__}"
        )
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise InvalidInputError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    return Pixels(rgb)


def checked_points(points_px: ArrayLike, name: str = "queries") -> NDArray[np.float32]:
    """Points [N, 2] in px, N >= 1, finite; anywhere. Raises InvalidInputError."""
    points = _finite_rows(points_px, 2, name, "x, y")
    if len(points) == 0:
        raise InvalidInputError(f"{name} must hold at least one point x, y; it is empty")
    return points


def checked_pokes(
    pokes: ArrayLike, transform: CropTransform, name: str = "pokes"
) -> NDArray[np.float32]:
    """Pokes as `well_formed_pokes` gives them, that start where the model sees them.

    Raises InvalidInputError.
    """
    rows = well_formed_pokes(pokes, transform, name)
    x, y, side = transform.roi
    width, height = transform.image_width_px, transform.image_height_px
    for contained, where in (
        (transform.in_image(rows[:, :2]), f"outside the image of {width} x {height} px"),
        (
            transform.contains(rows[:, :2]),
            "outside the square that the model sees: "
            f"x from {x} to {x + side}, y from {y} to {y + side}",
        ),
    ):
        if not contained.all():
            index = int(np.argmin(contained))
            raise InvalidInputError(
                f"{name}[{index}] starts at ({rows[index, 0]:g}, {rows[index, 1]:g}), {where}"
            )
    return rows


def well_formed_pokes(
    pokes: ArrayLike, transform: CropTransform, name: str = "pokes"
) -> NDArray[np.float32]:
    """Pokes [P, 4] in px, P >= 0, anywhere, not absurdly long. Raises InvalidInputError."""
    rows = _finite_rows(pokes, 4, name, "x, y, dx, dy")
    side = transform.roi[2]
    lengths = np.hypot(rows[:, 2], rows[:, 3])
    if (lengths > MAX_POKE_SIDES * side).any():
        index = int(np.argmax(lengths))
        raise InvalidInputError(
            f"{name}[{index}] is {lengths[index]:.0f} px long; at most {MAX_POKE_SIDES * side:.0f} "
            "px, twice the side of what the model sees, make sense"
        )
    return rows


def _finite_rows(values: ArrayLike, width: int, name: str, columns: str) -> NDArray[np.float32]:
    """As float32 [N, width], finite; nothing at all (of any shape) is [0, width]."""
    expected = f"{name} must be numbers [N, {width}]: {columns}"
    try:
        rows = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InvalidInputError(f"{expected}; got {error}") from error
    if rows.size == 0:
        return np.zeros((0, width), np.float32)
    if rows.dtype.kind not in "iuf" or rows.ndim != 2 or rows.shape[1] != width:
        raise InvalidInputError(f"{expected}; got {rows.dtype} {list(rows.shape)}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise InvalidInputError(f"{name}[{index}] is not finite: {rows[index].tolist()}")
    return rows
