"""Tracks without learned weights: Lucas-Kanade, checked by itself and by dense inverse search.

Three kinds of points are told apart, since no single method serves them all:

* Where the picture shows the same at the end as at the beginning, and has texture there, the point
  has not moved (or is back, or was hidden for a while): its motion is zero.
* Where it has changed, the point is followed with pyramidal Lucas-Kanade from frame to frame. It
  is believed if following it back leads to where it began, if dense inverse search agrees, which
  looks at the two ends only, and if its surroundings look alike: a hidden point fails one of these.
* Where it has not changed and has no texture, nothing can be followed. A plain region counts as
  static if its rim, where it differs from its neighbours, has mostly not changed. The inside of a
  plain thing that moves looks unchanged too, but its rim has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.tracks import Tracks
from fpt_ros.data.tracks.change import change_limit, changed, lucas_kanade, smoothed

MAX_ROUND_TRIP_PX = 2.0
MAX_DISAGREEMENT_PX = 3.0
MIN_CORRELATION = 0.6  # of the patch around a point with that around its new place

_TEXTURE_WINDOW_PX = 21
_PATCH_PX = 15
# Grey levels per px: what can be followed has at least this gradient in every direction, so that a
# motion of 1 % of the side would be noticed as a change (twice that would lose a quarter of the
# moving points that are kept, for a third fewer outliers), ...
_MIN_TEXTURE = 2.0
_PLAIN = 5.0  # ... and a pixel below this belongs to a plain region
_RIM_PX = 6
_MAX_CHANGED_RIM = 0.65  # share of it

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


class ClassicalTracker:
    """See the module. The work grows with the number of points where the picture changes."""

    name = "Lucas-Kanade, dense inverse search"

    def __init__(self) -> None:
        self._dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def track(
        self, video: NDArray[np.uint8], points_px: NDArray[np.float32], later: Sequence[int]
    ) -> Tracks:
        """See PointTracker."""
        grey = [np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), np.uint8) for f in video]
        texture = _at(_texture(grey[0]), points_px)
        limit = change_limit(grey)
        xy = np.repeat(points_px[None], len(later), axis=0)
        valid = np.zeros(xy.shape[:2], bool)
        changed_maps = [changed(grey[0], grey[k], limit) for k in later]
        differs = np.stack([_at(c, points_px) for c in changed_maps])
        followed = (texture > _MIN_TEXTURE) & differs.any(axis=0)
        plain = _plain_regions(smoothed(grey[0]))
        moved = self._follow(grey, points_px[followed], later)
        for i in range(len(later)):
            static_plain = _at(_static_regions(plain, changed_maps[i]), points_px)
            still = ~differs[i] & ((texture > _MIN_TEXTURE) | static_plain)
            valid[i] = still
            rest = followed & differs[i]
            xy[i][rest] = moved.xy[i][rest[followed]]
            valid[i][rest] = moved.valid[i][rest[followed]]
        return Tracks(xy, valid)

    def _follow(self, grey: Sequence[Grey], points_px: Floats, later: Sequence[int]) -> Tracks:
        """Lucas-Kanade there and back, and the checks."""
        xy = np.zeros((len(later), *points_px.shape), np.float32)
        valid = np.zeros(xy.shape[:2], bool)
        if not len(points_px):
            return Tracks(xy, valid)
        place, alive = points_px, np.ones(len(points_px), bool)
        for t in range(1, later[-1] + 1):
            place, found = lucas_kanade(grey[t - 1], grey[t], place)
            alive = alive & found & _inside(place, grey[0].shape)
            if t not in later:
                continue
            i = later.index(t)
            xy[i], valid[i] = place, alive
            back, returned = place, alive
            for s in range(t, 0, -1):
                back, found = lucas_kanade(grey[s], grey[s - 1], back)
                returned = returned & found
            valid[i] &= returned & (_length(back - points_px) < MAX_ROUND_TRIP_PX)
            agrees = self._dense_agrees(grey[0], points_px, grey[t], place)
            if i > 0:  # or from where it was last believed: shorter ways are found more often
                before = grey[later[i - 1]]
                agrees |= valid[i - 1] & self._dense_agrees(before, xy[i - 1], grey[t], place)
            valid[i] &= agrees
            valid[i] &= _correlation(grey[0], points_px, grey[t], place) > MIN_CORRELATION
        return Tracks(xy, valid)

    def _dense_agrees(self, first: Grey, from_px: Floats, later: Grey, to_px: Floats) -> Mask:
        """Whether dense inverse search leads from points [N, 2] to about the same places."""
        flow = self._dis.calc(first, later, None)
        return _length(from_px + _at(flow, from_px) - to_px) < MAX_DISAGREEMENT_PX


def _texture(grey: Grey) -> Floats:
    """Root of the smaller eigenvalue of the mean gradient tensor, grey levels per px, [H, W]."""
    gradient = [cv2.Scharr(grey, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1))]
    xx, yy, xy = (
        cv2.blur(a * b, (_TEXTURE_WINDOW_PX, _TEXTURE_WINDOW_PX))
        for a, b in ((gradient[0],) * 2, (gradient[1],) * 2, gradient)
    )
    half = np.sqrt(np.square(xx - yy) / 4 + np.square(xy))
    return np.sqrt(np.maximum((xx + yy) / 2 - half, 0))


def _plain_regions(smooth: Floats) -> NDArray[np.int32]:
    """Connected regions without edges, [H, W]: their numbers, 0 = edges."""
    slope = np.hypot(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8),
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8),
    )
    plain = cv2.erode((slope < _PLAIN).astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.asarray(cv2.connectedComponents(plain, connectivity=4, ltype=cv2.CV_32S)[1])


def _static_regions(regions: NDArray[np.int32], differs: Mask) -> Mask:
    """The plain regions whose rim has mostly not changed, [H, W]."""
    count = int(regions.max()) + 1
    reach = np.ones((2 * _RIM_PX + 1,) * 2, np.uint8)
    grown = cv2.dilate(regions.astype(np.float32), reach).astype(np.int32)
    rim = (regions == 0) & (grown > 0)
    length = np.bincount(grown[rim], minlength=count)
    touched = np.bincount(grown[rim & differs], minlength=count)
    # The edge of the picture is rim too: what a region is cut off by there has not moved.
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        length += _RIM_PX * np.bincount(grown[edge][~differs[edge]], minlength=count)
    static = touched <= _MAX_CHANGED_RIM * np.maximum(length, 1)
    static[0] = False
    return static[grown] & ~differs


def _correlation(first: Grey, a_px: Floats, later: Grey, b_px: Floats) -> Floats:
    """Normalised correlation of the patches around points [N, 2] of two frames, [N]."""
    patches = []
    for picture, centres in ((first, a_px), (later, b_px)):
        offsets = np.arange(_PATCH_PX, dtype=np.float32) - np.float32(_PATCH_PX // 2 + 0.5)
        x = centres[:, 0, None, None] + offsets[None, None, :]
        y = centres[:, 1, None, None] + offsets[None, :, None]
        x, y = np.broadcast_arrays(x, y)
        flat = (len(centres), _PATCH_PX**2)
        sampled = cv2.remap(
            picture,
            x.reshape(flat),
            y.reshape(flat),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        ).astype(np.float32)
        patches.append(sampled - sampled.mean(axis=1, keepdims=True))
    a, b = patches
    return (a * b).sum(1) / np.sqrt(np.square(a).sum(1) * np.square(b).sum(1) + 1e-6)


def _at(values: NDArray, points_px: Floats) -> NDArray:
    """Values [H, W, ...] of the pixels that hold the points [N, 2]."""
    column, row = np.floor(points_px).astype(int).T
    height, width = values.shape[:2]
    return values[row.clip(0, height - 1), column.clip(0, width - 1)]


def _inside(points_px: Floats, shape: tuple[int, ...]) -> Mask:
    return np.all((points_px >= 0) & (points_px < (shape[1], shape[0])), axis=-1)


def _length(vectors: Floats) -> Floats:
    return np.linalg.norm(vectors, axis=-1)
