"""Anti-aliased shapes and text, drawn into uint8 RGB images in place.

Points are float64 [..., 2] in pixels: x right, y down, centre of the first pixel at (0.5, 0.5).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (18, 18, 24)

_SHIFT = 4  # OpenCV draws at 1/16 px with this many fractional bits
_FAR_PX = 30_000.0  # beyond this OpenCV's fixed-point coordinates overflow


def colour_table(colormap: int) -> Image:
    """The 256 RGB colours of an OpenCV colour map, uint8 [256, 3]."""
    ramp = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    return np.array(cv2.applyColorMap(ramp, colormap)[:, 0, ::-1], np.uint8)


def unit_px(image: Image) -> float:
    """One pixel of a 640x480 image, in pixels of this one."""
    return min(image.shape[:2]) / 480.0


def line_width(width: float) -> int:
    """OpenCV wants whole pixels, and at least one."""
    return max(1, round(width))


def _fixed(points: Points) -> NDArray[np.int32]:
    """Our pixel coordinates as OpenCV's: integer pixel centres, with fractional bits."""
    near = np.clip(points - 0.5, -_FAR_PX, _FAR_PX)
    return np.round(near * (1 << _SHIFT)).astype(np.int32)


def lookup(table: Image, level: float) -> Colour:
    """The colour at a level in [0, 1]."""
    r, g, b = table[round(min(max(level, 0.0), 1.0) * (len(table) - 1))].tolist()
    return r, g, b


def arrow(start: Points, end: Points, width: float) -> Points:
    """Outline [7, 2] of an arrow; a short one is all head."""
    step = end - start
    length = max(float(np.hypot(*step)), 1e-9)
    along = step / length
    across = np.array([-along[1], along[0]])
    head = min(3.2 * width, 0.6 * length)
    shaft_half, head_half = min(0.5 * width, 0.2 * head), 0.5 * head
    neck = end - along * head
    return np.stack(
        [
            start + across * shaft_half,
            neck + across * shaft_half,
            neck + across * head_half,
            end,
            neck - across * head_half,
            neck - across * shaft_half,
            start - across * shaft_half,
        ]
    )


def ellipse(centre: Points, covariance: Points, sigmas: float) -> Points:
    """Outline [64, 2] of the set at the given Mahalanobis distance; covariance is (xx, xy, yy)."""
    xx, xy, yy = covariance
    variances, axes = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
    angle = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return centre + sigmas * (circle * np.sqrt(np.maximum(variances, 0.0))) @ axes.T


def polygon(image: Image, corners: Points, colour: Colour, border: Colour) -> None:
    """A filled polygon with a border around it."""
    fixed = [_fixed(corners)]
    cv2.polylines(image, fixed, True, border, line_width(2 * unit_px(image)), cv2.LINE_AA, _SHIFT)
    cv2.fillPoly(image, fixed, colour, cv2.LINE_AA, _SHIFT)


def outline(
    image: Image, corners: Points, colour: Colour, width: float, closed: bool = True
) -> None:
    cv2.polylines(image, [_fixed(corners)], closed, colour, line_width(width), cv2.LINE_AA, _SHIFT)


def fill(image: Image, corners: Points, colour: Colour, alpha: float) -> None:
    """Blend a filled polygon into the image, touching only the pixels around it."""
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(0)) - 1, 0, (width, height)).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int)
    window = image[low[1] : high[1], low[0] : high[0]]
    if window.size == 0:
        return
    cover = np.zeros(window.shape[:2], np.uint8)
    cv2.fillPoly(cover, [_fixed(corners - low)], 255, cv2.LINE_AA, _SHIFT)
    share = (alpha / 255.0) * cover[..., None].astype(np.float32)
    window[:] = (window + share * (np.array(colour, np.float32) - window)).astype(np.uint8)


def disc(image: Image, centre: Points, radius: float, colour: Colour) -> None:
    """A filled dot with a thin dark border."""
    for r, tint in ((radius + unit_px(image), INK), (radius, colour)):
        _circle(image, centre, r, tint, -1)


def ring(image: Image, centre: Points, radius: float, colour: Colour, width: float) -> None:
    _circle(image, centre, radius, colour, line_width(width))


def _circle(image: Image, centre: Points, radius: float, colour: Colour, thickness: int) -> None:
    x, y = _fixed(centre).tolist()
    r = round(radius * (1 << _SHIFT))
    cv2.circle(image, (x, y), r, colour, thickness, cv2.LINE_AA, _SHIFT)


_FONT = cv2.FONT_HERSHEY_SIMPLEX


def _text_size(words: str, unit: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(words, _FONT, 0.45 * unit, line_width(unit))
    return width, height


def text(
    image: Image,
    words: str,
    at: Points,
    size: float = 1.0,
    unit: float | None = None,
    colour: Colour = WHITE,
    halo: Colour | None = INK,
) -> None:
    """Text with its lower left corner at the given pixel."""
    unit = (unit_px(image) if unit is None else unit) * size
    x, y = np.clip(at, -_FAR_PX, _FAR_PX).round().astype(int).tolist()
    layers = [(colour, line_width(unit))]
    if halo is not None:
        layers.insert(0, (halo, line_width(3 * unit)))
    for tint, thickness in layers:
        cv2.putText(image, words, (x, y), _FONT, 0.45 * unit, tint, thickness, cv2.LINE_AA)


def _panel(image: Image, left: int, top: int, right: int, bottom: int) -> None:
    window = image[max(top, 0) : bottom, max(left, 0) : right]
    window[:] = (0.3 * window + 0.7 * np.array(INK)).astype(np.uint8)


def legend(image: Image, lines: Sequence[str]) -> None:
    """Lines of text on a dark panel in the upper left corner, left out where they do not fit."""
    unit = max(unit_px(image), 0.75)
    if not lines:
        return
    pad, pitch = round(6 * unit), round(17 * unit)
    width = max(_text_size(line, unit)[0] for line in lines) + 2 * pad
    height = pitch * len(lines) + pad
    if width > image.shape[1] or height > image.shape[0] // 2:
        return
    _panel(image, 0, 0, width, height)
    for row, line in enumerate(lines):
        at = np.array([pad, pad / 2 + pitch * (row + 0.75)])
        text(image, line, at, unit=unit, halo=None)


def colour_bar(image: Image, table: Image, low: str, high: str) -> None:
    """The scale of a colour map in the lower right corner, left out where it does not fit."""
    unit = max(unit_px(image), 0.75)
    pad, bar_width, bar_height = round(6 * unit), round(110 * unit), round(9 * unit)
    low_width, text_height = _text_size(low, unit)
    high_width = _text_size(high, unit)[0]
    width = low_width + bar_width + high_width + 4 * pad
    height = max(bar_height, text_height) + 2 * pad
    bottom, right = image.shape[:2]
    if width > right or height > bottom // 2:
        return
    top, left = bottom - height, right - width
    _panel(image, left, top, right, bottom)
    x, y = left + 2 * pad + low_width, top + (height - bar_height) // 2
    ramp = table[np.linspace(0, len(table) - 1, bar_width).round().astype(int)]
    image[y : y + bar_height, x : x + bar_width] = ramp
    base = top + (height + text_height) // 2
    text(image, low, np.array([left + pad, base]), unit=unit, halo=None)
    text(image, high, np.array([x + bar_width + pad, base]), unit=unit, halo=None)
