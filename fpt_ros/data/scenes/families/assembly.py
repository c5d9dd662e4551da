"""Mechanisms without a name: random pieces joined at random.

The other families are things that people have words for, and there are more things than words.
These hold what all mechanisms share: a piece of any shape that turns or slides as a whole where it
is joined to another, and takes along what is joined to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout

_FULL = ("box", "box", "panel", "rounded")
"""Shapes that fill their box: what is put on a face of the box touches them."""
_SHAPES = (*_FULL, "cylinder", "ball", "frame", "slats", "tray", "bow")
_NORMALS = {
    "top": np.array([0.0, 0.0, 1.0]),
    "front": np.array([1.0, 0.0, 0.0]),
    "left": np.array([0.0, 1.0, 0.0]),
    "right": np.array([0.0, -1.0, 0.0]),
}


@dataclass(frozen=True)
class _Piece:
    """A body and the box for its shape: centre and half sizes (m) in the frame of the body.

    look: its material. carries: whether other pieces may be joined to it.
    """

    body: Body
    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    look: str
    carries: bool


def assembly(b: SceneBuilder) -> Layout:
    """A still base with one to five pieces that are joined to it or to one another."""
    support = "table" if b.compact else b.pick(["table", "table", "table", "floor", "wall"])
    size = b.uniform(0.08, 0.25) * (2.0 if support == "floor" else 1.0)
    half = size * np.exp(b.rng.uniform(-1.2, 0.2, 3))
    if support == "wall":
        half[0] = b.uniform(0.005, 0.3) * size
    yaw = 0.0 if support == "wall" else b.rng.normal(0, 0.4)
    root = b.body(None, quat=turn([0, 0, 1], yaw))
    centre = np.array([-half[0], 0.0, 0.0] if support == "wall" else [0.0, 0.0, half[2]])
    base = _Piece(root, centre, half, b.material(), carries=True)
    _shape(b, base, b.pick(_FULL))
    joined = [base]
    for _ in range(int(b.rng.integers(1, 6))):
        # Seldom on a piece that moves itself: chains are rarer than neighbours.
        parent = base if b.chance(0.7) else joined[int(b.rng.integers(len(joined)))]
        piece = _join(b, parent)
        if piece.carries:
            joined.append(piece)
    for _ in range(int(b.rng.integers(0, 3))):
        _join(b, base, still=True)
    reach = float(np.linalg.norm(half)) + 0.3 * size
    if support == "wall":
        return Layout(support, (0, 0, 0), reach, 0.2, half[1], 0.9, 2 * half[0])
    azimuth = np.pi if b.chance(0.5) else 1.2
    return Layout(support, (0, 0, half[2]), reach, reach, reach, azimuth, reach)


def _join(b: SceneBuilder, parent: _Piece, *, still: bool = False) -> _Piece:
    """Put a new piece on a face of `parent`, with a joint unless it is to stay `still`.

    Its frame has z away from the face, x and y along it; the joint is at its origin, on the face.
    """
    normal = _NORMALS[b.pick(["top", "top", "front", "front", "left", "right"])]
    along = np.array([0.0, 0.0, 1.0]) if normal[2] == 0 else np.array([1.0, 0.0, 0.0])
    if b.chance(0.5):
        along = np.cross(normal, along)
    axes = np.stack([along, np.cross(normal, along), normal])  # rows: x, y, z of the new frame
    room = np.abs(axes) @ parent.half  # half sizes of the parent along them
    kind = b.pick(["lid", "lid", "lever", "turn", "turn", "pull", "shift"])
    if kind == "lid":
        cover, thickness = b.rng.uniform(0.3, 1.0, 2), b.uniform(0.03, 0.25)
    else:
        cover, thickness = b.rng.uniform(0.12, 0.8, 2), np.exp(b.uniform(-3.0, 0.3))
    half = np.array([*(cover * room[:2]), 0.0])
    half[2] = thickness * half[:2].min()
    if kind == "lever":  # slender, and long away from the face
        half = half * [0.5, 0.5, 0] + [0, 0, b.uniform(0.3, 1.0) * parent.half.max()]
    half = np.maximum(half, 0.004)
    at = np.append(b.rng.uniform(-1, 1, 2) * np.maximum(room[:2] - half[:2], 0), room[2])
    centre = np.array([0.0, 0.0, half[2]])
    if kind == "lid":  # joined at one edge
        at[1] -= half[1]
        centre[1] = half[1]
    elif kind == "turn" and b.chance(0.4):  # joined well off the middle
        centre[:2] = b.uniform(0.4, 0.9) * half[:2]
    body = b.body(parent.body, parent.centre + at @ axes, _quaternion(axes), stem="piece")
    shape = b.pick(_SHAPES)
    look = parent.look if b.chance(0.35) else b.material()
    piece = _Piece(body, centre, half, look, carries=shape in _FULL)
    _shape(b, piece, shape)
    if not still:
        _joint(b, piece, kind, at, room)
    return piece


def _joint(
    b: SceneBuilder,
    piece: _Piece,
    kind: str,
    at: NDArray[np.float64],
    room: NDArray[np.float64],
) -> None:
    """Let a piece move as its kind does, in the frame of `_join`.

    at [3]: where it is; room [3]: half sizes of its parent, both along the axes of the frame.
    """
    body = piece.body
    if kind == "lid":
        b.hinge(body, [1, 0, 0], 0.0, b.uniform(1.2, 2.8), rest=b.uniform(0.0, 1.2))
    elif kind == "lever":
        b.hinge(body, [1, 0, 0], -0.8, 0.8, rest=b.uniform(-0.6, 0.6))
    elif kind == "turn":
        b.hinge(body, [0, 0, 1], -2.2, 2.2, rest=b.uniform(-1.5, 1.5))
    elif kind == "pull":
        travel = min(b.uniform(0.5, 2.0) * piece.half[:2].max(), 1.8 * room[2])
        b.slide(body, [0, 0, 1], 0.0, travel)
        stem = 0.4 * piece.half[:2].min()
        b.rod(body, [0, 0, -travel], [0, 0, 0], stem, piece.look, rounded=False)
    else:  # as far as the face goes
        free = max(room[0] - piece.half[0], 0.01)
        low, high = -free - at[0], free - at[0]
        b.slide(body, [1, 0, 0], low, high, rest=b.uniform(low, high))


def _shape(b: SceneBuilder, piece: _Piece, shape: str) -> None:
    """Give a piece a shape, as large as fits its box; round ends reach a little beyond."""
    body, centre, half, look = piece.body, piece.centre, piece.half, piece.look
    other = look if b.chance(0.5) else b.material()
    base = centre - [0, 0, half[2]]
    if shape in ("box", "panel"):
        b.box(body, half, centre, look)
        if shape == "panel":
            b.box(body, half * [0.85, 0.85, 1.04], centre, other)
    elif shape == "rounded":
        radius = b.uniform(0.2, 0.95) * half[:2].min()
        outline = shapes.rounded_rectangle(half[0], half[1], radius)
        b.mesh(body, *shapes.prism(outline, 2 * half[2]), look, pos=base, smooth=False)
    elif shape == "cylinder":
        axis = int(np.argmax(half)) if b.chance(0.5) else 2
        end = half * np.eye(3)[axis]
        radius = float(np.delete(half, axis).min())
        b.rod(body, centre - end, centre + end, radius, look, rounded=b.chance(0.4))
    elif shape == "ball":
        b.ball(body, half, centre, look)
    elif shape == "frame":
        bar = b.uniform(0.08, 0.25) * half[:2].min()
        for axis, side in ((0, -1), (0, 1), (1, -1), (1, 1)):
            thin = np.where(np.arange(3) == axis, bar, half)
            b.box(body, thin, centre + side * (half - thin), look)
        if b.chance(0.5):
            b.box(body, half * [1, 1, 0.3], centre, other)
    elif shape == "slats":
        count = int(b.rng.integers(2, 7))
        for y in np.linspace(-1, 1, count) * half[1] * (1 - 0.5 / count):
            thin = np.array([half[0], 0.5 * half[1] / count, half[2]])
            b.box(body, thin, np.add(centre, [0, y, 0]), look)
        b.box(body, half * [0.08, 1, 0.6], centre, other)
    elif shape == "tray":
        height = 2 * half[2]
        parts.open_box(b, body, half[0], half[1], height, look, centre=tuple(base))
    else:
        radius = max(0.12 * half.max(), 0.003)
        low, high = centre - half * [1, 0, 1], centre + half * [1, 0, 1]
        b.rod(body, low, [low[0], low[1], high[2]], radius, look)
        b.rod(body, [high[0], high[1], low[2]], high, radius, look)
        b.rod(body, [low[0], low[1], high[2]], high, radius, other)


def _quaternion(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the frame whose x, y and z are the rows of `axes` [3, 3]."""
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.T.ravel())
    return quat
