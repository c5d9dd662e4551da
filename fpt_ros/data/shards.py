"""Writing samples to WebDataset tar shards: deterministic, resumable, whole or not at all.

One sample is three files in the tar: `<key>.jpg` (first picture), `<key>.npz` (flow, visible,
part, depth) and `<key>.json` (facts). The bytes of a shard depend on its split, its number, the
seed and the settings alone, not on how many processes write or how often they were stopped. What
they also depend on is the world and the software that drew it: `<split>.json` tells which.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import tarfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.scenes.families import FAMILIES, UNSEEN_FAMILIES
from fpt_ros.data.scenes.generate import (
    SPLITS,
    Sample,
    SceneSettings,
    describe,
    family_for,
    samples,
)
from fpt_ros.data.scenes.render import drawn_with
from fpt_ros.data.tarfiles import add_file, jpeg, new_shard, npz, remove_stale, write_json

log = logging.getLogger(__name__)

FORMAT = 1
WORLD = 5
"""Counts the changes after which a seed gives other samples: families, looks, motion, chances."""
_REPORT_EVERY = 16


@dataclass(frozen=True)
class ShardPlan:
    """What to write. samples_per_shard outcomes go into each `{split}-{number:05d}.tar`.

    families: these only; none: all, as often as `family_for` has it.
    """

    out: Path
    split: str
    seed: int
    samples_per_shard: int = 512
    settings: SceneSettings = field(default_factory=SceneSettings)
    families: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InvalidInputError(f"split is {self.split!r}; use one of {', '.join(SPLITS)}")
        if self.samples_per_shard < 1:
            raise InvalidInputError("samples_per_shard must be at least 1")
        if self.seed < 0:
            raise InvalidInputError(f"seed is {self.seed}; it must not be negative")
        allowed = {**FAMILIES, **UNSEEN_FAMILIES} if self.split == "test" else FAMILIES
        if unknown := sorted(set(self.families) - set(allowed)):
            raise InvalidInputError(
                f"no families {', '.join(unknown)} in split {self.split}; there are "
                + ", ".join(allowed)
            )

    def path(self, number: int) -> Path:
        """Where a shard goes."""
        return self.out / f"{self.split}-{number:05d}.tar"

    def facts(self) -> dict[str, Any]:
        """What determines the bytes of the shards, JSON-ready."""
        return {
            "format": FORMAT,
            "split": self.split,
            "seed": self.seed,
            "samples_per_shard": self.samples_per_shard,
            "families": sorted(set(self.families)),
            **describe(self.settings),
        }

    def made_with(self) -> dict[str, Any]:
        """What else the bytes depend on, JSON-ready. Raises RenderError without OpenGL."""
        return {"world": WORLD, "opencv": cv2.__version__, **drawn_with()}


def scene_seed(split: str, seed: int, shard: int, scene: int) -> int:
    """Seed of one scene. Its remainder by 3 is the split, so that splits never share a scene."""
    sequence = np.random.SeedSequence([seed, shard, scene])
    return (int(sequence.generate_state(1, np.uint64)[0]) >> 16) * 3 + SPLITS.index(split)


def shard_samples(plan: ShardPlan, number: int) -> Iterator[Sample]:
    """The samples of one shard: scene after scene until there are enough."""
    written = scene = 0
    while written < plan.samples_per_shard:
        seed = scene_seed(plan.split, plan.seed, number, scene)
        family = family_for(plan.split, np.random.default_rng([seed, 1]), plan.families)
        for sample in samples(family, seed, plan.settings):
            if written == plan.samples_per_shard:
                return
            written += 1
            yield sample
        scene += 1


def write_shard(plan: ShardPlan, number: int) -> Iterator[int]:
    """Write one shard unless it is there; yield 1 for every sample on the way."""
    final = plan.path(number)
    if final.exists():
        return
    with new_shard(final) as tar:
        for index, sample in enumerate(shard_samples(plan, number)):
            add_sample(tar, f"{plan.split}-{number:05d}-{index:05d}", sample)
            yield 1


def write_shards(plan: ShardPlan, shards: int, workers: int = 1) -> Iterator[int]:
    """Write those of shards 0 .. shards - 1 that are missing; yield samples as they are done.

    Raises InvalidInputError when the folder holds shards made with other settings, another world
    or another MuJoCo, OSError when the disk is full, BrokenProcessPool when a worker was killed;
    whole shards stay in any case.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(shards) if not plan.path(number).exists()]
    _check_facts(plan, complete=not missing)
    remove_stale(plan.out, plan.split)
    if workers == 1:
        for number in missing:
            yield from write_shard(plan, number)
        return
    context = multiprocessing.get_context("spawn")  # GL contexts do not survive a fork
    written = context.SimpleQueue()
    with ProcessPoolExecutor(workers, context, _start_worker, (written,)) as pool:
        pending = {pool.submit(_write_in_worker, plan, number) for number in missing}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while not written.empty():
                    yield written.get()
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_written: SimpleQueue[int]


def _start_worker(written: SimpleQueue[int]) -> None:
    """Remember where to report; one process per core is faster than threads in each."""
    global _written
    _written = written
    cv2.setNumThreads(1)


def _write_in_worker(plan: ShardPlan, number: int) -> int:
    """Write a shard, reporting every few samples; return how many are not reported yet."""
    count = 0
    for count, _ in enumerate(write_shard(plan, number), 1):
        if count % _REPORT_EVERY == 0:
            _written.put(_REPORT_EVERY)
    return count % _REPORT_EVERY


def known_facts(folder: Path, split: str) -> dict[str, Any]:
    """What the folder says of the shards of a split; empty where there are none yet.

    Raises InvalidInputError if that file is damaged.
    """
    path = folder / f"{split}.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} is damaged ({error}); use another folder") from error


def _check_facts(plan: ShardPlan, complete: bool) -> None:
    """Remember the settings beside the shards, and refuse to mix others with them.

    Nor are shards of another world or physics added to those that are there.
    """
    path = plan.out / f"{plan.split}.json"
    known, facts = known_facts(plan.out, plan.split), plan.facts()
    if not known:
        write_json(path, facts | plan.made_with())
        return
    known = {"families": [], **known}  # folders from before there was a choice hold all
    different = sorted(k for k in facts if known.get(k) != facts[k])
    if different:
        raise InvalidInputError(
            f"{path} was made with other settings ({', '.join(different)}); "
            "use those, or another folder"
        )
    if complete:
        return
    made_with = plan.made_with()
    for name in ("world", "mujoco"):
        now = made_with[name]
        if name not in known:
            log.warning("%s does not say with which %s it was made: %s now", path, name, now)
        elif known[name] != now:
            raise InvalidInputError(
                f"{path} was made with {name} {known[name]}, and this is {name} {now}: the same "
                "seed gives other samples now; use another folder"
            )


def add_sample(tar: tarfile.TarFile, key: str, sample: Sample) -> None:
    """Append the three files of a sample."""
    arrays = npz(
        flow=sample.flow.astype(np.float16),
        visible=sample.visible,
        part=sample.part,
        depth=sample.depth.astype(np.float16),
    )
    add_file(tar, f"{key}.jpg", jpeg(sample.image))
    add_file(tar, f"{key}.json", json.dumps(sample.about, sort_keys=True).encode())
    add_file(tar, f"{key}.npz", arrays)
