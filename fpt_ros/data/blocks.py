"""Which stretches of recordings are for training and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

_PERIOD = 5  # of so many blocks, the last is for validation
_MIN_HORIZONS = 4  # length of a block: half of a held-out one may go for its gaps
_TYPICAL_S = 60.0
_MAX_BLOCKS = 10_000  # a week; one wrong clock reading makes a recording half a century long


@dataclass(frozen=True)
class Block:
    """A stretch of one recording, in seconds from its beginning.

    What was recorded at the same time counts as one recording (`together`) and shares its blocks,
    so that what one camera saw in training is not what another one sees in validation.
    """

    recording: int
    number: int  # over all recordings
    split: str
    start_s: float
    stop_s: float


def together(spans: Sequence[tuple[int | None, float]], gap_s: float) -> list[list[int]]:
    """Which recordings overlap in time, or follow one another within `gap_s`: groups of indices.

    Args:
        spans: beginning (ns) and duration (s) of each; one whose beginning is None stays alone.
        gap_s: how far apart recordings have to be.
    """
    starts_ns = {i: start_ns for i, (start_ns, _) in enumerate(spans) if start_ns is not None}
    groups = [[i] for i in range(len(spans)) if i not in starts_ns]
    end_ns = -inf
    for i in sorted(starts_ns, key=lambda i: starts_ns[i]):
        if starts_ns[i] <= end_ns + gap_s * 1e9:
            groups[-1].append(i)
        else:
            groups.append([i])
        end_ns = max(end_ns, starts_ns[i] + spans[i][1] * 1e9)
    return sorted(sorted(group) for group in groups)


def plan_blocks(durations_s: Sequence[float], horizon_s: float, test: bool) -> list[Block]:
    """Cut recordings into blocks, about one of five for validation, and another if `test`.

    Held-out blocks keep a gap of one horizon to their neighbours, so that no image of them, nor of
    what follows from them, is an image of training. Of recordings too short to be cut, every fifth
    is held out as a whole.
    """
    blocks: list[Block] = []
    whole = 0
    for recording, duration_s in enumerate(durations_s):
        fitting = int(duration_s / (_MIN_HORIZONS * horizon_s))
        n = min(fitting, max(_PERIOD, ceil(duration_s / _TYPICAL_S)), _MAX_BLOCKS)
        if n < 2:
            split = _split(whole % _PERIOD, _PERIOD, test)
            blocks.append(Block(recording, len(blocks), split, 0.0, duration_s))
            whole += 1
            continue
        splits = [_split(i % _PERIOD, min(n, _PERIOD), test) for i in range(n)]
        for i, split in enumerate(splits):
            start_s, stop_s = duration_s * i / n, duration_s * (i + 1) / n
            if split != "train":
                start_s += horizon_s if i > 0 and splits[i - 1] != split else 0.0
                stop_s -= horizon_s if i + 1 < n and splits[i + 1] != split else 0.0
            blocks.append(Block(recording, len(blocks), split, start_s, stop_s))
    return blocks


def _split(place: int, period: int, test: bool) -> str:
    if place == period - 1:
        return "val"
    return "test" if test and period > 2 and place == period // 2 - 1 + period % 2 else "train"
