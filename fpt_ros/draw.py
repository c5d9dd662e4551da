"""Pictures of predictions: NumPy arrays in, a new RGB image out. Needs OpenCV only (4 or 5).

Points and displacements are in source pixels: x right, y down, centre of the first pixel at
(0.5, 0.5). Images are uint8 [H, W, 3] RGB and are never changed in place. Line widths and text
grow with the image, so that a thumbnail and a 4K frame look alike. Entries that are not finite
(points the model did not see) are skipped.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpt_ros import shapes
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.shapes import INK, WHITE, Colour, Image

POKE: Colour = (255, 45, 120)
PART: Colour = (60, 200, 255)
_MODE_COLOURS: tuple[Colour, ...] = (
    (255, 200, 40),
    (90, 220, 255),
    (150, 255, 130),
    (240, 150, 255),
)
# The first quarter of this map is too dark for thin lines.
_MOTION_TABLE = shapes.colour_table(cv2.COLORMAP_PLASMA)[70:]
_UNCERTAINTY_TABLE = shapes.colour_table(cv2.COLORMAP_INFERNO)
_INFLUENCE_TABLE = shapes.colour_table(cv2.COLORMAP_VIRIDIS)
_JPEG_QUALITY = 85


# ---- public pictures --------------------------------------------------------------------------


def draw_pokes(rgb: Image, pokes: ArrayLike) -> Image:
    """Each poke as a ring at the contact and an arrow along its displacement.

    pokes: [P, 4] x, y, dx, dy in px. Several pokes carry their index; one without length ("this
    point stays") is a ring with a dot.
    """
    image = _copied(rgb)
    rows = _rows(pokes, 4, "pokes")
    unit = shapes.unit_px(image)
    for index, (x, y, dx, dy) in enumerate(rows):
        start, step = np.array([x, y]), np.array([dx, dy])
        ring = 6.0 * unit
        length = float(np.hypot(dx, dy))
        if length > ring:
            arrow = shapes.arrow(start + step * (ring / length), start + step, 4.0 * unit)
            shapes.polygon(image, arrow, POKE, border=WHITE)
        else:
            shapes.disc(image, start, 2.0 * unit, POKE)
        shapes.ring(image, start, ring, WHITE, 4.0 * unit)
        shapes.ring(image, start, ring, POKE, 2.2 * unit)
        if len(rows) > 1:
            shapes.text(image, str(index), start + np.array([-3.0, -1.8 * ring]), 0.8)
    return image


def draw_motion(
    rgb: Image,
    points_px: ArrayLike,
    displacements_px: ArrayLike,
    minimum_px: float | None = None,
    longest_px: float | None = None,
    spacing_px: float | None = None,
) -> Image:
    """Arrows from points to where they are expected to go, coloured by the length of the way.

    points_px, displacements_px: [..., 2]. Ways shorter than minimum_px (default: 1 % of the
    shorter image side) are not drawn. The brightest colour stands for longest_px (default: the
    longest arrow; give it for videos). Of points closer than spacing_px (default: 1/28 of the
    shorter side), as on a fine grid, only one is drawn.
    """
    image = _copied(rgb)
    points = _rows(points_px, 2, "points_px", finite_only=False)
    steps = _rows(displacements_px, 2, "displacements_px", finite_only=False)
    if points.shape != steps.shape:
        raise InvalidInputError(
            f"points_px {points.shape} and displacements_px {steps.shape} must have equal shapes"
        )
    side = min(image.shape[:2])
    lengths = np.hypot(*steps.T)
    minimum_px = 0.01 * side if minimum_px is None else minimum_px
    visible = (lengths >= minimum_px) & np.isfinite(lengths)
    chosen = _thinned(points, visible, side / 28 if spacing_px is None else spacing_px)
    if not len(chosen):
        return image
    top = float(lengths[chosen].max()) if longest_px is None else longest_px
    width = 2.0 * shapes.unit_px(image)
    for i in chosen[np.argsort(lengths[chosen])]:  # long ones on top
        shapes.polygon(
            image,
            shapes.arrow(points[i], points[i] + steps[i], width),
            shapes.lookup(_MOTION_TABLE, lengths[i] / max(top, 1e-9)),
            border=INK,
        )
    return image


def draw_modes(
    rgb: Image,
    points_px: ArrayLike,
    weights: ArrayLike,
    means_px: ArrayLike,
    covariances_px2: ArrayLike,
    minimum_weight: float = 0.05,
) -> Image:
    """What may happen to a few points: the 1- and 2-sigma ellipses of each mixture component.

    points_px [N, 2], weights [N, K], means_px [N, K, 2], covariances_px2 [N, K, 3] (xx, xy, yy),
    as in a MotionDistribution. An ellipse is centred where the component takes the point; the more
    weight, the more opaque. Components below minimum_weight are left out.
    """
    image = _copied(rgb)
    points = _rows(points_px, 2, "points_px", finite_only=False)
    weight = np.asarray(weights, np.float64)
    mean = np.asarray(means_px, np.float64)
    covariance = np.asarray(covariances_px2, np.float64)
    n, k = len(points), weight.shape[-1] if weight.ndim else 0
    if (weight.shape, mean.shape, covariance.shape) != ((n, k), (n, k, 2), (n, k, 3)):
        raise InvalidInputError(
            f"for {n} points, weights must be [N, K], means_px [N, K, 2], covariances_px2 "
            f"[N, K, 3]; got {weight.shape}, {mean.shape}, {covariance.shape}"
        )
    unit = shapes.unit_px(image)
    for i, point in enumerate(points):
        if not np.isfinite(np.concatenate([point, mean[i].ravel(), covariance[i].ravel()])).all():
            continue
        order = np.argsort(-weight[i])
        for rank, j in reversed(list(enumerate(order))):  # heaviest on top
            share = min(float(weight[i, j]), 1.0)
            if not share >= minimum_weight:  # NaN too
                continue
            colour = _MODE_COLOURS[rank % len(_MODE_COLOURS)]
            centre = point + mean[i, j]
            outer = shapes.ellipse(centre, covariance[i, j], 2.0)
            inner = shapes.ellipse(centre, covariance[i, j], 1.0)
            shapes.fill(image, outer, colour, 0.10 + 0.25 * share)
            shapes.fill(image, inner, colour, 0.15 + 0.35 * share)
            shapes.outline(image, inner, INK, 2.0 * unit)
            shapes.outline(image, inner, colour, 1.2 * unit)
            way = np.stack([point, centre])
            shapes.outline(image, way, INK, 3.0 * unit, closed=False)
            shapes.outline(image, way, colour, 1.2 * unit, closed=False)
            shapes.disc(image, centre, 2.5 * unit, colour)
        shapes.disc(image, point, 3.5 * unit, WHITE)
    return image


def draw_uncertainty(rgb: Image, uncertainty_px: ArrayLike, top_px: float | None = None) -> Image:
    """A heat map of the standard deviation over the image in grey, with its scale in px.

    uncertainty_px: [H, W], NaN where there is no prediction. The brightest colour stands for
    top_px (default: the 99th percentile; give it for videos).
    """
    return _heat_map(rgb, uncertainty_px, "uncertainty_px", _UNCERTAINTY_TABLE, top_px, "px")


def draw_influence(rgb: Image, score_nats: ArrayLike, top_nats: float | None = None) -> Image:
    """A heat map of what pokes influence, with its scale in nats; otherwise `draw_uncertainty`."""
    return _heat_map(rgb, score_nats, "score_nats", _INFLUENCE_TABLE, top_nats, "nats")


def draw_parts(rgb: Image, masks: ArrayLike, colours: Sequence[Colour] = (PART,)) -> Image:
    """Tint the parts that move and draw their borders.

    masks: bool [H, W], or [P, H, W] for one part per poke; they take the colours in turn.
    """
    image = _copied(rgb)
    stack = np.asarray(masks)
    if stack.ndim == 2:
        stack = stack[None]
    if stack.dtype != bool or stack.shape[1:] != image.shape[:2]:
        raise InvalidInputError(
            f"masks must be bool and [..., {image.shape[0]}, {image.shape[1]}] like the image, got "
            f"{stack.dtype} {np.shape(masks)}"
        )
    unit = shapes.unit_px(image)
    for index, mask in enumerate(stack):
        colour = colours[index % len(colours)]
        image[mask] = (0.62 * image[mask] + 0.38 * np.array(colour)).astype(np.uint8)
        borders = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        for tint, width in ((INK, 3.2 * unit), (colour, 1.6 * unit)):
            cv2.drawContours(image, borders, -1, tint, shapes.line_width(width), cv2.LINE_AA)
    return image


def overview(
    rgb: Image,
    pokes: ArrayLike = (),
    points_px: ArrayLike = (),
    displacements_px: ArrayLike = (),
    mask: ArrayLike | None = None,
    roi: tuple[int, int, int] | None = None,
    lines: Sequence[str] = (),
    longest_px: float | None = None,
    enlarged_by: float = 1.0,
) -> Image:
    """One picture of an answer: moving part, expected motion and the pokes that cause it.

    pokes [P, 4]; points_px and displacements_px [N, 2]; mask bool [H, W]; roi (x, y, side) px of
    what the model saw, the rest is dimmed; lines of text for the corner; longest_px as for
    draw_motion. All but the image may be left out. Everything is in pixels of the given image; if
    that was enlarged (see `upscaled`), the colour scale tells original pixels.
    """
    image = _copied(rgb)
    if roi is not None:
        x, y, side = roi
        seen = image[y : y + side, x : x + side].copy()
        image //= 2
        image[y : y + side, x : x + side] = seen
    if mask is not None:
        image = draw_parts(image, mask)
    steps = _rows(displacements_px, 2, "displacements_px", finite_only=False)
    if len(steps):
        lengths = np.hypot(*steps.T)
        lengths = lengths[np.isfinite(lengths)]
        top = longest_px or max(float(lengths.max(initial=0.0)), 0.01 * min(image.shape[:2]))
        image = draw_motion(image, points_px, steps, longest_px=top)
        shapes.colour_bar(image, _MOTION_TABLE, "0", f"{top / enlarged_by:.3g} px")
    if len(_rows(pokes, 4, "pokes")):
        image = draw_pokes(image, pokes)
    shapes.legend(image, lines)
    return image


def sheet(panels: Mapping[str, Image], columns: int = 2) -> Image:
    """Equally large pictures side by side, each under its caption, row by row."""
    images = [_copied(panel) for panel in panels.values()]
    if not images or any(image.shape != images[0].shape for image in images):
        raise InvalidInputError("panels must be one or more images of one size")
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    unit = max(shapes.unit_px(images[0]), 0.75)
    gap, bar = shapes.line_width(6 * unit), shapes.line_width(24 * unit)
    out = np.full(
        (rows * (height + bar + gap) + gap, columns * (width + gap) + gap, 3), 246, np.uint8
    )
    for index, (caption, image) in enumerate(zip(panels, images, strict=True)):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + bar + gap), gap + column * (width + gap)
        out[top + bar : top + bar + height, left : left + width] = image
        at = np.array([left + 2 * unit, top + 0.72 * bar])
        shapes.text(out, caption, at, unit=unit, colour=INK, halo=None)
    return out


def upscaled(rgb: Image, shortest_px: int = 480) -> tuple[Image, int]:
    """A small image enlarged by a whole factor, so that drawings on it can be read.

    Returns the image, its shorter side at least shortest_px, and the factor by which coordinates
    have to be multiplied (1: the image as it was).
    """
    image = _copied(rgb)
    factor = max(1, -(-shortest_px // min(image.shape[:2])))
    if factor == 1:
        return image, 1
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8), factor


def save(path: Path, rgb: Image) -> None:
    """Write a picture in the format that its name ends in. Raises OSError if it cannot."""
    bgr = cv2.cvtColor(_copied(rgb), cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), bgr, options):
        raise OSError(f"{path} cannot be written")


# ---- checks and helpers -----------------------------------------------------------------------


def _copied(rgb: Image) -> Image:
    image = np.array(rgb, order="C")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InvalidInputError(
            f"rgb must be a uint8 array [H, W, 3], got {image.dtype} {list(image.shape)}"
        )
    return image


def _rows(
    values: ArrayLike, width: int, name: str, finite_only: bool = True
) -> NDArray[np.float64]:
    """As float64 [N, width]; without the rows that are not finite if finite_only."""
    rows = np.asarray(values, np.float64)
    if rows.size == 0:
        return np.zeros((0, width))
    if rows.shape[-1] != width:
        raise InvalidInputError(f"{name} must be [..., {width}], got {rows.shape}")
    rows = rows.reshape(-1, width)
    return rows[np.isfinite(rows).all(1)] if finite_only else rows


def _greyed(image: Image) -> Image:
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[..., None], 3, 2)


def _heat_map(
    rgb: Image, values: ArrayLike, name: str, table: Image, top: float | None, unit: str
) -> Image:
    grey = _greyed(_copied(rgb))
    values = np.asarray(values, np.float32)
    if values.shape != grey.shape[:2]:
        raise InvalidInputError(f"{name} must be {grey.shape[:2]} like rgb, got {values.shape}")
    known = np.isfinite(values)
    if not known.any():
        return grey
    top = max(float(np.percentile(values[known], 99)) if top is None else top, 1e-6)
    level = cv2.convertScaleAbs(np.where(known, np.clip(values, 0.0, top), 0.0), alpha=255 / top)
    heat = cv2.LUT(cv2.merge([level] * 3), table.reshape(1, 256, 3))
    image = np.asarray(cv2.addWeighted(heat, 0.65, grey, 0.35, 0.0), np.uint8)
    image[~known] = grey[~known] // 2
    shapes.colour_bar(image, table, "0", f"{top:.3g} {unit}")
    return image


def _thinned(
    points: NDArray[np.float64], visible: NDArray[np.bool_], spacing: float
) -> NDArray[np.intp]:
    """Indices of visible finite points that lie at least about `spacing` apart.

    The rows and columns of a regular grid are thinned by a whole step, so that what remains is a
    regular grid again; of scattered points the first one in each cell of that size is kept.
    """
    known = np.flatnonzero(np.isfinite(points).all(1))
    n = round(len(points) ** 0.5)
    if len(known) == n * n == len(points) and n > 1:
        grid = points.reshape(n, n, 2)
        regular = np.allclose(grid[..., 0], grid[:1, :, 0]) and np.allclose(
            grid[..., 1], grid[:, :1, 1]
        )
        pitch = grid[0, 1, 0] - grid[0, 0, 0]
        if regular and spacing <= n * pitch:
            step = max(1, math.ceil(spacing / pitch - 1e-6))
            kept = np.arange(step // 2, n, step)
            thin = (kept[:, None] * n + kept).ravel()
            return thin[visible[thin]]
    known = known[visible[known]]
    cells = np.floor(points[known] / max(spacing, 1e-9))
    return known[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
