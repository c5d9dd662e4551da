"""Turn recordings into shards to learn from: `make_shards`.

Work goes block by block (see `fpt_ros.data.blocks`). A finished block is one shard, if it gave any
sample, and one small JSON file beside it with what was kept and dropped, so that an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.blocks import Block, plan_blocks, together
from fpt_ros.data.footage import find_sources, open_footage, repeated_until_s
from fpt_ros.data.frames import Footage, Frame
from fpt_ros.data.tarfiles import add_file, jpeg, new_shard, npz, remove_stale, write_json
from fpt_ros.data.tracks import PointTracker, one_opencv_thread
from fpt_ros.data.tracks.classical import ClassicalTracker
from fpt_ros.data.windows import MAX_HORIZON_ERROR, ClipSample, ClipSettings, clip_samples
from fpt_ros.lock import hold

log = logging.getLogger(__name__)

FORMAT = 3
_LEDGERS = "blocks"
_PLAN = "recordings.json"


@dataclass
class Tally:
    """Samples, and the sums (of largest_flow: the maximum) of what `ClipSample.about` says."""

    samples: int = 0
    kept: float = 0.0
    moving_share: float = 0.0
    mean_flow: float = 0.0
    largest_flow: float = 0.0
    camera_static: int = 0

    def add(self, about: dict[str, Any]) -> None:
        """Count a sample."""
        self.samples += 1
        self.kept += about["kept"]
        self.moving_share += about["moving_share"]
        self.mean_flow += about["mean_flow"]
        self.largest_flow = max(self.largest_flow, about["largest_flow"])
        self.camera_static += about["camera_static"]


@dataclass
class Report:
    """What recordings gave.

    samples: per split. footage_s: per split. dropped: first images that gave no sample, and cuts,
    by reason. skipped: images that could not be used, by reason. splits, families: what the samples
    are like, per split and per footage. partial: what was not read of the recordings, and why.
    """

    samples: Counter[str] = field(default_factory=Counter)
    footage_s: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    splits: dict[str, Tally] = field(default_factory=dict)
    families: dict[str, Tally] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    tracker: str = ""

    def add(self, ledger: dict[str, Any]) -> None:
        """Count a block."""
        split = ledger["split"]
        self.samples[split] += len(ledger["samples"])
        self.footage_s[split] += ledger["footage_s"]
        self.dropped.update(ledger["dropped"])
        self.skipped.update(ledger["skipped"])
        for about in ledger["samples"]:
            self.splits.setdefault(split, Tally()).add(about)
            self.families.setdefault(about["family"], Tally()).add(about)


@dataclass(frozen=True)
class _Unit:
    """What becomes one shard: the part of a camera's footage, in its own time, that is in a block.

    A camera that began to record later than others of its recording has less of their first block.
    """

    block: Block
    footage: Footage
    start_s: float
    stop_s: float


def make_shards(
    sources: Sequence[Path],
    topics: Sequence[str],
    out: Path,
    settings: ClipSettings,
    tracker: PointTracker | None = None,
    image_rate_hz: float = 10.0,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
) -> Report:
    """Track what moves in recordings and write it as training, validation and test shards.

    Splits are blocks of time with gaps of a horizon between them. Run it again to continue, with
    the recordings of the first time: what has come since is left out, with a warning.

    Args:
        sources: bags, videos, folders of them, folders of images.
        topics: image topics of the bags; none: see `camera_topics`.
        out: folder for `{split}-*.tar`.
        settings: horizon, density and size of the samples.
        tracker: what follows points; default: the one without learned weights.
        image_rate_hz: of folders of images.
        progress: is told the share of the footage that is done, and what is being done.

    Raises:
        InvalidInputError: nothing to read, a missing topic, `out` holds other recordings, or
            another process is at work in it.
        BagError: no bag can be read.
        OSError: the disk is full, a drive is gone, or too many files are open. Mend that, and run
            it again to go on.
    """
    tracker = tracker or ClassicalTracker()
    asked: dict[str, Any] = {
        "format": FORMAT,
        "settings": asdict(settings),
        "tracker": tracker.name,
        "given": [str(source.resolve()) for source in sources],
        "topics": list(topics),
        "image_rate_hz": image_rate_hz,
    }
    asked = json.loads(json.dumps(asked))
    hold(out)
    known = _known_plan(out / _PLAN, asked)
    if known:
        _warn_of_new(sources, known["sources"])
        done = [_done(out, number) for number in range(len(known["units"]))]
        if all(done):
            return _report(known, filter(None, done), tracker)
    places = [Path(source) for source in known["sources"]] if known else find_sources(sources)
    (out / _LEDGERS).mkdir(parents=True, exist_ok=True)
    partial: list[str] = []
    with (
        one_opencv_thread(),
        _scratch(out) as scratch,
        open_footage(places, topics, image_rate_hz, scratch, partial) as footage,
    ):
        units = _plan_units(footage, settings)
        plan: dict[str, Any] = {
            "sources": [str(place) for place in places],
            "partial": list(dict.fromkeys(partial + [d for f in footage for d in f.damages])),
            "units": [
                [unit.footage.name, unit.block.split, round(unit.start_s, 3), round(unit.stop_s, 3)]
                for unit in units
            ],
        }
        if known and plan["units"] != known["units"]:
            raise InvalidInputError(
                f"the recordings have changed since work on {out} began; use another folder"
            )
        write_json(out / _PLAN, asked | plan)
        for remark in plan["partial"]:
            log.warning("%s", remark)
        for split in ("train", "val", "test"):
            remove_stale(out, split)
        ledgers: list[dict[str, Any]] = []
        total_s = sum(unit.stop_s - unit.start_s for unit in units)
        done_s = 0.0
        for number, unit in enumerate(units):

            def tell(recorded_s: float, unit: _Unit = unit, before_s: float = done_s) -> None:
                passed_s = min(max(recorded_s, unit.start_s), unit.stop_s) - unit.start_s
                share = (before_s + passed_s) / max(total_s, 1e-9)
                progress(share, f"tracking {unit.footage.name}")

            ledger = _done(out, number)
            if ledger is None:
                tell(unit.start_s)
                ledger = _write_block(out, number, unit, tracker, settings, tell)
                write_json(_ledger(out, number), ledger)
            ledgers.append(ledger)
            done_s += unit.stop_s - unit.start_s
    progress(1.0, "tracked")
    return _report(plan, ledgers, tracker)


def _plan_units(footage: Sequence[Footage], settings: ClipSettings) -> list[_Unit]:
    """What to do, in order: block after block, and in each camera after camera."""
    recordings = [
        [footage[i] for i in group]
        for group in together([(f.start_ns, f.duration_s) for f in footage], settings.horizon_s)
    ]
    # When each began, in seconds after the first of its recording.
    offsets_s = [
        [((f.start_ns or 0) - min(each.start_ns or 0 for each in cameras)) * 1e-9 for f in cameras]
        for cameras in recordings
    ]
    durations_s = [
        max(offset_s + f.duration_s for offset_s, f in zip(offsets, cameras, strict=True))
        for offsets, cameras in zip(offsets_s, recordings, strict=True)
    ]
    new_from_s = [
        _new_from_s(cameras, offsets, settings.horizon_s)
        for cameras, offsets in zip(recordings, offsets_s, strict=True)
    ]
    units = []
    for block in plan_blocks(durations_s, settings.horizon_s, settings.test):
        cameras = zip(
            offsets_s[block.recording],
            new_from_s[block.recording],
            recordings[block.recording],
            strict=True,
        )
        for offset_s, new_s, each in cameras:
            start_s = max(new_s, block.start_s - offset_s)
            stop_s = min(each.duration_s, block.stop_s - offset_s)
            if start_s < stop_s:
                units.append(_Unit(block, each, start_s, stop_s))
    return units


def _new_from_s(
    cameras: Sequence[Footage], offsets_s: Sequence[float], horizon_s: float
) -> list[float]:
    """From when on each footage of a recording gives samples that no other has given, s.

    Bags of one camera may overlap, as hard cases do. Where its images end in one, less the horizon
    that its last samples span, the next one goes on.
    """
    new_s = [0.0] * len(cameras)
    order = sorted(range(len(cameras)), key=lambda i: offsets_s[i])
    for place, i in enumerate(order):
        for j in order[:place]:
            if offsets_s[j] + cameras[j].duration_s > offsets_s[i]:
                shown_s = repeated_until_s(cameras[i], cameras[j])
                new_s[i] = max(new_s[i], shown_s - horizon_s * (1 - MAX_HORIZON_ERROR))
    return new_s


def _write_block(
    out: Path,
    number: int,
    unit: _Unit,
    tracker: PointTracker,
    settings: ClipSettings,
    tell: Callable[[float], None],
) -> dict[str, Any]:
    """Write the shard of a block of one camera; return what goes into its ledger."""
    dropped: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    about: list[dict[str, Any]] = []
    last_s = unit.start_s

    def watched() -> Iterator[Frame]:
        nonlocal last_s
        for frame in unit.footage.frames(unit.start_s, unit.stop_s, skipped):
            last_s = frame.recorded_s
            tell(last_s)
            yield frame

    split = unit.block.split
    path = _shard(out, split, number)
    with new_shard(path) as tar:
        for sample in clip_samples(watched(), tracker, settings, dropped):
            if sample is None:
                continue
            sample.about.update(family=unit.footage.name, scene_seed=unit.block.number)
            _add_sample(tar, f"{split}-{number:05d}-{len(about):05d}", sample)
            about.append(sample.about)
    if not about:
        path.unlink()
    return {
        "split": split,
        "footage": unit.footage.name,
        "footage_s": round(last_s - unit.start_s, 3),
        "samples": about,
        "dropped": {reason: n for reason, n in dropped.items() if n},
        "skipped": dict(skipped),
    }


def _add_sample(tar: tarfile.TarFile, key: str, sample: ClipSample) -> None:
    arrays = npz(
        flow=sample.flow.astype(np.float16),
        valid=sample.valid,
        part=np.zeros(sample.valid.shape[1:], np.int16),
    )
    add_file(tar, f"{key}.jpg", jpeg(sample.image))
    add_file(tar, f"{key}.json", json.dumps(sample.about, sort_keys=True).encode())
    add_file(tar, f"{key}.npz", arrays)


def _known_plan(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What was planned when the work began, or None. Refuses to mix in anything else."""
    if not path.exists():
        return None
    try:
        known: dict[str, Any] = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{path} is damaged ({error}); remove {path.parent}, or use another folder"
        ) from error
    if different := sorted(name for name in asked if known.get(name) != asked[name]):
        raise InvalidInputError(
            f"{path.parent} holds shards made with other {', '.join(different)}; "
            "use another folder, or remove it"
        )
    return known


def _warn_of_new(given: Sequence[Path], known: Sequence[str]) -> None:
    with suppress(InvalidInputError):  # what is done already need not be there any more
        new = [source.name for source in find_sources(given) if str(source) not in known]
        if new:
            log.warning("left out, as they came after the work began: %s", ", ".join(new))


def _ledger(out: Path, number: int) -> Path:
    return out / _LEDGERS / f"{number:05d}.json"


def _done(out: Path, number: int) -> dict[str, Any] | None:
    """What a finished block's ledger says; None if it or its shard is not there, or damaged."""
    try:
        entry: dict[str, Any] = json.loads(_ledger(out, number).read_text())
        is_done = not entry["samples"] or _shard(out, entry["split"], number).is_file()
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return entry if is_done else None


def _shard(out: Path, split: str, number: int) -> Path:
    return out / f"{split}-{number:05d}.tar"


def _report(
    plan: dict[str, Any], ledgers: Iterable[dict[str, Any]], tracker: PointTracker
) -> Report:
    report = Report(tracker=tracker.name, partial=plan["partial"])
    for ledger in ledgers:
        report.add(ledger)
    return report


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """An empty folder on the disk that was chosen for much data."""
    folder = out / ".expanded"
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
