"""Look at the data: a picture of every family of a split, with what happens in it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros import draw
from fpt_ros.core.parts import MOVING
from fpt_ros.data.samples import (
    BadSampleError,
    Motion,
    ShardIndex,
    ShardReader,
    cell_centres,
)

_OUTCOMES = 2  # of one view: the same picture, another push
_PAIRS_PER_ROW = 4
_PANEL_PX = 208


def save(folder: Path, split: str) -> Path:
    """Write `<split>.jpg` beside the shards: of each family one view with two of its outcomes.

    Arrows, coloured by length, show the motion of points; what moves is tinted.
    Raises InvalidInputError when there is no usable sample, OSError when it cannot be written.
    """
    reader = ShardReader()
    panels: dict[str, NDArray[np.uint8]] = {}
    # A view with a still camera and several outcomes says most.
    views = ShardIndex.scan(folder, split).views
    views.sort(key=lambda view: (not view.outcomes[0].camera_static, -len(view.outcomes)))
    for view in views:
        if f"{view.family} 1" in panels:
            continue
        with contextlib.suppress(BadSampleError):
            rgb = reader.image(view.outcomes[0])
            for number, outcome in enumerate(view.outcomes[:_OUTCOMES], start=1):
                panels[f"{view.family} {number}"] = _panel(rgb, reader.motion(outcome, 0.0))
    in_order = dict(sorted(panels.items()))
    sheet = draw.sheet(in_order, columns=_OUTCOMES * _PAIRS_PER_ROW)
    path = folder / f"{split}.jpg"
    draw.save(path, sheet)
    return path


def _panel(rgb: NDArray[np.uint8], motion: Motion) -> NDArray[np.uint8]:
    size = (_PANEL_PX, _PANEL_PX)
    image = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    moving = np.linalg.norm(motion.flow, axis=-1) > MOVING
    mask = cv2.resize(moving.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return draw.overview(
        image,
        points_px=_PANEL_PX * cell_centres(len(motion.part)),
        displacements_px=_PANEL_PX * motion.flow.reshape(-1, 2),
        mask=mask > 0,
    )
