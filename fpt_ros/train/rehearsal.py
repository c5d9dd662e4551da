"""Synthetic data beside a recording: against forgetting, and to measure what was forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.samples import ShardIndex

log = logging.getLogger(__name__)

SAMPLES = {"train": 512, "val": 384, "test": 384}
"""How much is made where none is given: about half a minute on one core."""
HORIZON_S = 1.0
"""What displacements in it span: scenes move for a second."""
_SAMPLES_PER_SHARD = 64
_SEED = 5


def obstacle() -> str:
    """Say why this machine cannot make synthetic data; empty if it probably can."""
    try:
        from fpt_ros.data.scenes.render import drawn_with

        drawn_with()
    except Exception as error:  # whatever a missing package or driver comes up with
        return str(error)
    return ""


def make(folder: Path, advance: Callable[[float], object]) -> bool:
    """Write synthetic shards of all splits into `folder`, unless they are there.

    `advance` is told the share that is done. Returns False, with the reason in the log, on machines
    that cannot render.
    """
    try:
        from fpt_ros.data.shards import ShardPlan, write_shards

        done = 0
        for split, samples in SAMPLES.items():
            plan = ShardPlan(folder, split, _SEED, _SAMPLES_PER_SHARD)
            for written in write_shards(plan, samples // _SAMPLES_PER_SHARD):
                done += written
                advance(done / sum(SAMPLES.values()))
    except (InvalidInputError, OSError):
        raise
    except Exception as error:  # whatever a missing package or driver comes up with
        log.warning(
            "no synthetic data can be made here (%s): give some with --rehearsal, or see `fpt "
            "doctor`; without it nothing is rehearsed, and forgetting cannot be measured",
            error,
        )
        return False
    return True


@dataclass(frozen=True)
class Elsewhere:
    """Synthetic scenes on which forgetting is measured; `left_out` are families of the recording.

    Of these families more is learned, which would hide what is forgotten of others.
    """

    val: ShardIndex
    test: ShardIndex
    left_out: tuple[str, ...]


def elsewhere(synthetic: Path, recording: Path) -> Elsewhere:
    """Validation and test split of `synthetic` without the families that `recording` has.

    Footage is of a family named after it, so that nothing is left out; rendered recordings are of
    the families of their scenes. Raises InvalidInputError when nothing is left.
    """
    shown = [ShardIndex.scan(recording, split) for split in ("train", "val")]
    learned = {view.family for index in shown for view in index.views}
    left_out: set[str] = set()
    kept: dict[str, ShardIndex] = {}
    for split in ("val", "test"):
        index = ShardIndex.scan(synthetic, split)
        left_out |= learned & {view.family for view in index.views}
        views = [view for view in index.views if view.family not in learned]
        if not views:
            raise InvalidInputError(
                f"{synthetic}/{split}-*.tar has no other families than the recording "
                f"({', '.join(sorted(left_out))}), so that it could not be measured what is "
                "forgotten of others: give synthetic data with more families (--rehearsal)"
            )
        kept[split] = replace(index, views=views)
    return Elsewhere(kept["val"], kept["test"], tuple(sorted(left_out)))


def count(positions: int, share: float) -> int:
    """How many of the first `positions` views of a run are rehearsal: `share`, rounded down."""
    numerator, denominator = share.as_integer_ratio()
    return positions * numerator // denominator


def turn(position: int, share: float) -> tuple[bool, int]:
    """Whether the view at a position of a run is rehearsal, and its number among those that are.

    Or among those that are not. Of any stretch of positions `share` is rehearsal, to within one.
    """
    before = count(position, share)
    is_rehearsal = count(position + 1, share) > before
    return is_rehearsal, before if is_rehearsal else position - before
