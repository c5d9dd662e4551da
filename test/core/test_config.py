"""Shapes of networks: validation and the JSON round trip."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpt_ros.core.config import (
    FPT_BASE,
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    PyramidEncoderConfig,
    TransformerConfig,
)
from fpt_ros.core.errors import InvalidInputError


@pytest.mark.parametrize("config", [FPT_BASE, FPT_SMALL], ids=["base", "small"])
def test_presets_survive_json(config):
    assert ModelConfig.from_json(config.to_json()) == config


@given(
    heads=st.integers(1, 16),
    d_head=st.integers(1, 32).map(lambda n: 4 * n),
    depth=st.integers(1, 24),
    scale=st.floats(1e-2, 1e3),
    relative=st.booleans(),
)
def test_any_config_survives_json(heads, d_head, depth, scale, relative):
    config = ModelConfig(
        PyramidEncoderConfig(depth=depth),
        TransformerConfig(heads * d_head, depth, d_head),
        HeadConfig(flow_scale=scale, min_std=0.1, poke_relative=relative),
    )
    assert ModelConfig.from_json(config.to_json()) == config
    assert config.transformer.heads == heads


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DinoEncoderConfig(input_px=450), "multiple of patch_px"),
        (lambda: DinoEncoderConfig(heads=7), "multiple of heads"),
        (lambda: DinoEncoderConfig(depth=0), "depth must be an integer"),
        (lambda: DinoEncoderConfig(width=768.0), "width must be an integer"),
        (lambda: DinoEncoderConfig(registers=True), "registers must be an integer"),
        (lambda: PyramidEncoderConfig(input_px=200), "multiple of 16"),
        (lambda: PyramidEncoderConfig(heads=5), "multiple of heads"),
        (lambda: PyramidEncoderConfig(width=10**9), "width must be an integer"),
        (lambda: TransformerConfig(width=100), "multiple of d_head"),
        (lambda: TransformerConfig(width=126, d_head=63), "multiple of 4"),
        (lambda: TransformerConfig(project_cross=1), "true or false"),
        (lambda: HeadConfig(n_components=0), "n_components"),
        (lambda: HeadConfig(flow_scale=float("nan")), "flow_scale must be finite"),
        (lambda: HeadConfig(flow_scale="1"), "flow_scale must be a number"),
        (lambda: HeadConfig(min_std=1e-6), "min_std"),
        (lambda: DinoEncoderConfig(input_px=1400, patch_px=1, width=1, heads=1), "tokens"),
        (lambda: PyramidEncoderConfig(input_px=4096, width_at_2=16384), "stride 2 is too large"),
    ],
)
def test_impossible_shapes_are_refused(build, message):
    with pytest.raises(InvalidInputError, match=message):
        build()


def changed(section, **values):
    tree = json.loads(FPT_BASE.to_json())
    tree[section] = {**tree[section], **values}
    return json.dumps(tree)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        changed("encoder", kind="resnet"),
        changed("encoder", kind=["dino"]),
        changed("transformer", layers=3),
        changed("transformer", width="768"),
        changed("head", n_components=None),
        json.dumps({"encoder": 3, "transformer": {}, "head": {}}),
        json.dumps({**json.loads(FPT_BASE.to_json()), "optimizer": {}}),
    ],
)
def test_foreign_json_is_refused(text):
    with pytest.raises(InvalidInputError):
        ModelConfig.from_json(text)


def test_missing_fields_take_their_defaults():
    text = json.dumps({"encoder": {"kind": "dino"}, "transformer": {}, "head": {}})
    assert ModelConfig.from_json(text) == FPT_BASE
