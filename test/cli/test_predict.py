"""`fpt predict` from a file to a picture and numbers."""

import json

import cv2
import numpy as np
import pytest
import torch

from fpt_ros import cli
from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.predictor import MotionPredictor

POKE = [60.0, 40.0, 12.0, -6.0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an image and weights."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = ModelConfig(
        DinoEncoderConfig(input_px=56, width=32, depth=1, heads=2, position_grid=4),
        TransformerConfig(width=32, depth=1, d_head=16),
        HeadConfig(n_components=2),
    )
    save_checkpoint("weights.safetensors", FlowPokeModel(config), horizon_s=0.5)
    image = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    cv2.imwrite("image.png", image[..., ::-1])
    return tmp_path


def run(*arguments):
    return cli.main(
        ["predict", "image.png", "--checkpoint", "weights.safetensors", "--grid", "6", *arguments]
    )


def test_a_picture_and_the_same_numbers_as_the_python_interface(folder, capsys):
    poke = ",".join(map(str, POKE))
    assert run("--poke", poke, "--at", "5,5", "--out", "a.png", "--json", "a.json") == 0
    answer = json.loads((folder / "a.json").read_text())
    predictor = MotionPredictor.from_checkpoint("weights.safetensors")
    predictor.set_image(cv2.imread("image.png")[..., ::-1])
    mixture = predictor.predict([POKE], [POKE[:2]]).mixture
    assert answer["status"] == "OK"
    assert answer["horizon_s"] == 0.5
    assert answer["roi"] == {"x": 20, "y": 0, "side": 100}
    assert answer["pokes"] == [POKE]
    touched, corner = answer["points"]
    assert touched["mean_px"] == pytest.approx(mixture.mean()[0].tolist(), rel=1e-4)
    assert touched["covariances_px2"][0] == pytest.approx(
        mixture.covariances[0, 0].tolist(), rel=1e-4
    )
    assert sum(mode["weight"] for mode in touched["modes"]) == pytest.approx(1)
    assert corner == {"x": 5.0, "y": 5.0, "flags": ["OUTSIDE_ROI"]}
    grid = answer["grid"]
    assert grid["points_per_side"] == 6
    assert grid["largest_influence_nats"] == pytest.approx(
        predictor.influence([POKE], 6).max(), rel=1e-3, abs=1e-5
    )
    # Two by two panels of the image, enlarged five times.
    height, width = cv2.imread("a.png").shape[:2]
    assert height > 2 * 500
    assert width > 2 * 700
    text = capsys.readouterr().out
    assert "point (60, 40): mean" in text
    assert "point (5, 5): no prediction, OUTSIDE_ROI" in text


def test_without_pokes_it_tells_what_happens_of_itself(folder):
    assert run() == 0
    assert cv2.imread("prediction.png").shape[1] > 2 * 700


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--poke", "1,2,3"], "--poke x,y,dx,dy takes 4 numbers with commas between, got '1,2,3'"),
        (["--at", "a,b"], "--at x,y takes 2 numbers"),
        (["--poke", "60,40,nan,0"], "pokes[0] is not finite"),
        (["--poke", "5,5,0,0"], "outside the square that the model sees"),
        (["--grid", "0"], "grid"),
        (["--threshold-nats", "-1"], "threshold_nats must not be negative"),
        (["--least-probability", "2"], "least_probability must be in [0, 1], got 2"),
        (["--device", "nonsense"], "device 'nonsense' is none"),
        (["--checkpoint", "none.safetensors"], "none.safetensors: no such file"),
        (["--checkpoint", "image.png"], "image.png: neither a safetensors file"),
        (["--out", "picture.unknown"], "cannot write picture.unknown"),
        (["--out", "no/folder/a.png"], "No such file or directory: 'no/folder/a.png'"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(folder, capsys, arguments, message):
    assert run(*arguments) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.startswith("fpt predict: ")
    assert text.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_unreadable_images(folder, capsys, content):
    (folder / "image.png").unlink()
    if content is not None:
        (folder / "image.png").write_bytes(content)
    assert run() == 2
    assert "image.png" in capsys.readouterr().err
