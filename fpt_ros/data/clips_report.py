"""What recordings gave, as Markdown and pictures of examples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros import draw
from fpt_ros.data.clips import Report, Tally
from fpt_ros.data.samples import (
    REPORT_SIDE_PX,
    BadSampleError,
    ShardIndex,
    ShardReader,
    cell_centres,
)

_EXAMPLES_PER_SPLIT = 6
_UNKNOWN = (70, 70, 75)


def save_report(out: Path, report: Report) -> str:
    """Write tracks.md and tracks.png into the folder of the shards; return the Markdown.

    Raises OSError when they cannot be written.
    """
    panels = _examples(out, [split for split in report.samples if report.samples[split]])
    if panels:
        draw.save(out / "tracks.png", draw.sheet(panels, columns=3))
    text = _markdown(report, bool(panels))
    (out / "tracks.md").write_text(text)
    return text


def _markdown(report: Report, pictures: bool) -> str:
    lines = ["# Motion tracked in recordings", "", f"Tracker: {report.tracker}.", ""]
    lines += [
        "| split | footage, s | samples | points kept | points moving | mean motion of these, px "
        "| longest, px | camera static |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for split in ("train", "val", "test"):
        if report.footage_s[split]:
            row = _row(report.splits.get(split, Tally()))
            lines.append(f"| {split} | {report.footage_s[split]:.1f} | {row} |")
    lines += [
        "",
        f"Pixels are those of a picture {REPORT_SIDE_PX} px wide, shares those of all points. "
        "Points that are not kept were hidden, lost or could not be followed; nothing is learned "
        "from them.",
        "",
        "| footage | samples | points kept | points moving | mean motion of these, px "
        "| longest, px | camera static |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {family} | {_row(tally)} |" for family, tally in sorted(report.families.items())]
    lines += [
        "",
        "Footage is named after its folder or file, with as much of the path in front as tells "
        "equal names apart, and its topic behind.",
    ]
    lines += _counts("Left out", "first images without a sample, and cuts", report.dropped)
    lines += _counts("Unusable", "images", report.skipped)
    if report.partial:
        lines += ["", "Not read, or read in part:", ""]
        lines += [f"* {remark}" for remark in report.partial]
    if pictures:
        lines += ["", "![examples](tracks.png)", "", "Grey: not kept. Arrows: kept, and moving."]
    return "\n".join(lines) + "\n"


def _row(tally: Tally) -> str:
    n = tally.samples
    if not n:
        return "0 | | | | |"
    return (
        f"{n} | {tally.kept / n:.0%} | {tally.moving_share / n:.1%} | "
        f"{REPORT_SIDE_PX * tally.mean_flow / n:.1f} | {REPORT_SIDE_PX * tally.largest_flow:.0f} | "
        f"{tally.camera_static / n:.0%}"
    )


def _counts(title: str, what: str, counts: Counter[str]) -> list[str]:
    if not any(counts.values()):
        return []
    rows = [f"| {reason} | {n} |" for reason, n in counts.most_common() if n]
    return ["", f"| {title.lower()} | {what} |", "|---|---|", *rows]


def _examples(folder: Path, splits: list[str]) -> dict[str, NDArray[np.uint8]]:
    """Pictures with what was tracked, by caption."""
    reader = ShardReader()
    panels = {}
    for split in sorted(splits):
        for view in ShardIndex.scan(folder, split).take(_EXAMPLES_PER_SPLIT).views:
            outcome = view.outcomes[0]
            try:
                motion, rgb = reader.motion(outcome, 0.0), reader.image(outcome)
            except BadSampleError:
                continue
            caption = f"{split}: {Path(view.family).name} {outcome.key}"
            panels[caption] = draw_tracks(rgb, motion.flow, motion.valid)
    return panels


def draw_tracks(
    rgb: NDArray[np.uint8], flow: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """What was tracked: flow [G, G, 2] in image sides as arrows, points not kept in grey."""
    side = len(rgb)
    unknown = cv2.resize(
        (~valid).astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST
    ).astype(bool)
    picture = rgb.copy()
    picture[unknown] = (0.3 * picture[unknown] + 0.7 * np.array(_UNKNOWN)).astype(np.uint8)
    points = cell_centres(len(valid)) * side
    steps = np.where(valid.reshape(-1, 1), flow.reshape(-1, 2) * side, np.nan)
    return np.asarray(draw.draw_motion(picture, points, steps), np.uint8)
