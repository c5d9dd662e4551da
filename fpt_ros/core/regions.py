"""Probability of bivariate normal distributions in a disc or a box, reduced to one dimension.

Distributions are given by means [..., 2] and the entries (L00, L10, L11), each [...], of the lower
Cholesky factors of their covariances, all in float64 or all in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr

# Beyond this many standard deviations a normal distribution function is 0 or 1 to 1e-15.
_TAIL = 8.0
# Nodes and weights [2, n] of integrals; fewer where rounding hides what they miss.
_NODES = {
    dtype: torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(n))).to(dtype)
    for dtype, n in ((torch.float64, 32), (torch.float32, 24))
}

Factors = tuple[Tensor, Tensor, Tensor]


def disc_probability(means: Tensor, factors: Factors, radius: Tensor) -> Tensor:
    """Probability [...] that a point is at most `radius` [...] away from the origin.

    In principal axes, the integral along the minor axis is closed: for the chord of half length h
    at abscissa x it is 1 while h exceeds the mean's ordinate by more than _TAIL deviations, and 0
    while it falls short of it by as much. Only between the two is the integral along the major
    axis numerical. Its variable is the angle of (x, h) on the circle, which resolves both axes
    where the circle is parallel to the other; neither factor of the integrand then varies over
    more than 2 _TAIL of its own deviations, so a fixed number of nodes suffices.
    """
    tiny = torch.finfo(radius.dtype).tiny
    radius = radius.clamp(tiny, 1 / tiny)  # 0 and infinity would meet in products
    l00, l10, l11 = factors
    xx, xy, yy = l00 * l00, l00 * l10, l10 * l10 + l11 * l11
    major = ((xx + yy) / 2 + torch.hypot((xx - yy) / 2, xy)).sqrt()
    minor = l00 * l11 / major
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    cos, sin = angle.cos(), angle.sin()
    along = cos * means[..., 0] + sin * means[..., 1]
    across = (cos * means[..., 1] - sin * means[..., 0]).abs()

    low = ((across - _TAIL * minor) / radius).clamp(0, 1).asin()
    high = ((across + _TAIL * minor) / radius).clamp(0, 1).asin()
    core = radius * high.cos()
    total = ndtr((core - along) / major) - ndtr((-core - along) / major)
    for centre in (along, -along):  # both sides of the disc, the left one mirrored

        def integrand(phi: Tensor, centre: Tensor = centre) -> Tensor:
            x, chord = radius * phi.cos(), radius * phi.sin()
            inner = ndtr((chord - across) / minor) - ndtr((-chord - across) / minor)
            return inner * _normal((x - centre) / major) * chord / major

        near = ((centre + _TAIL * major) / radius).clamp(0, 1).acos()
        far = ((centre - _TAIL * major) / radius).clamp(0, 1).acos()
        total = total + _integrate(integrand, torch.maximum(low, near), torch.minimum(high, far))
    return total


def box_probability(means: Tensor, factors: Factors, lower: Tensor, upper: Tensor) -> Tensor:
    """Probability [...] of the box between two corners [..., 2], which may be infinite.

    With d = mean + L z, the bounds on x are bounds on z0, and given z0 those on y have a closed
    form: a distribution function that steps from 1 to 0 along z0, steeply where x and y are
    strongly correlated. Before and after the step the integral over z0 is closed too, so only
    the step itself, at most 2 _TAIL deviations of either factor long, is integrated numerically.
    """
    l00, l10, l11 = factors
    left, right = ((corner[..., 0] - means[..., 0]) / l00 for corner in (lower, upper))
    # Where y rises with z0, the function falls; elsewhere the mirror image does.
    start = torch.where(l10 >= 0, left, -right).clamp(-_TAIL, _TAIL)
    end = torch.where(l10 >= 0, right, -left).clamp(-_TAIL, _TAIL)
    slope = (l10.abs() / l11).clamp_min(torch.finfo(l11.dtype).tiny)

    def below(bound: Tensor) -> Tensor:
        level = (bound - means[..., 1]) / l11
        before = ((level - _TAIL) / slope).clamp(start, end)
        after = ((level + _TAIL) / slope).clamp(start, end)
        step = _integrate(lambda z: _normal(z) * ndtr(level - slope * z), before, after)
        return ndtr(before) - ndtr(start) + step

    inside = below(upper[..., 1]) - below(lower[..., 1])
    return torch.where(end > start, inside, 0).clamp_min(0)


def _normal(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _integrate(integrand: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """Gauss-Legendre integral over [start, end], elementwise; 0 where end <= start.

    The integrand is called with values [n, ...], n first, so that it broadcasts without effort.
    """
    half = (end - start).clamp_min(0) / 2
    column = (-1, *(1,) * half.ndim)
    nodes, weights = (each.view(column) for each in _NODES[half.dtype].to(half.device))
    return (integrand(start + half * (1 + nodes)) * weights).sum(dim=0) * half
