"""Turn recordings into shards to learn from: `make_shards`.

Work goes block by block (see `fpt_ros.data.blocks`). A finished block is one shard, if it gave any
sample, and one small JSON file beside it with what was kept and dropped, so that an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fpt_ros.core.errors import FptError, InvalidInputError
from fpt_ros.data.blocks import Block, plan_blocks
from fpt_ros.data.footage import Footage, Frame, open_footage
from fpt_ros.data.tarfiles import add_file, jpeg, new_shard, npz, remove_stale
from fpt_ros.data.tracks import PointTracker, one_opencv_thread
from fpt_ros.data.tracks.classical import ClassicalTracker
from fpt_ros.data.windows import ClipSample, ClipSettings, clip_samples

FORMAT = 1
_LEDGER = "blocks"
_FACTS = "recordings.json"


class Stopped(FptError):
    """The work was stopped on demand; what is finished stays and need not be done again."""


@dataclass
class Report:
    """What recordings gave.

    samples: per split. footage_s: per split. dropped: first images that gave no sample, and cuts,
    by reason. skipped: images that could not be used, by reason. about: facts of every sample.
    """

    samples: Counter[str] = field(default_factory=Counter)
    footage_s: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    about: list[dict[str, Any]] = field(default_factory=list)
    tracker: str = ""

    def add(self, split: str, ledger: dict[str, Any]) -> None:
        """Count a block."""
        self.samples[split] += len(ledger["samples"])
        self.footage_s[split] += ledger["footage_s"]
        self.dropped.update(ledger["dropped"])
        self.skipped.update(ledger["skipped"])
        self.about += [about | {"split": split} for about in ledger["samples"]]


def make_shards(
    sources: Sequence[Path],
    topics: Sequence[str],
    out: Path,
    settings: ClipSettings,
    tracker: PointTracker | None = None,
    image_rate_hz: float = 10.0,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Track what moves in recordings and write it as training, validation and test shards.

    Splits are blocks of time with gaps of a horizon between them. Run it again to continue.

    Args:
        sources: bags, videos, folders of them, folders of images.
        topics: image topics of the bags; none: all.
        out: folder for `{split}-*.tar`.
        settings: horizon, density and size of the samples.
        tracker: what follows points; default: the one without learned weights.
        image_rate_hz: of folders of images.
        progress: is told the share of the footage that is done, and what is being done.
        should_stop: asked at every frame; True ends the work.

    Raises:
        InvalidInputError: nothing to read, a missing topic, or `out` holds other recordings.
        BagError: a bag cannot be read.
        Stopped: should_stop said so.
        OSError: the disk is full, or not writable.
    """
    tracker = tracker or ClassicalTracker()
    with one_opencv_thread(), open_footage(sources, topics, image_rate_hz) as footage:
        recordings = list(dict.fromkeys(each.recording for each in footage))
        durations_s = [
            max(each.duration_s for each in footage if each.recording == name)
            for name in recordings
        ]
        blocks = plan_blocks(durations_s, settings.horizon_s, settings.test)
        cameras = [[each for each in footage if each.recording == name] for name in recordings]
        units = [(block, each) for block in blocks for each in cameras[block.recording]]
        facts = {
            "format": FORMAT,
            "settings": asdict(settings),
            "tracker": tracker.name,
            "footage": [[each.name, round(each.duration_s, 3)] for each in footage],
        }
        (out / _LEDGER).mkdir(parents=True, exist_ok=True)
        _check_facts(out / _FACTS, json.loads(json.dumps(facts)))
        for split in ("train", "val", "test"):
            remove_stale(out, split)
        report = Report(tracker=tracker.name)
        total_s = sum(block.stop_s - block.start_s for block, _ in units)
        done_s = 0.0
        for number, (block, each) in enumerate(units):
            ledger = out / _LEDGER / f"{number:05d}.json"

            def tell(
                time_s: float, block: Block = block, each: Footage = each, before_s: float = done_s
            ) -> None:
                if should_stop():
                    raise Stopped("stopped while reading " + each.name)
                passed_s = min(max(time_s, block.start_s), block.stop_s) - block.start_s
                progress((before_s + passed_s) / max(total_s, 1e-9), f"tracking {each.name}")

            if not ledger.exists():
                tell(block.start_s)
                entry = _write_block(out, number, block, each, tracker, settings, tell)
                _write_json(ledger, entry)
            report.add(block.split, json.loads(ledger.read_text()))
            done_s += block.stop_s - block.start_s
        progress(1.0, "tracked")
    return report


def _write_block(
    out: Path,
    number: int,
    block: Block,
    footage: Footage,
    tracker: PointTracker,
    settings: ClipSettings,
    tell: Callable[[float], None],
) -> dict[str, Any]:
    """Write the shard of a block of one camera; return what goes into its ledger."""
    dropped: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    about: list[dict[str, Any]] = []
    last_s = block.start_s

    def watched() -> Iterator[Frame]:
        nonlocal last_s
        for frame in footage.frames(block.start_s, block.stop_s, skipped):
            last_s = frame.time_s
            tell(last_s)
            yield frame

    path = out / f"{block.split}-{number:05d}.tar"
    with new_shard(path) as tar:
        for sample in clip_samples(watched(), tracker, settings, dropped):
            if sample is None:
                continue
            sample.about.update(family=footage.name, scene_seed=block.number)
            _add_sample(tar, f"{block.split}-{number:05d}-{len(about):05d}", sample)
            about.append(sample.about)
    if not about:
        path.unlink()
    return {
        "split": block.split,
        "footage": footage.name,
        "footage_s": round(max(0.0, last_s - block.start_s), 3),
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


def _check_facts(path: Path, facts: dict[str, Any]) -> None:
    """Remember what the shards come from, and refuse to mix in anything else."""
    if not path.exists():
        _write_json(path, facts)
        return
    known = json.loads(path.read_text())
    if different := sorted(name for name in facts if known.get(name) != facts[name]):
        raise InvalidInputError(
            f"{path.parent} holds shards made with other {', '.join(different)}; "
            "use another folder, or remove it"
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)
