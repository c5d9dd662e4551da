"""How well a tracker does where the truth is known: videos made of cut-outs that move.

Run `python -m fpt_ros.data.tracks.accuracy`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fpt_ros.core.parts import MOVING
from fpt_ros.data.samples import cell_centres
from fpt_ros.data.tracks import TRACK_SIDE_PX, PointTracker, one_opencv_thread
from fpt_ros.data.tracks.choice import choose_tracker
from fpt_ros.data.tracks.synthetic import known_clip

MOVES_PX = MOVING * TRACK_SIDE_PX


def measure(
    tracker: PointTracker, seeds: range, later: tuple[int, ...], grid: int = 64
) -> list[dict[str, float]]:
    """One row per frame in `later`, over all clips and points.

    Shares are in [0, 1]. "kept": of the visible points, those the tracker vouches for; errors are
    of these. "wrongly kept": of the hidden points, those it vouches for. "moving" points are those
    whose motion exceeds 1 % of the side.
    """
    parts: dict[int, list[NDArray[np.float64]]] = {t: [] for t in later}
    for seed in seeds:
        clip = known_clip(seed, frames=later[-1] + 1)
        side = clip.video.shape[1]
        points = (cell_centres(grid) * side).astype(np.float32)
        column, row = np.floor(points).astype(int).T
        tracks = tracker.track(clip.video, points, later)
        for i, t in enumerate(later):
            truth = clip.flow[t][row, column]
            error = np.linalg.norm(tracks.xy[i] - points - truth, axis=-1)
            moving = np.linalg.norm(truth, axis=-1) > MOVES_PX
            columns = (error, tracks.valid[i], clip.visible[t][row, column], moving)
            parts[t].append(np.stack([c.astype(np.float64) for c in columns]))
    return [_summary(t, np.concatenate(rows, axis=1)) for t, rows in parts.items()]


def _summary(frame: int, rows: NDArray[np.float64]) -> dict[str, float]:
    error, (kept, visible, moving) = rows[0], rows[1:] > 0
    row: dict[str, float] = {"frames": frame}
    for name, which in (("moving", moving), ("still", ~moving)):
        right = error[which & kept & visible]
        row |= {
            f"{name}: kept": (kept & visible & which).sum() / max((visible & which).sum(), 1),
            f"{name}: median error px": float(np.median(right)) if len(right) else np.nan,
            f"{name}: PCK@4px": float((right < 4).mean()) if len(right) else np.nan,
            f"{name}: wrongly kept": (kept & ~visible & which).sum()
            / max((~visible & which).sum(), 1),
        }
    both = error[kept]
    row["all kept: off by > 4 px"] = float((both >= 4).mean()) if len(both) else np.nan
    return row


def main(
    clips: int = 16,
    later: tuple[int, ...] = (6, 12, 24, 30),
    tracker: str = "classical",
    tracker_weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure a tracker on synthetic videos of 448 px and print a table.

    Args:
        clips: number of videos; their seeds are 0, 1, ...
        later: frames at which tracks are measured; all motion is spread over the last
        tracker: classical, cotracker3 or tapnext
        tracker_weights: file with the weights of a learned tracker
        device: torch device of a learned tracker
    """
    with one_opencv_thread():
        rows = measure(choose_tracker(tracker, tracker_weights, device), range(clips), later)
    table = Table("", *(f"{row['frames']:.0f} frames" for row in rows))
    for name in list(rows[0])[1:]:
        table.add_row(name, *(f"{row[name]:.3f}" for row in rows))
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
