"""`fpt evaluate` as a command: what it leaves behind when it cannot go on."""

import json

import numpy as np
import pytest
import torch

from fpt_ros.cli import main
from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import HeadConfig, ModelConfig, PyramidEncoderConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.data.tarfiles import add_file, jpeg, new_shard, npz
from fpt_ros.evaluate import baselines

GRID = 8


@pytest.fixture
def command(tmp_path):
    """Arguments that measure untrained weights on three scenes."""
    torch.manual_seed(0)
    encoder = PyramidEncoderConfig(input_px=32, width=8, depth=1, heads=1)
    model = FlowPokeModel(
        ModelConfig(encoder, TransformerConfig(8, 1, 8), HeadConfig(n_components=2))
    )
    save_checkpoint(tmp_path / "w.safetensors", model, horizon_s=1.0)
    part = np.zeros((GRID, GRID), np.int16)
    part[2:6, 2:6] = 1
    flow = (part[None, ..., None] * np.array([0.1, 0.0])).astype(np.float16)
    with new_shard(tmp_path / "val-0.tar") as tar:
        for scene in range(3):
            about = {"family": "toy", "scene_seed": scene, "view": 0, "camera_static": True}
            facts = json.dumps({**about, "horizon_s": [1.0]})
            add_file(tar, f"{scene}.jpg", jpeg(np.full((32, 32, 3), 90, np.uint8)))
            add_file(tar, f"{scene}.json", facts.encode())
            add_file(tar, f"{scene}.npz", npz(flow=flow, part=part))
    data = ("evaluate", "--data", str(tmp_path), "--split", "val", "--poke-counts", "1")
    return [*data, "--checkpoint", str(tmp_path / "w.safetensors"), "--out"]


def test_stopped_in_the_second_scene_it_reports_the_first(command, tmp_path, monkeypatch):
    calls = []

    def ctrl_c(name, image, poke_xy, poke_flow, query_xy):
        calls.append(name)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return np.zeros_like(query_xy)

    monkeypatch.setattr(baselines, "predict", ctrl_c)
    out = tmp_path / "report"
    assert main([*command, str(out)]) == 130
    document = json.loads((out / "report.json").read_text())
    assert {record["key"] for record in document["records"]} == {"0"}
    assert len(document["records"]) == 1 + len(baselines.BASELINES)
    assert "stopped early: 1 of about 3 samples" in (out / "report.md").read_text()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(FlowPokeModel, "encode", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    assert main([*command, str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
