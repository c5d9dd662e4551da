"""Trackers by name."""

from __future__ import annotations

from pathlib import Path

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.tracks import PointTracker
from fpt_ros.data.tracks.classical import ClassicalTracker

NAMES = ("classical", "cotracker3", "tapnext")


def choose_tracker(name: str, weights: Path | None = None, device: str = "cpu") -> PointTracker:
    """Make a tracker.

    Raises:
        InvalidInputError: an unknown name, weights missing or wrong.
        ModuleNotFoundError: the package of a learned tracker is not installed.
    """
    if name == "classical":
        return ClassicalTracker()
    if name not in NAMES:
        raise InvalidInputError(f"there is no tracker {name!r}; use one of {', '.join(NAMES)}")
    if weights is None or not weights.is_file():
        raise InvalidInputError(f"{name} needs a file with its weights (--tracker-weights)")
    from fpt_ros.data.tracks import learned

    if name == "cotracker3":
        return learned.CoTracker3(weights, device)
    return learned.TapNext(weights, device)
