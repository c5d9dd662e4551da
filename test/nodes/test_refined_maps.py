"""The images of the node with and without refinement, against the predictor's maps."""

from dataclasses import replace

import numpy as np
import pytest

from fpt_ros.core.checkpoint import load_checkpoint
from fpt_ros.core.parts import PartCriterion
from fpt_ros.engines.choose import Service, Wish, torch_engine
from fpt_ros.params import Settings

pytest.importorskip("sensor_msgs.msg")

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fpt_ros.convert import Question
from fpt_ros.images import image_to_rgb
from fpt_ros.nodes.pipeline import MASK, SCORE, UNCERTAINTY, PredictorPipeline, Surroundings

PLAN = np.array([[30, 20, 6, 2]], np.float32)


def never(*_):
    raise AssertionError


@pytest.mark.parametrize("tolerance_px", [0.0, 0.05])
def test_images_are_the_maps_of_the_predictor(models, tolerance_px):
    checkpoint = load_checkpoint(models / "one.safetensors")
    settings = replace(
        Settings(),
        grid_size=6,
        refine_tolerance_px=tolerance_px,
        moving_part_threshold_nats=0.01,
        moving_part_probability=0.1,
    )
    surroundings = Surroundings(
        lambda: settings, lambda: {UNCERTAINTY, MASK, SCORE}, lambda: None, never, never, list
    )
    service = Service(torch_engine(checkpoint, Wish()), (), {}, {})
    pipeline = PredictorPipeline(checkpoint, service, surroundings, never)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    image = Image(height=48, width=64, encoding="bgr8", step=192, data=pixels.tobytes())

    outputs = pipeline.follow(image, pipeline.encode(image), Question(Header(), "", (PLAN,), None))

    frame = pipeline.predictor.encode_image(image_to_rgb(image))
    maps = pipeline.predictor.dense_maps(
        PLAN, 6, tolerance_px, PartCriterion(0.01, 0.1), frame=frame
    )
    assert (maps.n_queried > 36) == (tolerance_px > 0)
    for topic, expected in ((UNCERTAINTY, maps.uncertainty_px), (SCORE, maps.parts.score)):
        values = np.frombuffer(outputs[topic].data, np.float32).reshape(48, 64)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5)
    mask = np.frombuffer(outputs[MASK].data, np.uint8).reshape(48, 64) > 0
    assert 0 < mask.mean() < 0.75
    assert (mask == maps.parts.mask).mean() > 0.99
