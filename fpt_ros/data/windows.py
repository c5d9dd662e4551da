"""From the frames of one block of a recording to samples of motion."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.parts import MOVING
from fpt_ros.data.frames import Frame
from fpt_ros.data.samples import cell_centres
from fpt_ros.data.tracks import TRACK_SIDE_PX, PointTracker
from fpt_ros.data.tracks.change import change_limit, changed, is_cut, thumbnail

STATIC_SHARE = 0.4
"""The camera is static when more than this share of the points does not move (the paper's rule)."""

MAX_RATE_HZ = 30.0  # frames beyond are left out: the steps between them are small enough
MAX_HORIZON_ERROR = 0.1
"""How far, as a share of it, the time of a motion may be from the horizon."""
_MAX_GAP = 2.5  # times the usual interval of frames
_MIN_MOVING = 0.004  # share of all points
_MIN_KEPT = 0.3  # share of all points
_MIN_FOLLOWED = 0.1  # points followed to another place, per point where the picture has changed
_MAX_MEDIAN_FLOW = 0.15  # of the side


@dataclass(frozen=True)
class ClipSettings:
    """How footage becomes samples.

    horizon_s: time over which motion is measured; also half of it is. stride_s: time between the
    first images of samples. image_px: side of the stored picture. grid: points per side. test:
    also hold out a test split.
    """

    horizon_s: float
    stride_s: float = 0.2
    image_px: int = 320
    grid: int = 64
    test: bool = False

    def __post_init__(self) -> None:
        if not 0.05 <= self.horizon_s <= 5:
            raise InvalidInputError(f"horizon_s is {self.horizon_s}; use 0.05 to 5 s")
        if not 0 < self.stride_s <= 3600:
            raise InvalidInputError(f"stride_s is {self.stride_s}; use a positive time")
        if not 32 <= self.image_px <= TRACK_SIDE_PX:
            raise InvalidInputError(f"image_px is {self.image_px}; use 32 to {TRACK_SIDE_PX}")
        if not 8 <= self.grid <= 128:
            raise InvalidInputError(f"grid is {self.grid}; use 8 to 128")

    @property
    def horizons_s(self) -> tuple[float, float]:
        """Times at which motion is measured; the last is the horizon."""
        return self.horizon_s / 2, self.horizon_s


@dataclass(frozen=True)
class ClipSample:
    """One first image and what was seen to move.

    image uint8 [S, S, 3]; flow float32 [H, G, G, 2] in image sides; valid bool [H, G, G]; about:
    JSON-ready facts.
    """

    image: NDArray[np.uint8]
    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    about: dict[str, Any]


@dataclass(frozen=True)
class _View:
    """The centre square of a frame as trackers see it."""

    index: int
    time_s: float
    rgb: NDArray[np.uint8]


def clip_samples(
    frames: Iterable[Frame], tracker: PointTracker, settings: ClipSettings, dropped: Counter[str]
) -> Iterator[ClipSample | None]:
    """Samples of consecutive frames; `dropped` counts first images that give none, by reason.

    Yields None after every frame that completes no sample, so that a caller can stop in between.
    """
    window: deque[_View] = deque()
    next_start_s = -np.inf
    for view in chain(_continuous(frames, dropped), [None]):
        least_s = settings.horizon_s
        if view is not None:
            window.append(view)
        else:  # nothing comes after it, so that what is near the horizon has to do
            least_s *= 1 - 0.5 * MAX_HORIZON_ERROR
        while window and window[-1].time_s >= window[0].time_s + least_s:
            if window[0].time_s >= next_start_s:
                next_start_s = window[0].time_s + settings.stride_s * 0.999
                yield _sample(list(window), tracker, settings, dropped)
            window.popleft()
        if view is not None:
            yield None
            continue
        dropped["cut, gap or end before the horizon"] += _starts_in(window, settings.stride_s)
        window.clear()
        next_start_s = -np.inf


def _starts_in(window: deque[_View], stride_s: float) -> int:
    return int((window[-1].time_s - window[0].time_s) / stride_s) + 1 if window else 0


def _continuous(frames: Iterable[Frame], dropped: Counter[str]) -> Iterator[_View | None]:
    """Views of the frames; None where the footage is cut."""
    before: Frame | None = None
    small: NDArray[np.uint8] | None = None
    intervals: deque[float] = deque(maxlen=15)
    for index, frame in enumerate(frames):
        if before is not None and small is not None:
            interval_s = frame.time_s - before.time_s
            if frame.follows and 0 <= interval_s < 0.9 / MAX_RATE_HZ:
                continue
            usual_s = float(np.median(intervals)) if intervals else interval_s
            reason = ""
            if not frame.follows or interval_s <= 0:
                reason = "cuts: jump of time"
            elif interval_s > _MAX_GAP * usual_s:
                reason = "cuts: gap between images"
            elif frame.rgb.shape != before.rgb.shape:
                reason = "cuts: change of resolution"
            rgb = centre_square(frame.rgb)
            after = thumbnail(to_grey(rgb))
            if not reason and is_cut(small, after):
                reason = "cuts: another scene"
            if reason:
                dropped[reason] += 1
                intervals.clear()
                yield None
            else:
                intervals.append(interval_s)
            small = after
        else:
            rgb = centre_square(frame.rgb)
            small = thumbnail(to_grey(rgb))
        before = frame
        yield _View(index, frame.time_s, rgb)


def centre_square(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The centre square of an image [H, W, 3] at the size that trackers see, [S, S, 3]."""
    height, width = rgb.shape[:2]
    x, y, side = CropTransform(width, height, TRACK_SIDE_PX).roi
    return _resized(rgb[y : y + side, x : x + side], TRACK_SIDE_PX)


def _resized(rgb: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if side_px < len(rgb) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (side_px, side_px), interpolation=how), np.uint8)


def to_grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brightness [H, W] of an image [H, W, 3]."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _sample(
    window: list[_View], tracker: PointTracker, settings: ClipSettings, dropped: Counter[str]
) -> ClipSample | None:
    """Track the points of the window's first frame; None, and a reason, if that is no good."""
    since_s = np.array([view.time_s - window[0].time_s for view in window])
    later = [int(np.abs(since_s - horizon_s).argmin()) for horizon_s in settings.horizons_s]
    error_s = abs(since_s[later[-1]] - settings.horizon_s)
    if not 0 < later[0] < later[-1] or error_s > MAX_HORIZON_ERROR * settings.horizon_s:
        dropped["images too far apart for the horizon"] += 1
        return None
    first, last = (to_grey(window[i].rgb) for i in (0, later[-1]))
    side = len(first)
    limit = change_limit([to_grey(window[i].rgb) for i in range(min(4, len(window)))])
    points = (cell_centres(settings.grid) * side).astype(np.float32)
    column, row = np.floor(points).astype(int).T
    differs = changed(first, last, limit)[row, column]
    if differs.mean() < _MIN_MOVING:
        dropped["nothing moves"] += 1
        return None
    video = np.stack([view.rgb for view in window[: later[-1] + 1]])
    tracks = tracker.track(video, points, later)
    shape = (len(later), settings.grid, settings.grid)
    flow = ((tracks.xy - points) / side).astype(np.float32)
    facts = _judge(flow[-1], tracks.valid[-1], differs)
    if reason := facts.pop("reason"):
        dropped[reason] += 1
        return None
    about = facts | {
        "view": window[0].index,
        "time_s": round(window[0].time_s, 6),
        "horizon_s": list(settings.horizons_s),
    }
    flow = np.where(tracks.valid[..., None], flow, np.float32(0))
    image = _resized(window[0].rgb, settings.image_px)
    return ClipSample(image, flow.reshape(*shape, 2), tracks.valid.reshape(shape), about)


def _judge(
    flow: NDArray[np.float32], valid: NDArray[np.bool_], differs: NDArray[np.bool_]
) -> dict[str, Any]:
    """Facts about a sample's motion [N, 2], and the reason to drop it, if there is one."""
    length = np.linalg.norm(flow, axis=-1)
    moving = valid & (length > MOVING)
    kept = float(valid.mean())
    followed = moving.sum() / max(int(differs.sum()), 1)
    static = bool((length[valid] < MOVING).mean() > STATIC_SHARE) if valid.any() else False
    reason = ""
    if kept < _MIN_KEPT:
        reason = "tracking failed (too few points kept)"
    elif float(np.median(length[valid])) > _MAX_MEDIAN_FLOW:
        reason = "camera moves too much"
    elif moving.mean() < _MIN_MOVING:
        few = differs.mean() < 5 * _MIN_MOVING
        reason = "nothing moves" if few else "tracking failed (what moves is lost)"
    elif followed < _MIN_FOLLOWED:
        reason = "tracking failed (what moves is lost)"
    return {
        "reason": reason,
        "camera_static": static,
        "kept": round(kept, 4),
        "followed": round(float(followed), 4),
        "moving_share": round(float(moving.mean()), 5),
        "mean_flow": round(float(length[moving].mean()), 5) if moving.any() else 0.0,
        "largest_flow": round(float(length[valid].max()), 5) if valid.any() else 0.0,
    }
