"""What changes between frames of a video, and where a video is cut."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_SMOOTH_PX = 1.5
_NOISE_SIGMAS = 6.0
_LEAST_CHANGE = 5.0  # grey levels
_MOST_CHANGE = 15.0  # more is no noise: the camera moves
_MARGIN_PX = 9  # what has changed reaches this far

_WINDOW_PX = 21
_LEVELS = 4

_THUMBNAIL_PX = 112
_CUT_DIFFERENCE = 10.0  # grey levels, mean over the picture
_CUT_SURVIVORS = 0.35  # share of corners that can be followed across less than this: another scene

Grey = NDArray[np.uint8]


def changed(first: Grey, later: Grey, limit: float) -> NDArray[np.bool_]:
    """Where two grey frames differ by more than `limit`, and a margin around it, [H, W]."""
    differs = (np.abs(_difference(first, later)) > limit).astype(np.uint8)
    clean = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return cv2.dilate(clean, np.ones((_MARGIN_PX, _MARGIN_PX), np.uint8)) > 0


def change_limit(grey: Sequence[Grey]) -> float:
    """Difference in grey levels from which on a change is no noise of the sensor."""
    pairs = range(0, len(grey) - 1, max(1, len(grey) // 4))
    medians = [np.median(np.abs(_difference(grey[i], grey[i + 1])[::4, ::4])) for i in pairs]
    noise = 1.4826 * np.median(medians) / np.sqrt(2) if medians else 0.0
    return float(np.clip(_NOISE_SIGMAS * noise, _LEAST_CHANGE, _MOST_CHANGE))


def smoothed(grey: Grey) -> NDArray[np.float32]:
    """Without most of the sensor's noise."""
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), _SMOOTH_PX), np.float32)


def thumbnail(grey: Grey) -> Grey:
    """What `is_cut` compares."""
    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def is_cut(before: Grey, after: Grey) -> bool:
    """Whether another scene begins between two thumbnails.

    Much must be different, and little of it be found again elsewhere: a hand that moves in, or
    light switched on, is no cut.
    """
    if np.abs(_difference(before, after)).mean() < _CUT_DIFFERENCE:
        return False
    corners = cv2.goodFeaturesToTrack(before, 100, 0.01, 4)
    if corners is None or len(corners) < 8:
        return True
    start = np.asarray(corners, np.float32).reshape(-1, 2)
    there, found = lucas_kanade(before, after, start)
    back, returned = lucas_kanade(after, before, there)
    near = np.linalg.norm(back - start, axis=-1) < 1
    return bool((near & found & returned).mean() < _CUT_SURVIVORS)


def lucas_kanade(
    before: Grey, after: Grey, points_px: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points [N, 2] of one grey frame are in the next, and whether they were found, [N]."""
    start = np.ascontiguousarray(points_px - np.float32(0.5))  # OpenCV: centres are whole numbers
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        start,
        start.copy(),
        winSize=(_WINDOW_PX, _WINDOW_PX),
        maxLevel=_LEVELS,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02),
    )
    return np.asarray(moved, np.float32) + np.float32(0.5), np.asarray(found).ravel() > 0


def _difference(first: Grey, later: Grey) -> NDArray[np.float32]:
    """Of the smoothed frames, without the change of exposure that all pixels share."""
    difference = smoothed(later) - smoothed(first)
    return difference - np.median(difference[::4, ::4])
