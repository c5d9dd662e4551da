"""The whole way in small: scenes, training, evaluation. What is learned must beat doing nothing."""

import json

from fpt_ros.cli import main
from fpt_ros.core.config import HeadConfig, ModelConfig, PyramidEncoderConfig, TransformerConfig

TINY = ModelConfig(
    PyramidEncoderConfig(64, 8, 16, 24, width=32, depth=1, heads=1, mlp_ratio=2),
    TransformerConfig(width=32, depth=2, d_head=16, ff_expand=2, project_cross=True),
    HeadConfig(n_components=3, flow_scale=10.0, min_std=6e-3, poke_relative=True, stays=True),
)


def fpt(*arguments: object) -> None:
    assert main([*map(str, arguments)]) == 0


def test_a_tiny_model_beats_no_motion_on_scenes_it_has_not_seen(tmp_path):
    data, run, report = tmp_path / "data", tmp_path / "run", tmp_path / "report"
    size = ("--image-px", 64, "--grid", 32, "--views", 4, "--outcomes", 2, "--workers", 1)
    size += ("--families", "lever_panel", "plug_board", "hook_rail")
    for split, n in (("train", 128), ("val", 48)):
        count = ("--count", n, "--samples-per-shard", n)
        fpt("scenes", "--out", data, "--split", split, "--seed", 1, *count, *size)
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    steps = ("--steps", 200, "--batch", 8, "--learning-rate", 2e-3, "--ema", 0.98)
    where = ("--data", data, "--out", run, "--model", tmp_path / "tiny.json")
    fpt("train", *where, *steps, "--precision", "fp32", "--threads", 1, "--val-grid", 16)
    fpt(
        *("evaluate", "--data", data, "--split", "val", "--views", 12, "--outcomes", 1),
        *("--checkpoint", run / "last.safetensors", "--poke-counts", 0, 1, "--out", report),
    )
    summary = json.loads((report / "report.json").read_text())["summary"]
    mean = {(row["pokes"], row["method"], row["measure"]): row["mean"] for row in summary}
    # It knows nothing at its start: 100 % of the motion is left as error.
    assert mean[1, "model", "epe_moving_px"] < 0.8 * mean[1, "no motion", "epe_moving_px"]
    assert mean[1, "model", "nll_moving"] < mean[0, "model", "nll_moving"] - 0.5
    assert (report / "best.jpg").exists()
