"""The gate that a built engine passes before it serves: the reference's answers to questions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass

import torch
from torch import Tensor

from ..core.engine import Engine, Precision
from ..core.errors import EngineError


@dataclass(frozen=True)
class Parity:
    """How far the answers of an engine are from the reference's, at the worst of fixed questions.

    Attributes:
        raw: largest absolute difference in the outputs of the network, over their largest.
        mean_displacement: largest absolute difference in mean displacements, in the unit square.
        relative_displacement: root of the mean square difference in mean displacements, over that
            of the displacements themselves, or over the deviations where those are larger.
        divergence: Kullback-Leibler divergence of the answers from the reference's, mean over the
            points of a question, nats.
    """

    raw: float
    mean_displacement: float
    relative_displacement: float
    divergence: float

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.2g}" for name, value in asdict(self).items())


# By precision, the most that passes. Rounding to bfloat16 once changes a number by up to 0.4 %.
LIMITS: dict[Precision, Parity] = {
    "fp32": Parity(1e-4, 1e-4, 1e-4, 1e-4),
    "bf16": Parity(math.inf, math.inf, 0.03, 0.01),
    "fp16": Parity(math.inf, math.inf, 0.03, 0.01),
    "int8": Parity(math.inf, math.inf, 0.1, 0.05),
}


@torch.inference_mode()
def measure(engine: Engine, reference: Engine) -> Parity:
    """Ask both the same questions; the engines hold the same network."""
    found = [
        _compare(actual.cpu().double(), expected.cpu().double(), reference)
        for actual, expected in zip(_answers(engine), _answers(reference), strict=True)
    ]
    return Parity(*torch.tensor([astuple(each) for each in found]).amax(0).tolist())


def _compare(actual_raw: Tensor, expected_raw: Tensor, reference: Engine) -> Parity:
    if not actual_raw.isfinite().all():
        return Parity(math.inf, math.inf, math.inf, math.inf)
    actual, expected = reference.mixture(actual_raw), reference.mixture(expected_raw)
    difference = actual.mean() - expected.mean()
    variance = expected.covariance().diagonal(dim1=-2, dim2=-1)
    error, *scales = (
        each.square().sum() for each in (difference, expected.mean(), variance.sqrt())
    )
    return Parity(
        raw=float((actual_raw - expected_raw).abs().max() / expected_raw.abs().max().clamp(1e-6)),
        mean_displacement=float(difference.abs().max()),
        relative_displacement=float((error / max(scales)).sqrt()),
        divergence=float(expected.kl_divergence(actual).mean()),
    )


def check(engine: Engine, reference: Engine) -> Parity:
    """Measure, and raise EngineError if the engine is not to be trusted."""
    parity, limits = measure(engine, reference), LIMITS[engine.precision]
    failed = [
        f"{name} {value:.2g} is above {getattr(limits, name):g}"
        for name, value in asdict(parity).items()
        if not value <= getattr(limits, name)  # NaN fails
    ]
    if failed:
        raise EngineError(
            f"{engine.name} in {engine.precision} does not answer as PyTorch does: "
            f"{'; '.join(failed)}"
        )
    return parity


def _answers(engine: Engine) -> Iterator[Tensor]:
    """Raw answers to fixed questions that take every way through the stages.

    So many points that a few do not decide; the last three are of the sizes that TensorRT runs
    other kernels for: many candidates, very many, and long chains of pokes.
    """
    generator = torch.Generator().manual_seed(0)
    context = engine.encode(picture(engine.config.encoder.input_px, generator).to(engine.device))

    def positions(*shape: int) -> Tensor:
        unit = torch.rand(1, *shape, 2, generator=generator)
        return unit.to(engine.device, engine.dtype)

    for candidates, n_pokes, n_points, static in (
        (1, 0, 256, True),
        (1, 0, 64, False),
        (1, 1, 256, True),
        (1, 1, 64, False),
        (3, 5, 32, True),
        (33, 1, 8, True),
        (513, 1, 1, True),
        (1, 255, 64, True),
    ):
        xy, points = positions(candidates, n_pokes), positions(candidates, n_points)
        flow = 0.5 * positions(candidates, n_pokes) - 0.25
        counts = torch.arange(candidates, 0, -1, device=engine.device)[None].clamp(max=n_pokes)
        camera_static = torch.tensor([static], device=engine.device)
        pokes = engine.condition(context, xy, flow, counts, camera_static)
        yield engine.query(context, pokes, points)
        more_xy, more_flow = positions(candidates, 2), 0.5 * positions(candidates, 2) - 0.25
        pokes, raw = engine.extend(context, pokes, more_xy, more_flow, points)
        yield raw
        yield engine.query(context, pokes, points)


def picture(side_px: int, generator: torch.Generator) -> Tensor:
    """A picture uint8 [1, 3, side, side] of blotches of all sizes: nearer to a photo than noise."""
    total = torch.zeros(1, 3, side_px, side_px)
    cells = 2
    while cells < side_px:
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(
            noise, (side_px, side_px), mode="bilinear", align_corners=False
        )
        cells *= 2
    return (127.5 + 40 * total).clamp(0, 255).to(torch.uint8)
