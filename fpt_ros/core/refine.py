"""Dense maps from few queries: a coarse grid, refined where interpolation would be wrong.

What moves with a poke varies smoothly inside a part and jumps at its border. So the network is
asked on a coarse grid first, and more closely only where neighbouring answers do not lie on a
line, or where the border of a mask runs between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Lattice(NamedTuple):
    """Values at the points (x, y) = (ticks[j], ticks[i]) of the unit square."""

    values: Floats  # [channels, m, m]
    ticks: Floats  # [m], from 0 to 1
    known: NDArray[np.bool_]  # [m, m], where the values are an answer; elsewhere interpolated

    def resample(self, n: int) -> Floats:
        """Bilinear values [channels, n, n] at the centres of n x n cells of the unit square."""
        centres = ((np.arange(n) + 0.5) / n).astype(np.float32)
        low = self._cell(centres)
        share = ((centres - self.ticks[low]) / np.diff(self.ticks)[low])[:, None]
        values = self.values
        for _ in range(2):  # along one axis, then along the other; whole rows are moved
            values = np.ascontiguousarray(values.swapaxes(1, 2))
            before, after = values[:, low], values[:, low + 1]
            after -= before
            after *= share
            values = np.add(before, after, out=before)
        return values

    def _cell(self, coordinates: Floats) -> NDArray[np.intp]:
        """Index of the tick before each coordinate, such that there is one after it."""
        return np.clip(np.searchsorted(self.ticks, coordinates) - 1, 0, len(self.ticks) - 2)


def refine(
    coarse: Floats,
    answer: Callable[[Floats], Floats],
    tolerance: Floats,
    threshold: Floats,
    doublings: int,
    seeds: Floats,
) -> Lattice:
    """Refine a coarse grid of answers where it matters.

    Each doubling halves the cells. An old cell is asked about, at all corners of its four new
    cells, if interpolation in it may be off by more than the tolerance, if the threshold lies
    between the values at its corners, or if it holds a seed. The coarse grid does not reach the
    border of the square; its outermost values stand for those at the border until the first
    doubling.

    Args:
        coarse: [channels, n, n] at the centres of n x n cells of the unit square.
        answer: gives values [channels, M] at points [M, 2] of the unit square.
        tolerance: [channels]; infinity where it does not matter.
        threshold: [channels]; NaN where there is none.
        doublings: how often cells may be halved.
        seeds: [S, 2], points of the unit square.

    Returns:
        The lattice after the last doubling.
    """
    n = coarse.shape[-1]
    ticks = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]]).astype(np.float32)
    values = np.pad(coarse, ((0, 0), (1, 1), (1, 1)), mode="edge").astype(np.float32)
    lattice = Lattice(values, ticks, np.pad(np.ones((n, n), bool), 1))
    for _ in range(doublings):
        cells = _bent(lattice, tolerance) | _crossed(lattice.values, threshold)
        cells[lattice._cell(seeds[:, 1]), lattice._cell(seeds[:, 0])] = True
        lattice = _halve(lattice)
        wanted = np.zeros_like(lattice.known)
        for row in range(3):
            for column in range(3):
                end = wanted.shape[0] - 2
                wanted[row : row + end : 2, column : column + end : 2] |= cells
        rows, columns = np.nonzero(wanted & ~lattice.known)
        if len(rows):
            points = np.stack([lattice.ticks[columns], lattice.ticks[rows]], axis=-1)
            lattice.values[:, rows, columns] = answer(points)
            lattice.known[rows, columns] = True
    return lattice


def _bent(lattice: Lattice, tolerance: Floats) -> NDArray[np.bool_]:
    """Cells [m - 1, m - 1] with a corner that is not in line with its neighbours.

    Where a node is d away from the line between its neighbours, interpolation beside it is off by
    up to d / 4 if the function is smooth, and by d / 2 on average if it jumps. It is taken to jump.
    """
    gap = np.diff(lattice.ticks)
    share = gap[:-1] / (gap[:-1] + gap[1:])  # of the way from one neighbour to the other
    bent = np.zeros_like(lattice.known)
    for values, of_nodes in ((lattice.values, bent), (lattice.values.swapaxes(1, 2), bent.T)):
        before, here, after = values[..., :-2], values[..., 1:-1], values[..., 2:]
        distance = np.abs(here - before - (after - before) * share)
        of_nodes[:, 1:-1] |= (distance > 2 * tolerance[:, None, None]).any(0)
    return _any_corner(bent)


def _crossed(values: Floats, threshold: Floats) -> NDArray[np.bool_]:
    """Cells [m - 1, m - 1] with corners on both sides of a threshold."""
    above = values > threshold[:, None, None]
    return np.logical_or.reduce(_any_corner(above) & _any_corner(~above))


def _any_corner(nodes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells [..., m - 1, m - 1] with a corner that is set, from nodes [..., m, m]."""
    pairs = nodes[..., :-1, :] | nodes[..., 1:, :]
    return pairs[..., :-1] | pairs[..., 1:]


def _halve(lattice: Lattice) -> Lattice:
    """The same function with a tick between any two."""

    def midpoints(values: Floats) -> Floats:
        result = np.repeat(values, 2, axis=-1)[..., :-1]
        result[..., 1::2] = (values[..., :-1] + values[..., 1:]) / 2
        return result

    values = midpoints(midpoints(lattice.values).swapaxes(1, 2)).swapaxes(1, 2)
    ticks = midpoints(lattice.ticks)
    known = np.zeros(values.shape[1:], bool)
    known[::2, ::2] = lattice.known
    return Lattice(values, ticks, known)
