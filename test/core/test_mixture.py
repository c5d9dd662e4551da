"""Mixtures against torch.distributions, closed forms, numerical integration and Monte Carlo."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import multivariate_normal, ncx2
from torch import distributions as D

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture

GOLDEN = Path(__file__).parents[1] / "data" / "golden_fpt.npz"
SEEDS = st.integers(0, 2**32 - 1)
SLOW = settings(max_examples=40)


def random_mixture(seed, *batch, k=4, spread=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(*batch, 6 * k, generator=generator, dtype=torch.float64)
    raw[..., k : 3 * k] *= spread
    return GaussianMixture.from_head(raw, k, dtype)


def single(mean, scale_tril):
    """One mixture of one component."""
    return GaussianMixture(
        torch.zeros(1, dtype=torch.float64),
        torch.tensor(mean, dtype=torch.float64).reshape(1, 2),
        torch.as_tensor(scale_tril, dtype=torch.float64).reshape(1, 2, 2),
    )


def isotropic(weights, means, deviations):
    deviations = torch.tensor(deviations, dtype=torch.float64)
    return GaussianMixture(
        torch.tensor(weights, dtype=torch.float64).log(),
        torch.tensor(means, dtype=torch.float64),
        deviations[:, None, None] * torch.eye(2, dtype=torch.float64),
    )


def reference(mixture):
    return D.MixtureSameFamily(
        D.Categorical(logits=mixture.log_weights),
        D.MultivariateNormal(mixture.means, scale_tril=mixture.scale_tril),
    )


def standard_error(samples):
    return samples.std(dim=0) / math.sqrt(len(samples))


def centred_grid(mixture, cells=250, width=9.0):
    """Midpoints [cells, cells, 2] around the mixture's mean, and the area of a cell."""
    half = width * mixture.std()
    ticks = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * half
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
    return points + mixture.mean(), (2 * half / cells) ** 2


# --- the head ---------------------------------------------------------------------------------


def test_head_and_log_prob_match_the_published_network():
    golden = np.load(GOLDEN)
    cases = [key.split("/")[0] for key in golden.files if key.endswith("f64/head_raw")]
    assert len(cases) == 4
    for case in cases:
        flow = torch.from_numpy(golden[f"{case}/in/target_flow"]).double()
        raw = torch.from_numpy(golden[f"{case}/f64/head_raw"])[:, -flow.shape[1] :]
        got = GaussianMixture.from_head(raw, 4).log_prob(flow)
        torch.testing.assert_close(got, torch.from_numpy(golden[f"{case}/f64/log_prob"]))


def test_box_probability_matches_the_published_cdf():
    points = torch.tensor(
        [
            [-0.2082701, 0.17916995],
            [0.49315994, 0.08621899],
            [-0.48458671, 0.33391618],
            [0.32732655, 0.0699602],
            [0.66005087, -0.1318981],
            [-0.09199692, 0.27361322],
            [0.31937782, -0.5265116],
        ],
        dtype=torch.float64,
    )
    expected = [
        0.23340246603134293,
        0.38077763638569295,
        0.18681780930761102,
        0.3404933987200388,
        0.3596680264724441,
        0.273309220655658,
        0.2120201570334036,
    ]
    raw = torch.from_numpy(np.load(GOLDEN)["c2_many_pokes_nonsquare/mid/head_raw"])
    mixture = GaussianMixture.from_head(raw[0, 6], 4)  # the first query comes after 6 pokes
    got = mixture.prob_in_box(torch.tensor([-torch.inf, -torch.inf]), points)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_extreme_heads_give_finite_densities_and_gradients(dtype, size):
    raw = size * torch.randn(64, 18, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    log_prob = GaussianMixture.from_head(raw, 3, dtype).log_prob(torch.zeros(2, dtype=dtype))
    log_prob.mean().backward()
    assert log_prob.isfinite().all()
    assert raw.grad.isfinite().all()


def test_gradient_of_the_training_loss():
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(3, 12, dtype=torch.float64, generator=generator).requires_grad_()
    flow = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda each: GaussianMixture.from_head(each, 2).log_prob(flow), raw
    )


# --- construction -----------------------------------------------------------------------------


def test_covariances_round_trip():
    mixture = random_mixture(0, 5, 3)
    again = GaussianMixture.from_covariances(mixture.weights, mixture.means, mixture.covariances)
    torch.testing.assert_close(again.scale_tril, mixture.scale_tril)
    torch.testing.assert_close(again.log_weights, mixture.log_weights)
    dense = mixture.scale_tril @ mixture.scale_tril.mT
    torch.testing.assert_close(mixture.covariances, dense.flatten(-2)[..., [0, 1, 3]])


def test_rounded_correlation_of_one_is_accepted():
    exact = torch.tensor([[[1.0, 1.0, 1.0 + 1e-10]], [[1e6, -1e3, 1.0]]], dtype=torch.float64)
    mixture = GaussianMixture.from_covariances(
        np.ones((2, 1), np.float32), np.zeros((2, 1, 2), np.float32), exact.float().numpy()
    )
    assert mixture.means.dtype == torch.float32
    assert (mixture.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    torch.testing.assert_close(mixture.covariances, exact.float())


def test_arrays_are_copied():
    means = np.zeros((1, 2))
    mixture = GaussianMixture.from_covariances([1.0], means, [[1.0, 0.0, 1.0]])
    means[:] = 7
    assert mixture.means.abs().max() == 0


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "complaint"),
    [
        ([], np.zeros((0, 2)), np.zeros((0, 3)), "K >= 1"),
        ([1.0], [[0.0, 0.0, 0.0]], [[1.0, 0.0, 1.0]], "means must be"),
        ([1.0], [[0.0, 0.0]], [[1.0, 0.0, 0.0, 1.0]], "covariances must be"),
        ([0.5, 0.6], [[0.0, 0.0]] * 2, [[1.0, 0.0, 1.0]] * 2, "sum to 1"),
        ([-0.5, 1.5], [[0.0, 0.0]] * 2, [[1.0, 0.0, 1.0]] * 2, "negative"),
        ([math.nan, 1.0], [[0.0, 0.0]] * 2, [[1.0, 0.0, 1.0]] * 2, "weights must be finite"),
        ([1.0], [[0.0, math.inf]], [[1.0, 0.0, 1.0]], "means must be finite"),
        ([0.5, 0.5], [[0.0, 0.0]] * 2, [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], r"positive.*\[1\]"),
        ([1.0], [[0.0, 0.0]], [[1.0, 1.1, 1.0]], "positive definite"),
    ],
)
def test_bad_arrays_are_named(weights, means, covariances, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        GaussianMixture.from_covariances(weights, means, covariances)


def test_indexing_follows_the_batch():
    mixture = random_mixture(2, 4, 5)
    log_prob = mixture.log_prob(torch.zeros(2))
    mask = torch.rand(4, 5) > 0.5
    for index in [0, (1, 2), (slice(None), 3), (..., -1), (None, 1), mask, torch.tensor([0, 0])]:
        got = mixture[index]
        torch.testing.assert_close(got.log_prob(torch.zeros(2)), log_prob[index])
        assert got.batch_shape == log_prob[index].shape
        assert got.n_components == 4
    with pytest.raises(IndexError):
        mixture[0, 0, 0]


def test_every_result_keeps_device_and_dtype():
    for device, dtype in (("meta", torch.float32), ("cpu", torch.float32), ("cpu", torch.float64)):
        mixture = random_mixture(3, 2, 3).to(device=device, dtype=dtype)
        point = torch.zeros(2, dtype=dtype, device=device)
        results = [
            mixture.mean(),
            mixture.covariance(),
            mixture.std(),
            *mixture.modes(),
            *mixture.entropy_bounds(),
            mixture.log_prob(point),
            mixture.sample(2),
            mixture.kl_divergence(mixture),
            mixture.prob_longer_than(0.5),
            mixture.prob_in_box(point - 1, point + 1),
            mixture.highest_density_mass(point, 2),
        ]
        for result in results:
            assert result.device.type == device
            assert result.dtype == dtype


# --- moments, density, samples ----------------------------------------------------------------


def test_moments_and_density_match_torch_distributions():
    mixture = random_mixture(4, 6, 7)
    truth = reference(mixture)
    x = torch.randn(6, 7, 2, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x), truth.log_prob(x))
    torch.testing.assert_close(mixture.mean(), truth.mean)
    total = mixture.covariance()
    torch.testing.assert_close(total.diagonal(dim1=-2, dim2=-1), truth.variance)
    torch.testing.assert_close(mixture.std(), truth.variance.sum(-1).sqrt())
    assert torch.equal(total, total.mT)


def test_covariance_matches_integration():
    mixture = random_mixture(5)
    points, area = centred_grid(mixture)
    mass = mixture.log_prob(points).exp() * area
    offset = points - mixture.mean()
    outer = offset.unsqueeze(-1) * offset.unsqueeze(-2)
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close((mass[..., None, None] * outer).sum((0, 1)), mixture.covariance())


def test_samples_have_the_moments_of_the_mixture():
    mixture = random_mixture(6, 3)
    samples = mixture.sample(40_000, torch.Generator().manual_seed(0))
    assert samples.shape == (40_000, 3, 2)
    assert ((samples.mean(0) - mixture.mean()).abs() < 5 * standard_error(samples)).all()
    offset = samples - mixture.mean()
    outer = offset.unsqueeze(-1) * offset.unsqueeze(-2)
    assert ((outer.mean(0) - mixture.covariance()).abs() < 5 * standard_error(outer)).all()


def test_samples_come_from_components_in_proportion():
    mixture = isotropic([0.6, 0.0, 0.4], [[0, 0], [50, 0], [100, 0]], [1.0, 1.0, 1.0])
    x = mixture.sample(10_000, torch.Generator().manual_seed(0))[:, 0]
    assert ((x - 50).abs() < 10).sum() == 0
    assert (x > 75).double().mean().item() == pytest.approx(0.4, abs=0.025)


def test_sampling_is_reproducible_and_takes_empty_batches():
    mixture = random_mixture(7, 2)
    draws = [mixture.sample(3, torch.Generator().manual_seed(9)) for _ in range(2)]
    assert torch.equal(*draws)
    assert mixture[:0].sample(3).shape == (3, 0, 2)
    assert mixture.sample(0).shape == (0, 2, 2)


# --- modes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "merged"), [(1.9, True), (2.1, False)])
def test_equal_components_merge_exactly_where_they_share_a_peak(distance, merged):
    mixture = isotropic([0.5, 0.5], [[0, 0], [0.1 * distance, 0]], [0.1, 0.1])
    line = torch.linspace(-0.2, 0.5, 701, dtype=torch.float64)
    density = mixture.log_prob(torch.stack([line, torch.zeros_like(line)], dim=-1))
    peaks = ((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])).sum()
    assert peaks == (1 if merged else 2)
    weights, means = mixture.modes()
    assert (weights > 0).sum() == peaks
    if merged:
        assert weights[0].item() == pytest.approx(1)
        assert means[0, 0].item() == pytest.approx(0.05 * distance)


def test_modes_are_sorted_and_joined_through_others():
    mixture = isotropic(
        [0.4, 0.1, 0.25, 0.15, 0.1],
        [[9, 9], [0, 0], [1.8, 0], [3.6, 0], [9, -9]],
        [0.2, 1.0, 1.0, 1.0, 0.1],
    )
    weights, means = mixture.modes()
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.4, 0.1, 0, 0], dtype=torch.float64))
    expected = [[(0.25 * 1.8 + 0.15 * 3.6) / 0.5, 0], [9, 9], [9, -9]]
    torch.testing.assert_close(means[:3], torch.tensor(expected, dtype=torch.float64))


def test_a_spike_in_a_broad_component_stays_a_mode():
    weights, _ = isotropic([0.5, 0.5], [[0, 0], [1.5, 0]], [0.05, 1.0]).modes()
    assert (weights > 0).all()


@SLOW
@given(SEEDS, st.floats(0.01, 30))
def test_modes_preserve_mass_and_mean(seed, spread):
    mixture = random_mixture(seed, 3, 2, spread=spread)
    weights, means = mixture.modes()
    assert (weights[..., :-1] >= weights[..., 1:]).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close((weights.unsqueeze(-1) * means).sum(-2), mixture.mean())


def test_coinciding_components_are_one_mode_even_in_float32():
    factor = torch.tensor([[1e-4, 0.0], [5e-1, 1e-4]]).expand(3, 2, 2)
    mean = torch.tensor([0.7, -0.2])
    mixture = GaussianMixture(torch.tensor([0.2, 0.5, 0.3]).log(), mean.expand(3, 2), factor)
    weights, means = mixture.modes()
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(means[0], mean)


def test_a_point_without_an_answer_has_no_modes():
    mixture = random_mixture(21, 2, k=3)
    mixture.log_weights[1], mixture.means[1], mixture.scale_tril[1] = (torch.nan,) * 3
    weights, means = mixture.modes()
    assert weights.isnan().tolist() == [[False] * 3, [True] * 3]
    assert means.isnan().all(-1).tolist() == [[False] * 3, [True] * 3]


# --- entropy and divergence -------------------------------------------------------------------


@settings(max_examples=25)
@given(SEEDS, st.floats(0, 4))
def test_entropy_lies_between_its_bounds(seed, spread):
    mixture = random_mixture(seed, spread=spread)
    points, area = centred_grid(mixture)
    log_density = mixture.log_prob(points)
    entropy = -(log_density.exp() * log_density).sum() * area
    lower, upper = mixture.entropy_bounds()
    assert lower - 1e-3 <= entropy <= upper + 1e-3


def test_entropy_bounds_are_exact_without_overlap_and_with_full_overlap():
    one = random_mixture(8, 5, k=1)
    truth = D.MultivariateNormal(one.means[:, 0], scale_tril=one.scale_tril[:, 0]).entropy()
    for bound in one.entropy_bounds():
        torch.testing.assert_close(bound, truth)

    coinciding = isotropic([0.3, 0.7], [[1, 2], [1, 2]], [0.5, 0.5])
    lower, upper = coinciding.entropy_bounds()
    assert lower.item() == pytest.approx(math.log(2 * math.pi * math.e * 0.25))
    assert upper.item() == pytest.approx(lower.item())

    apart = isotropic([0.3, 0.7], [[0, 0], [99, 0]], [0.5, 2.0])
    lower, upper = apart.entropy_bounds()
    parts = [w * (math.log(2 * math.pi * math.e * s * s / w)) for w, s in ((0.3, 0.5), (0.7, 2.0))]
    # log(s^2 / w) = log s^2 - log w: the entropy of the component plus that of the choice.
    assert lower.item() == pytest.approx(sum(parts))
    assert upper.item() == pytest.approx(sum(parts))


def test_entropy_bounds_hold_for_needles():
    needle = torch.tensor([[1e-7, 0.0], [1.0, 1e-7]])
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.5]).log(),
        torch.tensor([[0.0, 0.0], [1e-7, 0.0]]),
        needle.expand(2, 2, 2),
    )
    lower, upper = mixture.entropy_bounds()
    one = math.log(2 * math.pi * math.e * 1e-14)
    assert one - 1e-4 <= lower <= upper <= one + math.log(2) + 1e-4


def test_divergence_of_single_gaussians_is_exact():
    p, q = random_mixture(9, 50, k=1), random_mixture(10, 50, k=1)
    truth = D.kl_divergence(
        D.MultivariateNormal(p.means[:, 0], scale_tril=p.scale_tril[:, 0]),
        D.MultivariateNormal(q.means[:, 0], scale_tril=q.scale_tril[:, 0]),
    )
    torch.testing.assert_close(p.kl_divergence(q), truth)


def test_divergence_is_the_matched_bound():
    p, q = random_mixture(11, 20, k=3, spread=3), random_mixture(12, 20, k=5, spread=3)
    for index, got in enumerate(p.kl_divergence(q)):
        total = 0.0
        for i in range(3):
            pairs = [
                D.kl_divergence(
                    D.MultivariateNormal(p.means[index, i], scale_tril=p.scale_tril[index, i]),
                    D.MultivariateNormal(q.means[index, j], scale_tril=q.scale_tril[index, j]),
                )
                + (p.weights[index, i] / q.weights[index, j]).log()
                for j in range(5)
            ]
            total += (p.weights[index, i] * min(pairs)).item()
        assert got.item() == pytest.approx(max(total, 0.0), abs=1e-9)


def test_divergence_errs_as_documented_where_components_coincide():
    one = isotropic([1, 0, 0, 0], [[0, 0]] * 4, [1.0] * 4)
    all_four = isotropic([0.25] * 4, [[0, 0]] * 4, [1.0] * 4)  # the same distribution
    assert one.kl_divergence(all_four).item() == pytest.approx(math.log(4))
    assert all_four.kl_divergence(one).item() == 0


def test_divergence_approaches_the_truth_for_separate_components():
    p = isotropic([0.3, 0.7], [[0, 0], [40, 0]], [1.0, 2.0])
    q = isotropic([0.6, 0.4], [[41, 1], [1, 0]], [3.0, 1.5])
    samples = p.sample(50_000, torch.Generator().manual_seed(0))
    difference = p.log_prob(samples) - q.log_prob(samples)
    error = (p.kl_divergence(q) - difference.mean()).abs()
    assert error < 5 * standard_error(difference)


@SLOW
@given(SEEDS)
def test_divergence_is_never_negative_and_zero_for_itself(seed):
    p, q = random_mixture(seed, 8), random_mixture(seed + 1, 8)
    assert (p.kl_divergence(q) >= 0).all()
    assert (p.kl_divergence(p) < 1e-12).all()


def test_divergence_broadcasts_and_ignores_empty_components():
    p, q = random_mixture(13, 4, 6), random_mixture(14, 6)
    assert p.kl_divergence(q).shape == (4, 6)
    torch.testing.assert_close(p.kl_divergence(q)[2], p[2].kl_divergence(q))
    full = isotropic([1.0], [[1, 0]], [1.0])
    padded = isotropic([1.0, 0.0], [[1, 0], [5, 5]], [1.0, 1.0])
    other = isotropic([0.0, 1.0], [[9, 9], [0, 0]], [1.0, 1.0])
    assert full.kl_divergence(other).item() == pytest.approx(0.5)
    assert padded.kl_divergence(other).item() == pytest.approx(0.5)


# --- change of frame --------------------------------------------------------------------------


@SLOW
@given(SEEDS)
def test_affine_map_changes_the_density_by_its_determinant(seed):
    mixture = random_mixture(seed, 5)
    generator = torch.Generator().manual_seed(seed)
    matrix, offset, x = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((2, 2), 2, (5, 2))
    )
    mapped = mixture.affine(matrix, offset)
    log_prob = mapped.log_prob(x @ matrix.mT + offset) + matrix.det().abs().log()
    torch.testing.assert_close(log_prob, mixture.log_prob(x), rtol=1e-6, atol=1e-6)
    assert (mapped.scale_tril[..., 0, 1] == 0).all()
    assert (mapped.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert mixture.to(torch.float32).affine(matrix, offset).means.dtype == torch.float32


@pytest.mark.parametrize(
    "matrix",
    [
        [[0, -1], [1, 0]],
        [[-1, 0], [0, 1]],
        [[0, 1], [1, 0]],
        [[640, 0], [0, 480]],
        [[1, 5], [0, 1]],
    ],
)
def test_affine_map_of_rotations_reflections_and_scales(matrix):
    matrix = torch.tensor(matrix, dtype=torch.float64)
    mixture = random_mixture(15, 4)
    mapped = mixture.affine(matrix)
    torch.testing.assert_close(mapped.mean(), mixture.mean() @ matrix.mT)
    torch.testing.assert_close(mapped.covariance(), matrix @ mixture.covariance() @ matrix.mT)
    back = mapped.affine(matrix.inverse())
    torch.testing.assert_close(back.scale_tril, mixture.scale_tril)


@pytest.mark.parametrize(
    "matrix", [[[1.0, 2.0], [2.0, 4.0]], [[math.nan, 0.0], [0.0, 1.0]], [[2.0]]]
)
def test_affine_map_must_be_invertible(matrix):
    with pytest.raises(InvalidInputError, match="matrix must be"):
        random_mixture(0).affine(torch.tensor(matrix))


# --- probabilities of regions -----------------------------------------------------------------


def shapes():
    """Cholesky entries from needles to broad, over seven decades, correlations up to one."""
    size = st.floats(-5, 2).map(lambda exponent: 10.0**exponent)
    return st.tuples(size, st.tuples(st.sampled_from([-1, 0, 1]), size).map(math.prod), size)


# Conditioning on z0 at the midpoints of n equally likely intervals: the conditional probability
# of a convex region rises once and falls once along z0, so the mean over midpoints is off by at
# most 4 / n, however narrow the region or the distribution.
Z0 = ndtri((np.arange(80_000) + 0.5) / 80_000)
MEAN_ERROR = 4 / len(Z0)


def conditional_mean(mean, factors, y_interval):
    """P(y_low(x) < y < y_high(x)) for y_interval giving both at abscissas x."""
    l00, l10, l11 = factors
    low, high = y_interval(mean[0] + l00 * Z0)
    centre = mean[1] + l10 * Z0
    cdf = [torch.special.ndtr(torch.from_numpy((y - centre) / l11)) for y in (low, high)]
    return (cdf[1] - cdf[0]).mean().item()


@settings(max_examples=150)
@given(shapes(), st.floats(-2, 2), st.floats(0, 3), st.floats(0, 2 * math.pi))
def test_prob_longer_than_matches_conditioning(factors, log_threshold, distance, angle):
    threshold = 10.0**log_threshold
    mean = [threshold * distance * math.cos(angle), threshold * distance * math.sin(angle)]

    def chord(x):
        half = np.sqrt(np.maximum(threshold**2 - x * x, 0))
        return -half, half

    inside = conditional_mean(mean, factors, chord)
    l00, l10, l11 = factors
    got = single(mean, [l00, 0, l10, l11]).prob_longer_than(threshold).item()
    assert got == pytest.approx(1 - inside, abs=MEAN_ERROR + 1e-7)


@settings(max_examples=150)
@given(shapes(), st.floats(-2, 2), st.floats(0, 3), st.floats(0, 2 * math.pi))
def test_prob_longer_than_in_float32_is_that_in_float64(factors, log_threshold, distance, angle):
    threshold = 10.0**log_threshold
    l00, l10, l11 = factors
    l00, l11 = max(l00, 5e-3 * threshold), max(l11, 5e-3 * threshold, 1e-2 * abs(l10))
    mean = [threshold * distance * math.cos(angle), threshold * distance * math.sin(angle)]
    exact = single(mean, [l00, 0, l10, l11])
    got = exact.to(torch.float32).prob_longer_than(threshold)
    assert got.item() == pytest.approx(exact.prob_longer_than(threshold).item(), abs=2e-5)


@settings(max_examples=150)
@given(shapes(), st.tuples(*[st.floats(-4, 4)] * 2), st.tuples(*[st.floats(0, 5)] * 2))
def test_prob_in_box_matches_conditioning(factors, corner, extent):
    l00, l10, l11 = factors
    spread = np.array([l00, math.hypot(l10, l11)])
    lower = np.array(corner) * spread
    upper = lower + np.array(extent) * spread

    def interval(x):
        inside = (x > lower[0]) & (x < upper[0])
        return np.full_like(x, lower[1]), np.where(inside, upper[1], lower[1])

    got = single([0, 0], [l00, 0, l10, l11]).prob_in_box(*map(torch.from_numpy, (lower, upper)))
    expected = conditional_mean([0, 0], factors, interval)
    assert got.item() == pytest.approx(expected, abs=MEAN_ERROR + 1e-7)


def test_prob_longer_than_is_rice_for_round_components():
    distance = np.array([0.0, 1e-3, 0.5, 0.999, 1.0, 1.001, 3.0, 100.0])
    for sigma in (1e-5, 1e-3, 0.1, 1.0, 30.0):
        for x in distance:
            got = (
                single([0.6 * x, -0.8 * x], sigma * torch.eye(2, dtype=torch.float64))
                .prob_longer_than(1.0)
                .item()
            )
            expected = ncx2.sf(1 / sigma**2, 2, x * x / sigma**2)
            if np.isnan(expected) or sigma < 1e-4:  # scipy gives up: the circle looks straight
                expected = torch.special.ndtr(torch.tensor((x - 1) / sigma)).item()
            assert got == pytest.approx(expected, abs=1e-5 if sigma < 1e-4 else 1e-8)


@pytest.mark.parametrize("correlation", [-0.999999, -0.7, 0.0, 0.3, 0.999999])
def test_prob_in_box_matches_the_bivariate_normal_cdf(correlation):
    covariance = np.array([[4.0, 2 * correlation], [2 * correlation, 1.0]])
    mixture = single([1, -1], np.linalg.cholesky(covariance))
    truth = multivariate_normal([1, -1], covariance)
    lower, upper = np.array([-0.5, -2.0]), np.array([2.0, -0.9])
    got = mixture.prob_in_box(*map(torch.from_numpy, (lower, upper))).item()
    assert got == pytest.approx(truth.cdf(upper, lower_limit=lower), abs=1e-6)


def test_probabilities_of_mixtures_match_monte_carlo():
    mixture = random_mixture(16, 3)
    samples = mixture.sample(40_000, torch.Generator().manual_seed(0))
    longer = (samples.norm(dim=-1) > 1.2).double()
    assert (
        (mixture.prob_longer_than(1.2) - longer.mean(0)).abs() < 5 * standard_error(longer)
    ).all()
    lower, upper = torch.tensor([-0.5, -1.0]), torch.tensor([1.0, 0.8])
    inside = ((samples > lower) & (samples < upper)).all(-1).double()
    got = mixture.prob_in_box(lower, upper)
    assert ((got - inside.mean(0)).abs() < 5 * standard_error(inside)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_limits_of_lengths(dtype):
    mixture = random_mixture(17, 3).to(dtype)
    one, none = torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype)
    torch.testing.assert_close(mixture.prob_longer_than(0), one)
    torch.testing.assert_close(mixture.prob_longer_than(1e9), none)
    torch.testing.assert_close(mixture.prob_longer_than(math.inf), none)
    assert mixture.prob_longer_than(math.nan).isnan().all()


def test_limits_of_boxes():
    mixture = random_mixture(17, 3)
    one, none = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    infinity = torch.tensor([torch.inf, torch.inf])
    torch.testing.assert_close(mixture.prob_in_box(-infinity, infinity), one)
    torch.testing.assert_close(mixture.prob_in_box(infinity, -infinity), none)
    torch.testing.assert_close(mixture.prob_in_box(torch.ones(2), torch.ones(2)), none)
    half_plane = mixture.prob_in_box(torch.tensor([-torch.inf, 0.3]), infinity)
    other_half = mixture.prob_in_box(-infinity, torch.tensor([torch.inf, 0.3]))
    torch.testing.assert_close(half_plane + other_half, one)


def test_regions_may_differ_within_a_batch():
    mixture = random_mixture(18, 4)
    thresholds = torch.tensor([0.1, 0.5, 1.0, 2.0])
    got = mixture.prob_longer_than(thresholds)
    upper = torch.rand(4, 2, dtype=torch.float64)
    in_box = mixture.prob_in_box(upper - 1, upper)
    for index in range(4):
        each = mixture[index]
        torch.testing.assert_close(got[index], each.prob_longer_than(thresholds[index].item()))
        torch.testing.assert_close(in_box[index], each.prob_in_box(upper[index] - 1, upper[index]))


# --- highest-density regions ------------------------------------------------------------------


def test_highest_density_mass_of_a_gaussian_is_closed_form():
    mixture = random_mixture(19, k=1)
    generator = torch.Generator().manual_seed(0)
    for radius in (0.0, 0.5, 1.0, 2.5):
        z = radius * torch.tensor([0.6, 0.8], dtype=torch.float64)
        x = mixture.means[0] + mixture.scale_tril[0] @ z
        got = mixture.highest_density_mass(x, 20_000, generator).item()
        assert got == pytest.approx(1 - math.exp(-(radius**2) / 2), abs=0.02)


def test_highest_density_mass_of_nothing_known_is_not_known():
    mixture = random_mixture(19, 3)
    mixture.means[1] = math.nan
    mass = mixture.highest_density_mass(torch.zeros(3, 2, dtype=torch.float64))
    assert mass.isnan().tolist() == [False, True, False]
    far = torch.full((3, 2), 1e200, dtype=torch.float64)
    assert mixture[0].highest_density_mass(far[0]) == 1


def test_highest_density_mass_of_own_samples_is_uniform():
    mixture = random_mixture(20, spread=4)
    generator = torch.Generator().manual_seed(0)
    x = mixture.sample(4000, generator)
    mass = mixture[(None,)].highest_density_mass(x, 500, generator)
    for level in (0.1, 0.5, 0.9):
        assert (mass <= level).double().mean().item() == pytest.approx(level, abs=0.035)
