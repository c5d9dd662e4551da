"""Read shards of simulated or tracked motion: which samples exist, and one sample as arrays.

A shard is a WebDataset tar. One sample is one outcome of one view and has three members:
`<key>.jpg` (square first image), `<key>.npz` (`flow` [H, G, G, 2] in unit-square units, `part`
[G, G], optionally `valid` bool [H, G, G], absent where all motion is known) and `<key>.json`
(`family`, `scene_seed`, `view`, `camera_static`, `horizon_s`).

The index keeps offsets only and members are read by position, so the page cache of the operating
system is the only cache, any sample is reached at once, and a resumed run sees the same order.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.images import picture_to_rgb

log = logging.getLogger(__name__)

MEMBERS = ("jpg", "npz", "json")

_MAX_OPEN = 64  # shards
_MAX_ARRAY_BYTES = 64 << 20  # of one sample, expanded; ours have less than one MiB

REPORT_SIDE_PX = 448
"""Errors are reported in pixels of a picture so wide, the size that the paper works at."""


class BadSampleError(InvalidInputError):
    """A sample of a shard cannot be used; the message says which one and why."""


@dataclass(frozen=True)
class Outcome:
    """Where one outcome's members lie: byte offset and size inside the shard."""

    shard: Path
    key: str
    spans: dict[str, tuple[int, int]]
    camera_static: bool


@dataclass(frozen=True)
class View:
    """One first image and everything that was seen to happen after it."""

    family: str
    scene_seed: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Motion:
    """One outcome over the full horizon.

    `flow` float32 [G, G, 2] in unit-square units at the cell centres, rows top down; `part` int16
    [G, G], 0 = static world. `valid` bool [G, G]: where the motion is known; elsewhere `flow` is 0
    and says nothing, so such a point is neither poke nor query nor counted.
    """

    flow: np.ndarray
    part: np.ndarray
    valid: np.ndarray
    camera_static: bool


@dataclass
class ShardIndex:
    """Views of all readable shards of one split, in a fixed order.

    `skipped` counts what could not be used, by reason.
    """

    views: list[View]
    horizon_s: float
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def scan(cls, folder: Path, split: str) -> ShardIndex:
        """Index `folder/{split}-*.tar`.

        A damaged or foreign shard is skipped with a warning; what was complete before the damage
        is used. Raises InvalidInputError when nothing usable is found.
        """
        skipped: Counter[str] = Counter()
        horizons: Counter[float] = Counter()
        views: dict[tuple[str, int, int], list[Outcome]] = {}
        shards = sorted(folder.glob(f"{split}-*.tar"))
        for shard in shards:
            n_samples = 0
            for outcome, view_id, horizon_s in _scan_shard(shard, skipped):
                views.setdefault(view_id, []).append(outcome)
                horizons[horizon_s] += 1
                n_samples += 1
            if n_samples == 0:
                skipped["shard without samples"] += 1
                log.warning("%s holds no usable sample and is ignored", shard)
        if not views:
            raise InvalidInputError(
                f"no usable sample in {folder}/{split}-*.tar ({len(shards)} shards seen"
                f"{'; ' + describe(skipped) if skipped else ''}): make some with `fpt scenes`"
            )
        horizon_s, n_most = horizons.most_common(1)[0]
        if n_most < sum(horizons.values()):
            raise InvalidInputError(
                f"{folder} mixes horizons of {sorted(horizons)} s; a model has exactly one: "
                "keep shards of different horizons in different folders"
            )
        ordered = [
            View(family, seed, tuple(views[family, seed, view]))
            for family, seed, view in sorted(views)
        ]
        return cls(ordered, horizon_s, skipped)

    @property
    def n_outcomes(self) -> int:
        return sum(len(view.outcomes) for view in self.views)

    def sha256(self) -> str:
        """A digest of which samples there are, in which order, and how large their files."""
        digest = hashlib.sha256()
        for view in self.views:
            for outcome in view.outcomes:
                sizes = [outcome.spans[member][1] for member in MEMBERS]
                digest.update(repr((view.family, view.scene_seed, outcome.key, sizes)).encode())
        return digest.hexdigest()

    def take(self, n_views: int) -> ShardIndex:
        """About `n_views` views spread evenly over the whole index."""
        picks = np.unique(np.linspace(0, len(self.views) - 1, n_views).round().astype(int))
        return ShardIndex([self.views[i] for i in picks], self.horizon_s, self.skipped)


def describe(skipped: Counter[str]) -> str:
    """The counts of what was skipped as a phrase."""
    return ", ".join(f"{n} x {reason}" for reason, n in skipped.most_common() if n)


def _scan_shard(
    shard: Path, skipped: Counter[str]
) -> list[tuple[Outcome, tuple[str, int, int], float]]:
    """Every complete sample of a shard, with its view (family, scene seed, view) and horizon."""
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    found: list[tuple[Outcome, tuple[str, int, int], float]] = []
    try:
        file = shard.open("rb")
    except OSError as error:
        skipped["unreadable shard"] += 1
        log.warning("%s cannot be read (%s)", shard, error)
        return found
    with file:
        size = os.fstat(file.fileno()).st_size
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, _, extension = member.name.rpartition(".")
                    if not member.isfile() or extension not in MEMBERS:
                        continue
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"{member.name} is cut off")
                    spans.setdefault(key, {})[extension] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            skipped["damaged shard"] += 1
            log.warning("%s is damaged (%s): using the %d samples before", shard, error, len(spans))
        for key, members in spans.items():
            if len(members) < len(MEMBERS):
                skipped["incomplete sample"] += 1
                continue
            offset, length = members["json"]
            try:
                meta = json.loads(os.pread(file.fileno(), length, offset))
                static = bool(meta["camera_static"])
                view_id = (str(meta["family"]), int(meta["scene_seed"]), int(meta["view"]))
                horizon_s = float(meta["horizon_s"][-1])
            except (
                ValueError,
                LookupError,
                TypeError,
                OverflowError,
                RecursionError,
                OSError,
            ) as error:
                skipped["foreign or damaged json"] += 1
                log.debug("%s:%s.json: %r", shard, key, error)
                continue
            found.append((Outcome(shard, key, members, static), view_id, horizon_s))
    return found


class ShardReader:
    """Reads members by position. For one thread; safe to use after fork.

    Keeps the shards read last open: thousands of small ones may be more files than a process may
    have open.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}  # the one used last comes last

    def image(self, outcome: Outcome) -> np.ndarray:
        """The first image, uint8 [S, S, 3] RGB. Raises BadSampleError."""
        where = f"{outcome.shard}:{outcome.key}.jpg"
        content = self._read(outcome, "jpg")
        try:
            rgb = picture_to_rgb(content)
        except InvalidInputError as error:
            raise BadSampleError(f"{where}: {error}") from error
        if rgb.shape[0] != rgb.shape[1]:
            raise BadSampleError(
                f"{where}: not a square image, but {rgb.shape[1]} x {rgb.shape[0]}"
            )
        return rgb

    def motion(self, outcome: Outcome, min_motion: float) -> Motion:
        """The full-horizon motion. Raises BadSampleError when damaged, not finite or still.

        Motion that is not valid need not be finite.

        `min_motion` (unit-square units): a sample whose longest displacement stays below is still.
        """
        where = f"{outcome.shard}:{outcome.key}.npz"
        content = self._read(outcome, "npz")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                n_bytes = sum(member.file_size for member in arrays.zip.infolist())
                if n_bytes > _MAX_ARRAY_BYTES:  # known from the directory: nothing is expanded yet
                    raise ValueError(f"it claims {n_bytes} bytes, accepted are {_MAX_ARRAY_BYTES}")
                flow = arrays["flow"][-1].astype(np.float32)
                part = arrays["part"].astype(np.int16)
                known = arrays["valid"][-1] if "valid" in arrays else np.True_
                valid = np.broadcast_to(known.astype(bool), flow.shape[:-1])
        except Exception as error:  # zip files and array headers fail in many ways when damaged
            raise BadSampleError(f"{where}: unreadable ({error!r})") from error
        grid = len(part) if part.ndim else 0
        if grid == 0 or part.shape != (grid, grid) or flow.shape != (grid, grid, 2):
            raise BadSampleError(f"{where}: flow {flow.shape} and part {part.shape} do not fit")
        flow = np.where(valid[..., None], flow, np.float32(0))
        if not np.isfinite(flow).all():
            raise BadSampleError(f"{where}: motion is not finite")
        if np.square(flow).sum(-1).max() < min_motion**2:
            raise BadSampleError(f"{where}: nothing moves")
        return Motion(flow, part, valid, outcome.camera_static)

    def _read(self, outcome: Outcome, member: str) -> bytes:
        offset, length = outcome.spans[member]
        try:
            descriptor = self._descriptors.pop(outcome.shard, None)
            if descriptor is None:
                descriptor = os.open(outcome.shard, os.O_RDONLY)
                if len(self._descriptors) == _MAX_OPEN:
                    os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[outcome.shard] = descriptor
            return os.pread(descriptor, length, offset)
        except OSError as error:
            where = f"{outcome.shard}:{outcome.key}.{member}"
            raise BadSampleError(f"{where}: unreadable ({error})") from error


def cell_centres(n: int) -> np.ndarray:
    """Centres of an n x n grid on the unit square, float32 [n*n, 2] (x, y), y outer."""
    centres = (np.arange(n, dtype=np.float32) + 0.5) / n
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def choose_pokes(flow: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of n pokes among N points to measure with: the largest flow first, others at random.

    `flow` is [N, 2]. Fewer than n where there are fewer points.
    """
    first = int(np.argmax(np.linalg.norm(flow, axis=-1)))
    others = rng.permutation(np.delete(np.arange(len(flow)), first))
    return np.concatenate([[first], others])[:n].astype(int)
