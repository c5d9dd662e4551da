"""`fpt scenes`: make training, validation and test data from the procedural world."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

# Enough shards for several processes, however few samples; the number of processes must not count,
# for the bytes depend on the size of the shards.
_FEWEST_SHARDS = 8
_LARGEST_SHARD = 512


def scenes(
    out: Path,
    split: Literal["train", "val", "test"] = "train",
    count: int = 2048,
    seed: int = 0,
    workers: int = 2,
    samples_per_shard: int | None = None,
    image_px: int = 256,
    grid: int = 64,
    views: int = 6,
    outcomes: int = 4,
    families: tuple[str, ...] = (),
) -> None:
    """Write samples as WebDataset shards. Run it again to continue or to add more.

    A contact sheet, <split>.jpg, shows a view of every family with two of its outcomes.

    Args:
        out: Folder of the shards.
        split: Which split; the three unseen families are in `test` only.
        count: How many samples there should be in the end (rounded up to whole shards).
        seed: Seed; the same seed gives the same bytes, whatever the number of workers.
        workers: Processes; about one per core.
        samples_per_shard: Samples per tar file; default: as in the folder, in a new one an eighth
            of the count, at most 512.
        image_px: Side of the square pictures.
        grid: Points per side at which the motion is known.
        views: Pictures per scene.
        outcomes: Different futures per picture.
        families: Only these families of things, all equally often; default: all.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from fpt_ros.core.errors import InvalidInputError
    from fpt_ros.data import contact_sheet
    from fpt_ros.data.scenes.generate import SceneSettings
    from fpt_ros.data.shards import ShardPlan, known_facts, write_shards

    if count < 1 or workers < 1:
        raise InvalidInputError("count and workers must be at least 1")
    settings = SceneSettings(image_px=image_px, grid=grid, views=views, outcomes=outcomes)
    if samples_per_shard is None:
        default = min(_LARGEST_SHARD, -(-count // _FEWEST_SHARDS))
        samples_per_shard = int(known_facts(out, split).get("samples_per_shard", default))
    plan = ShardPlan(out, split, seed, samples_per_shard, settings, families)
    shards = -(-count // samples_per_shard)
    there = sum(plan.path(n).exists() for n in range(shards)) * samples_per_shard
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} samples/s"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    made = 0
    with Progress(*columns) as progress:
        task = progress.add_task(split, total=shards * samples_per_shard, completed=there, rate=0.0)
        for written in write_shards(plan, shards, workers):
            made += written
            progress.update(task, advance=written, rate=made / (time.monotonic() - start))
    seconds = time.monotonic() - start
    print(
        f"{out}: {shards} shards of {split}, {made} samples new in {seconds:.0f} s "
        f"({made / max(seconds, 1e-9):.1f} samples/s)"
    )
    print(f"look at it: {contact_sheet.save(out, split)}")
