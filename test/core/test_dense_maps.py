"""Refined maps of a network against the network asked everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fpt_ros.core.config import FPT_SMALL, PyramidEncoderConfig
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.parts import PartCriterion, influence
from fpt_ros.core.predictor import MotionPredictor

SIDE = 64
POKES = [[50, 30, 8, 4]]


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    # Of noise, larger inputs would make answers that vary within a pixel.
    model = FlowPokeModel(replace(FPT_SMALL, encoder=PyramidEncoderConfig(input_px=192, depth=4)))
    with torch.no_grad():  # nothing that starts as zero stays so
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    predictor = MotionPredictor(TorchEngine(model))
    rng = np.random.default_rng(0)
    predictor.set_image(rng.integers(0, 256, (SIDE, SIDE + 20, 3), np.uint8))
    return predictor


def test_without_tolerance_the_maps_are_those_of_the_plain_grid(predictor):
    criterion = PartCriterion(0.5, 0.1)
    maps = predictor.dense_maps(POKES, 8, 0.0, criterion)
    assert maps.n_queried == 64
    np.testing.assert_allclose(maps.uncertainty_px, predictor.uncertainty(POKES, 8), rtol=1e-4)
    mask, score = predictor.moving_parts(POKES, 8, criterion)
    np.testing.assert_allclose(maps.parts.score, score, rtol=1e-4, atol=1e-5)
    assert (maps.parts.mask == mask).mean() > 0.999
    assert np.isnan(maps.displacement_px[:, :10]).all()


def test_refined_maps_approach_those_asked_for_at_every_pixel(predictor):
    points = predictor.encode_image(np.zeros((SIDE, SIDE + 20, 3), np.uint8)).transform.grid(SIDE)
    conditional, without = (predictor.predict(p, points).mixture for p in (POKES, []))
    mean = conditional.mean().reshape(SIDE, SIDE, 2).numpy()
    score = influence(conditional, without)
    likely = conditional.prob_longer_than(0.01 * SIDE).numpy()
    criterion = PartCriterion(float(np.quantile(score, 0.5)), float(np.quantile(likely, 0.5)))
    crop = np.s_[:, 10 : 10 + SIDE]

    errors, counts = [], []
    for tolerance_px in (0.0, 0.5, 0.02):
        maps = predictor.dense_maps(POKES, 12, tolerance_px, criterion)
        errors.append(np.linalg.norm(maps.displacement_px[crop] - mean, axis=-1).mean())
        counts.append(maps.n_queried)
    assert counts[0] < counts[1] < counts[2]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < errors[0] / 4
    mask = (score > criterion.threshold_nats) & (likely >= criterion.least_probability)
    mask = mask.reshape(SIDE, SIDE)
    assert 0.1 < mask.mean() < 0.5
    ours = maps.parts.mask[crop]
    assert (ours & mask).sum() / (ours | mask).sum() > 0.95


def test_bad_tolerances_are_refused(predictor):
    for tolerance_px in (-1.0, float("nan")):
        with pytest.raises(InvalidInputError, match="tolerance_px must not be negative"):
            predictor.dense_maps(POKES, 8, tolerance_px)
