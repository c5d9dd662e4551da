"""Which stretches of recordings are for training and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

_PERIOD = 5  # of so many blocks, the last is for validation
_MIN_HORIZONS = 4  # length of a block: half of a held-out one may go for its gaps
_TYPICAL_S = 60.0


@dataclass(frozen=True)
class Block:
    """A stretch of one recording, in seconds from its beginning.

    Cameras that recorded at the same time share their blocks, so that what one saw in training is
    not what another one sees in validation.
    """

    recording: int
    number: int  # over all recordings
    split: str
    start_s: float
    stop_s: float


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
        n = min(fitting, max(_PERIOD, ceil(duration_s / _TYPICAL_S)))
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
