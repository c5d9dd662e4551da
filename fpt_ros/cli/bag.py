"""`fpt bag info`: what a recording holds, and what of it can be learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro


def bag(
    action: tyro.conf.Positional[Literal["info"]],
    path: tyro.conf.Positional[Path],
    decode: int = 3,
) -> int:
    """Show a recording's topics, types, rates, durations and gaps, and which images are usable.

    Reads the whole recording, so that damage is found, but decodes only a few images of each topic.
    Exit code 1: no usable images.

    Example: fpt bag info demo/bag

    Args:
        action: info
        path: rosbag2 folder, or an .mcap or .db3 file
        decode: images of each topic to look at
    """
    from rich.console import Console
    from rich.table import Table

    from fpt_ros.bags import BagReader
    from fpt_ros.data.bag_info import survey

    console = Console()
    with BagReader(path) as reader:
        with Console(stderr=True).status("reading"):
            found = survey(reader, decode)
        console.print(f"{path}: {found.duration_s:.1f} s, {found.read} messages", highlight=False)
    table = Table("messages", "Hz", "from, s", "to, s", "longest gap, s", "topic")
    table.columns[-1].overflow = "fold"
    for topic in found.topics:
        about = "\n".join(filter(None, (topic.name, topic.type_name, topic.remark)))
        table.add_row(
            str(topic.count),
            f"{topic.rate_hz:.1f}",
            f"{topic.first_s:.1f}" if topic.count else "",
            f"{topic.last_s:.1f}" if topic.count else "",
            f"{topic.longest_gap_s:.2f}" if topic.count > 1 else "",
            about,
        )
    console.print(table)
    for warning in found.warnings:
        console.print(warning, style="yellow", markup=False, highlight=False)
    return 0 if any(topic.usable for topic in found.topics) else 1
