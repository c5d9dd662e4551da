"""What the bytes of an image mean. Without torch, which readers of recordings need not load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidInputError


class Channels(NamedTuple):
    """Which byte of a pixel is red, which green, which blue; of grey, it is one for all three."""

    red: int
    green: int
    blue: int


class Yuv422(NamedTuple):
    """Which byte of a pixel is luma (BT.601, from 16 to 235), and which is chroma.

    Two pixels share their chroma: U is in the left one, V in the right one.
    """

    luma: int
    chroma: int


RGB = Channels(0, 1, 2)


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as a camera sends it.

    Attributes:
        data: uint8 [H, W, bytes per pixel], H, W >= 1, any strides; may be read-only.
        layout: what the bytes of a pixel mean.

    Raises InvalidInputError if data has another dtype or shape, or odd width in YUV 4:2:2.
    """

    data: NDArray[np.uint8]
    layout: Channels | Yuv422 = RGB

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        data, n_bytes = self.data, 1 + max(self.layout)
        expected = f"uint8 [H, W, {n_bytes} or more]"
        if not isinstance(data, np.ndarray):
            raise InvalidInputError(f"data must be {expected}, got {type(data).__name__}")
        shape = list(data.shape)
        if data.dtype != np.uint8 or data.ndim != 3 or shape[2] < n_bytes or data.size == 0:
            raise InvalidInputError(f"data must be {expected}, got {data.dtype} {shape}")
        if isinstance(self.layout, Yuv422) and shape[1] % 2:
            raise InvalidInputError(f"width must be even in YUV 4:2:2, got {shape[1]}")
