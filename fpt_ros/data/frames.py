"""Frames with times, as a stream, whatever they come from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One image.

    `time_s` is its stamp, `recorded_s` when it was recorded, both counted from the beginning of its
    footage. `follows` is False when time does not go on from the frame before: a stamp is missing
    or jumps.
    """

    time_s: float
    recorded_s: float
    follows: bool
    rgb: NDArray[np.uint8]  # [H, W, 3]


class Footage(Protocol):
    """One camera's images of one recording.

    No other footage that was opened with it has the same `name`. `start_ns` is when the recording
    began, on a clock that it shares with others; None where that is not known. `duration_s` is the
    recording's. `damages` says what cannot be read of the recording, as far as it is known by now,
    and names it.
    """

    name: str
    start_ns: int | None
    duration_s: float

    @property
    def damages(self) -> Sequence[str]: ...

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """Frames recorded in [start_s, stop_s); `skipped` counts the unusable ones by reason.

        Raises OSError where the machine, and not the footage, is to blame: that may pass.
        """
        ...


def short_reason(error: Exception) -> str:
    """The reason without its numbers, so that equal ones are counted together."""
    return re.sub(r"\d+", "N", str(error) or type(error).__name__)[:80]
