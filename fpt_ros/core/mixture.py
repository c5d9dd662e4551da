"""Two-dimensional Gaussian mixtures: what the network says about the displacement of a point.

Everything is closed-form 2x2 algebra on batches of mixtures, so it runs on any device and inside
the training loss. Probabilities of regions are one-dimensional integrals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import MIN_HEAD_STD, HeadConfig
from .errors import InvalidInputError
from .regions import box_probability, disc_probability

# Two equally wide, equally heavy Gaussians have one common peak up to this Mahalanobis distance.
_ONE_MODE_DISTANCE = 2.0
# Entropy of a bivariate normal distribution of unit covariance, in nats.
_UNIT_ENTROPY = math.log(2 * math.pi * math.e)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A batch of mixtures of K bivariate normal distributions; x first, then y.

    Attributes:
        log_weights: [..., K], normalised: exp sums to 1 over K.
        means: [..., K, 2].
        scale_tril: [..., K, 2, 2], lower Cholesky factors of the covariances, diagonal positive.

    The constructor does not check or copy; `from_covariances` is for data from outside.
    All three tensors share device and floating dtype. Units are the caller's.
    """

    log_weights: Tensor
    means: Tensor
    scale_tril: Tensor

    @classmethod
    def from_head(
        cls, raw: Tensor, n_components: int, dtype: torch.dtype = torch.float64
    ) -> GaussianMixture:
        """Mixture from the network's raw output [..., 6K]; keeps gradients.

        The layout is that of the published network: K logits, K means (x, y), K times
        (L00, L10, L11), where a squareplus and a small constant keep the diagonal positive.
        """
        logits, means, factors = raw.to(dtype).split(
            [n_components, 2 * n_components, 3 * n_components], dim=-1
        )
        l00, l10, l11 = factors.unflatten(-1, (n_components, 3)).unbind(-1)
        return cls(
            logits.log_softmax(dim=-1),
            means.unflatten(-1, (n_components, 2)),
            _lower(_squareplus(l00) + MIN_HEAD_STD, l10, _squareplus(l11) + MIN_HEAD_STD),
        )

    @classmethod
    def from_covariances(
        cls, weights: Any, means: Any, covariances: Any, dtype: torch.dtype | None = None
    ) -> GaussianMixture:
        """Checked mixture from tensors or arrays of any origin.

        Args:
            weights: [..., K], not negative, summing to 1 within 1e-3 (they are renormalised).
            means: [..., K, 2].
            covariances: [..., K, 3] as xx, xy, yy. A correlation that rounding has pushed to one
                is moved back by the rounding error of their dtype.
            dtype: of the mixture; by default that of `covariances`.

        Raises:
            InvalidInputError: wrong shapes, NaN or infinity, weights or covariances that are none.
        """
        weights, means, covariances = map(_as_tensor, (weights, means, covariances))
        input_dtype = torch.promote_types(covariances.dtype, torch.float32)
        dtype = dtype or input_dtype
        shape = tuple(weights.shape)
        if not shape or shape[-1] == 0:
            raise InvalidInputError(f"weights must be [..., K] with K >= 1, got {list(shape)}")
        for name, array, width in (("means", means, 2), ("covariances", covariances, 3)):
            if array.shape != (*shape, width):
                raise InvalidInputError(
                    f"{name} must be {[*shape, width]} to go with weights {list(shape)}, "
                    f"got {list(array.shape)}"
                )
            _require(array.isfinite().all(-1), f"{name} must be finite")
        _require(weights.isfinite(), "weights must be finite")
        _require(weights >= 0, "weights must not be negative")
        total = weights.double().sum(-1, keepdim=True)
        _require((total - 1).abs() <= 1e-3, "weights must sum to 1 over the components")

        rounding = torch.finfo(input_dtype).eps
        xx, xy, yy = covariances.double().unbind(-1)
        _require((xx > 0) & (yy > 0), "covariances must have positive xx and yy")
        correlation = xy / (xx.sqrt() * yy.sqrt())
        _require(
            correlation.square() <= 1 + 8 * rounding,
            "covariances must be positive definite: xy * xy < xx * yy",
        )
        uncorrelated = (1 - correlation.square()).clamp_min(rounding)
        correlation = correlation.clamp(-1, 1)
        scale_tril = _lower(xx.sqrt(), correlation * yy.sqrt(), (yy * uncorrelated).sqrt())
        return cls(
            (weights.double() / total).log().to(dtype), means.to(dtype), scale_tril.to(dtype)
        )

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of mixtures."""
        return self.log_weights.shape[:-1]

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self.log_weights.shape[-1]

    @property
    def weights(self) -> Tensor:
        """Component weights [..., K], summing to 1."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """Component covariances [..., K, 3] as xx, xy, yy."""
        l00, l10, l11 = self._factors()
        return torch.stack([l00 * l00, l00 * l10, l10 * l10 + l11 * l11], dim=-1)

    def __getitem__(self, index: Any) -> GaussianMixture:
        """Index the batch like a tensor of shape `batch_shape`."""
        index = index if isinstance(index, tuple) else (index,)
        if not any(each is Ellipsis for each in index):
            index = (*index, Ellipsis)
        of_weights = (*index, slice(None))
        of_means = (*of_weights, slice(None))
        of_factors = (*of_means, slice(None))
        return GaussianMixture(
            self.log_weights[of_weights], self.means[of_means], self.scale_tril[of_factors]
        )

    def to(self, *args: Any, **kwargs: Any) -> GaussianMixture:
        """Convert device or dtype, with the arguments of `Tensor.to`."""
        parts = (self.log_weights, self.means, self.scale_tril)
        return GaussianMixture(*(part.to(*args, **kwargs) for part in parts))

    def mean(self) -> Tensor:
        """Mean of the mixture [..., 2]."""
        return (self.weights.unsqueeze(-1) * self.means).sum(dim=-2)

    def covariance(self) -> Tensor:
        """Covariance of the whole mixture [..., 2, 2]: within plus between components."""
        xx, xy, yy = self._total_covariance()
        return torch.stack([xx, xy, xy, yy], dim=-1).unflatten(-1, (2, 2))

    def std(self) -> Tensor:
        """Square root of the trace of `covariance` [...]: the RMS distance from the mean."""
        xx, _, yy = self._total_covariance()
        return (xx + yy).sqrt()

    def modes(self) -> tuple[Tensor, Tensor]:
        """Distinct outcomes, the likeliest first: weights [..., K] and means [..., K, 2].

        Two components belong to one mode when their means are at most 2 apart in the Mahalanobis
        distance of the average of their covariances (the limit of unimodality for two equal
        ones), directly or through other components. A mode has their total weight and common
        mean. Where there are fewer than K modes, weights of 0 fill up the rest, with any finite
        means. NaN where the mixture is.
        """
        together = ~(self._mean_distances()[0] > _ONE_MODE_DISTANCE**2)  # NaN stays NaN
        for _ in range((self.n_components - 1).bit_length()):  # transitive closure by squaring
            together = (together.unsqueeze(-1) & together.unsqueeze(-3)).any(dim=-2)
        shares = torch.where(together, self.weights.unsqueeze(-2), 0)
        weights = shares.sum(dim=-1)
        # A mode without weight has no mean of its own; any finite value will do.
        shares = shares / weights.clamp_min(torch.finfo(weights.dtype).tiny).unsqueeze(-1)
        first_of_its_mode = ~together.tril(-1).any(dim=-1)
        weights, order = (weights * first_of_its_mode).sort(dim=-1, descending=True, stable=True)
        means = (shares @ self.means).gather(-2, order.unsqueeze(-1).expand_as(self.means))
        return weights, means

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound [...] of the differential entropy, in nats.

        The pairwise-distance bounds of Kolchinsky and Tracey (2017): Bhattacharyya distances give
        the lower one, Kullback-Leibler divergences the upper one. Both are exact for one
        component, for coinciding and for well separated ones. The Gaussian of the same covariance
        also bounds from above, and the tighter of the two is returned.
        """
        mixture = self.to(torch.float64)
        l00, _, l11 = mixture._factors()
        log_det = 2 * (l00.log() + l11.log())
        weights, log_weights = mixture.weights, mixture.log_weights.unsqueeze(-2)
        within = (weights * (0.5 * log_det + _UNIT_ENTROPY)).sum(dim=-1)

        def bound(distance: Tensor) -> Tensor:
            return within - (weights * torch.logsumexp(log_weights - distance, -1)).sum(dim=-1)

        squared, log_det_average = mixture._mean_distances()
        log_det_product = (log_det.unsqueeze(-1) + log_det.unsqueeze(-2)) / 2
        lower = bound(squared / 8 + (log_det_average - log_det_product) / 2)
        upper = bound(_component_divergences(mixture, mixture))
        xx, xy, yy = mixture._total_covariance()
        determinant = (xx * yy - xy * xy).clamp_min(1e-15 * xx * yy)  # of the order of rounding
        gaussian = 0.5 * determinant.log() + _UNIT_ENTROPY
        dtype = self.means.dtype
        return lower.to(dtype), torch.minimum(upper, gaussian).to(dtype)

    def kl_divergence(self, other: GaussianMixture) -> Tensor:
        """Divergence KL(self || other) [...] in nats; batches and numbers of components broadcast.

        There is no closed form. This is the matched-bound approximation of Goldberger and
        Greenspan (2003): every component is compared with the one of `other` that explains it
        best. It is exact for single Gaussians. Where components overlap it errs to both sides. It
        overestimates where several of `other` do the work of one: all weight on one of four
        components that coincide scores log 4 against equal weights, though both are the same
        distribution. It underestimates where one of `other` does the work of several, and is cut
        off where it would fall below zero, which no divergence does.
        """
        divergence = _component_divergences(self, other) - other.log_weights.unsqueeze(-2)
        matched = divergence.amin(dim=-1)
        weights = self.weights
        return (weights * matched + torch.xlogy(weights, weights)).sum(dim=-1).clamp_min(0)

    def affine(self, matrix: Tensor, offset: Tensor | None = None) -> GaussianMixture:
        """Mixture of A d + b for d from this one, for an invertible A [2, 2] and b [2].

        On the CPU, A and b cost a mixture on a GPU no copy and no waiting. Raises
        InvalidInputError when A is singular, not finite or not [2, 2].
        """
        matrix = torch.as_tensor(matrix, dtype=self.means.dtype)
        if matrix.shape != (2, 2):
            raise InvalidInputError(f"matrix must be [2, 2], got {list(matrix.shape)}")
        (a, b), (c, d) = matrix.tolist()
        determinant = a * d - b * c
        if not math.isfinite(determinant) or determinant == 0:
            raise InvalidInputError(f"matrix must be invertible, got {matrix.tolist()}")
        e, f = (0.0, 0.0) if offset is None else torch.as_tensor(offset).tolist()
        x, y = self.means.unbind(-1)
        means = torch.stack([a * x + b * y + e, c * x + d * y + f], dim=-1)
        # A L is a square root of the new covariance; a rotation from the right makes it lower.
        l00, l10, l11 = self._factors()
        m00, m01 = a * l00 + b * l10, b * l11
        m10, m11 = c * l00 + d * l10, d * l11
        new_l00 = torch.hypot(m00, m01)
        new_l10 = (m00 * m10 + m01 * m11) / new_l00
        new_l11 = abs(determinant) * l00 * l11 / new_l00
        return GaussianMixture(self.log_weights, means, _lower(new_l00, new_l10, new_l11))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples [n, ..., 2]."""
        like: dict[str, Any] = {"dtype": self.means.dtype, "device": self.means.device}
        # The component that wins an exponential race is drawn with probability = weight.
        times = torch.empty((n, *self.log_weights.shape), **like).exponential_(generator=generator)
        race = self.log_weights - times.clamp_min(torch.finfo(times.dtype).tiny).log()
        winner = race.argmax(dim=-1)[..., None, None]
        components = torch.cat([self.means, torch.stack(self._factors(), dim=-1)], dim=-1)
        drawn = torch.take_along_dim(components.unsqueeze(0), winner, dim=-2).squeeze(-2)
        x, y, l00, l10, l11 = drawn.unbind(-1)
        u, v = torch.randn((2, *x.shape), generator=generator, **like)
        return torch.stack([x + l00 * u, y + l10 * u + l11 * v], dim=-1)

    def highest_density_mass(
        self, x: Tensor, n_samples: int = 256, generator: torch.Generator | None = None
    ) -> Tensor:
        """Probability [...] of an outcome with a higher density than x [..., 2] has.

        The smallest region that holds a share q of the outcomes contains x when this is at most
        q. Monte Carlo over the mixture's own samples, standard error at most
        0.5 / sqrt(n_samples). NaN where the mixture or x is.
        """
        own = self.log_prob(x)
        likelier = self.log_prob(self.sample(n_samples, generator)) > own
        return likelier.to(self.means.dtype).mean(dim=0).where(~own.isnan(), torch.nan)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at x [..., 2], broadcast against the batch; keeps gradients."""
        l00, l10, l11 = self._factors()
        dx, dy = (x.unsqueeze(-2) - self.means).unbind(-1)
        u = dx / l00
        v = (dy - l10 * u) / l11
        log_normal = -0.5 * (u * u + v * v) - (l00.log() + l11.log() + math.log(2 * math.pi))
        return torch.logsumexp(self.log_weights + log_normal, dim=-1)

    def prob_longer_than(self, threshold: float | Tensor) -> Tensor:
        """Probability [...] that the displacement is longer than `threshold` (scalar or [...]).

        Exact to about 1e-8, however narrow, elongated or distant the components are. In float32,
        several times faster, to 2e-5 where no deviation is below a thousandth of the distances.
        """
        mixture = self.to(torch.promote_types(self.means.dtype, torch.float32))
        radius = torch.as_tensor(threshold).to(mixture.means).unsqueeze(-1)
        inside = disc_probability(mixture.means, mixture._factors(), radius)
        longer = (1 - (mixture.weights * inside).sum(dim=-1)).clamp(0, 1)
        return longer.to(self.means.dtype)

    def prob_in_box(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Probability [...] that lower < displacement < upper on both axes.

        Corners [2] or [..., 2], infinity allowed. Exact to about 1e-8 for any correlation.
        """
        mixture = self.to(torch.float64)
        corners = (torch.as_tensor(each).to(mixture.means).unsqueeze(-2) for each in (lower, upper))
        inside = box_probability(mixture.means, mixture._factors(), *corners)
        return (mixture.weights * inside).sum(dim=-1).clamp(0, 1).to(self.means.dtype)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """L00, L10, L11, each [..., K]."""
        l00, _, l10, l11 = self.scale_tril.flatten(-2).unbind(-1)
        return l00, l10, l11

    def _total_covariance(self) -> tuple[Tensor, Tensor, Tensor]:
        """xx, xy and yy of `covariance`, each [...]."""
        dx, dy = (self.means - self.mean().unsqueeze(-2)).unbind(-1)
        between = torch.stack([dx * dx, dx * dy, dy * dy], dim=-1)
        total = (self.weights.unsqueeze(-1) * (self.covariances + between)).sum(dim=-2)
        xx, xy, yy = total.unbind(-1)
        return xx, xy, yy

    def _mean_distances(self) -> tuple[Tensor, Tensor]:
        """Pairs of components [..., K, K] under the average of their two covariances.

        Returns the squared Mahalanobis distance of their means, and the log-determinant of the
        average. Written as sums of squares, so that nothing cancels for thin covariances.
        """
        p00, p10, p11 = (factor.unsqueeze(-1) for factor in self._factors())
        q00, q10, q11 = (factor.unsqueeze(-2) for factor in self._factors())
        dx, dy = (self.means.unsqueeze(-2) - self.means.unsqueeze(-3)).unbind(-1)
        # The average is M M^T / 2 with the columns of both factors in M: its adjugate turns each
        # column by a right angle, its determinant is the sum of all squared minors of M.
        columns = (p00 * dy - p10 * dx, p11 * dx, q00 * dy - q10 * dx, q11 * dx)
        minors = (p00 * p11, p00 * q10 - p10 * q00, p00 * q11, p11 * q00, q00 * q11)
        adjugate = sum((each.square() for each in columns), torch.zeros_like(dx)) / 2
        determinant = sum((each.square() for each in minors), torch.zeros_like(dx)) / 4
        return adjugate / determinant, determinant.log()


def _squareplus(v: Tensor) -> Tensor:
    return (v + torch.sqrt(v * v + 4)) / 2


def displacement_mixture(
    raw: Tensor, head: HeadConfig, dtype: torch.dtype = torch.float64
) -> GaussianMixture:
    """Distributions of the displacement, in units of the unit square, from raw [..., 6K]."""
    inner = GaussianMixture.from_head(raw, head.n_components, dtype)
    floor = head.min_std - MIN_HEAD_STD / head.flow_scale
    if head.flow_scale == 1 and floor == 0 and not head.stays:
        return inner
    eye = torch.eye(2, dtype=dtype, device=raw.device)
    moves = torch.ones(head.n_components, 1, dtype=dtype, device=raw.device)
    moves[0] = not head.stays
    return GaussianMixture(
        inner.log_weights,
        inner.means * moves / head.flow_scale,
        inner.scale_tril * moves[..., None] / head.flow_scale + floor * eye,
    )


def _lower(l00: Tensor, l10: Tensor, l11: Tensor) -> Tensor:
    """Lower triangular matrices [..., 2, 2]."""
    return torch.stack([l00, torch.zeros_like(l00), l10, l11], dim=-1).unflatten(-1, (2, 2))


def _as_tensor(data: Any) -> Tensor:
    # Arrays are copied: those of messages may be read-only, and are not ours to keep.
    return data if isinstance(data, Tensor) else torch.from_numpy(np.array(data))


def _require(ok: Tensor, message: str) -> None:
    """Raise InvalidInputError with the index of the first entry that is not ok."""
    if not ok.all():
        index = (~ok).nonzero()[0].tolist()
        raise InvalidInputError(f"{message} (first violated at index {index})")


def _component_divergences(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """KL(p_i || q_j) of every pair of components [..., Kp, Kq], in nats."""
    p00, p10, p11 = (factor.unsqueeze(-1) for factor in p._factors())
    q00, q10, q11 = (factor.unsqueeze(-2) for factor in q._factors())
    dx, dy = (p.means.unsqueeze(-2) - q.means.unsqueeze(-3)).unbind(-1)
    # Everything in the frame where q_j is standard normal: factor A = Lq^-1 Lp, offset (u, v).
    a00, a11 = p00 / q00, p11 / q11
    a10 = (p10 - q10 * a00) / q11
    u = dx / q00
    v = (dy - q10 * u) / q11
    squares = a00 * a00 + a10 * a10 + a11 * a11 + u * u + v * v
    return 0.5 * squares - 1 - a00.log() - a11.log()
