"""What a family tells the world about the thing it has built."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Where the built thing is and how it wants to be seen.

    The front faces +x, up is +z, and z = 0 is the surface it stands on.
    support: 'floor', 'table' (z = 0 is a table top), 'wall' (mounted on a wall at x < 0).
    focus: the point to look at (m). radius: rough half extent (m).
    half_depth, half_width: free space it needs on its support along x and y (m).
    azimuth: how far the camera may go round from the front (rad).
    back: how far it reaches behind x = 0 (m); a wall of the room may stand there.
    opening: it brings its own wall with an opening, so the wall of the room is well behind it.
    """

    support: str
    focus: tuple[float, float, float]
    radius: float
    half_depth: float
    half_width: float
    azimuth: float = 1.0
    back: float = 0.0
    opening: bool = False
