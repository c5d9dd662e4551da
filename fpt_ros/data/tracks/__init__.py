"""Motion of points in ordinary video, as labels to learn from.

A tracker takes a short video and points in its first frame and says where they are in later frames
and which of these answers can be relied on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

TRACK_SIDE_PX = 448
"""Side of the square video that trackers see: what their limits in pixels refer to."""


@dataclass(frozen=True)
class Tracks:
    """K later frames, N points.

    `xy` float32 [K, N, 2] px; `valid` bool [K, N]: visible and believed to be right.
    """

    xy: NDArray[np.float32]
    valid: NDArray[np.bool_]


class PointTracker(Protocol):
    """What follows points through a video. `name` is for reports."""

    name: str

    def track(
        self, video: NDArray[np.uint8], points_px: NDArray[np.float32], later: Sequence[int]
    ) -> Tracks:
        """Follow points from the first frame.

        Args:
            video: RGB [T, S, S, 3].
            points_px: [N, 2] (x, y), continuous: the centre of the first pixel is (0.5, 0.5).
            later: the K frames at which they are wanted, rising.
        """
        ...


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV to one thread, as is right for work in the background.

    Otherwise it starts one for each core, beside whatever is at work there.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
