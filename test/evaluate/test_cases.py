"""Pictures of the best and worst samples: which are chosen, and that they show what they should."""

import cv2
import numpy as np
import pytest
import torch

from fpt_ros.core.config import HeadConfig, ModelConfig, PyramidEncoderConfig, TransformerConfig
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.evaluate import cases
from fpt_ros.evaluate.runner import MODEL, TestSample


def records(errors):
    """Records at one poke from key: (scene, error of the model, error of rest)."""
    rows = []
    for key, (scene, own, still) in errors.items():
        for method, error in ((MODEL, own), ("no motion", still)):
            row = {"pokes": 1, "key": key, "scene": scene, "method": method}
            rows += [row | {"epe_moving_px": error}, row | {"pokes": 2, "epe_moving_px": 0.0}]
    return rows


def test_ranked_by_what_is_left_of_the_motion_and_one_per_scene():
    errors = {
        "a": ("s1", 5.0, 10.0),
        "b": ("s1", 1.0, 10.0),
        "c": ("s2", 4.0, 5.0),
        "d": ("s3", 30.0, 20.0),
        "e": ("s4", 8.0, 80.0),
    }
    assert cases.best_and_worst(records(errors), n=2) == (["b", "e"], ["d", "c"])
    few = {key: errors[key] for key in "bd"}
    assert cases.best_and_worst(records(few), n=2) == (["b", "d"], [])
    assert cases.best_and_worst([]) == ([], [])
    one_scene_is_enough = {
        "best": ("s1", 1.0, 10.0),
        "2nd": ("s1", 2.0, 10.0),
        "3rd": ("s1", 3.0, 10.0),
        "worst": ("s2", 9.0, 10.0),
    }
    assert cases.best_and_worst(records(one_scene_is_enough), n=2) == (["best", "worst"], ["3rd"])


@pytest.fixture
def sample():
    flow = np.zeros((8, 8, 2), np.float32)
    flow[2:5, 3:6] = (0.2, 0.0)
    image = np.full((48, 48, 3), 90, np.uint8)
    valid, part = np.ones((8, 8), bool), np.zeros((8, 8), np.int16)
    return TestSample("k", "toy", "s", image, flow, valid, part, True)


def test_the_truth_is_tinted_where_it_moves(tmp_path, sample):
    torch.manual_seed(0)
    encoder = PyramidEncoderConfig(input_px=32, width=8, depth=1, heads=1)
    model = FlowPokeModel(
        ModelConfig(encoder, TransformerConfig(8, 1, 8), HeadConfig(n_components=2))
    )
    written = cases.save(tmp_path, MotionPredictor(TorchEngine(model)), [sample], ["k"], [])
    assert written == [tmp_path / "best.jpg"]
    sheet = cv2.imread(str(written[0]))
    panel = sheet[-390:-6, 6 : 6 + 384]  # the first of three, below its caption
    corner, part = panel[40, 40].astype(int), panel[110, 170].astype(int)
    assert abs(corner - 90).max() < 12
    assert part[0] - part[2] > 30  # the tint of parts is blue; the picture is stored as BGR
