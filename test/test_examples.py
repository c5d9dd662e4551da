"""The example runs and writes its picture."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import FPT_SMALL
from fpt_ros.core.model import FlowPokeModel

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_what_if(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(weights, FlowPokeModel(FPT_SMALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fpt_ros.weights.default_checkpoint", lambda: weights)
    cv2.imwrite("photo.png", np.full((120, 160, 3), 90, np.uint8))
    monkeypatch.setattr(sys, "argv", ["what_if.py", "photo.png", "80", "60", "12", "0"])
    runpy.run_path(str(EXAMPLES / "what_if.py"))
    assert cv2.imread("what_if.png").shape[1] > 2 * 160
    assert "furthest to the left" in capsys.readouterr().out


def test_what_if_without_arguments_says_how_to_use_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["what_if.py"])
    with pytest.raises(SystemExit, match=r"what_if\.py photo\.jpg 320 240 60 0"):
        runpy.run_path(str(EXAMPLES / "what_if.py"))
