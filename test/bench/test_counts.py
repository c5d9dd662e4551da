"""The counts against those that PyTorch makes while the network runs, and against its weights."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fpt_ros.bench import counts
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.joint import sample_jointly, step_slices


def counted(run):
    # The counter overlooks the fused attention of CPUs.
    counter = FlopCounterMode(display=False, depth=0)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops()


def test_encoding(model):
    side = model.config.encoder.input_px
    flops = counted(lambda: model.encode(torch.zeros(1, 3, side, side)))
    assert counts.encode(model.config).flops == flops


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize(("past", "pokes", "points"), [(0, 4, 0), (5, 0, 9), (0, 0, 9), (5, 1, 1)])
def test_pokes_and_points(model, candidates, past, pokes, points):
    side = model.config.encoder.input_px
    with torch.inference_mode():
        image = model.encode(torch.zeros(1, 3, side, side))
        before = torch.rand(1, candidates, past, 2)
        context = model.condition(image, before, before)
    new, asked = torch.rand(1, candidates, pokes, 2), torch.rand(1, candidates, points, 2)
    flops = counted(lambda: model.extend(image, context, new, new, asked))
    assert counts.advance(model.config, candidates, past, pokes, points).flops == flops


def test_joint_sampling(model):
    engine, points = TorchEngine(model), torch.rand(9, 2)
    side = model.config.encoder.input_px
    image = engine.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    static, pokes = torch.ones(1, dtype=torch.bool), torch.rand(2, 2)
    flops = counted(
        lambda: sample_jointly(engine, image, pokes, pokes, points, 1, static, points_per_step=4)
    )
    assert counts.joint(model.config, 2, step_slices(9, 4)).flops == flops


def test_weights_are_read_once(model):
    config, used = model.config, {}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not any(
            part in name for part in ("token", "position", "pos_e", "cond_emb", "freqs")
        ):
            used[name] = parameter.numel()
    if not config.transformer.project_cross:
        used = {name: numel for name, numel in used.items() if "cross_out" not in name}
    body, tokens = config.transformer, counts.image_tokens(config)
    keys = 2 * body.depth * tokens * body.width
    encode, advance = counts.encode(config), counts.advance(config, 1, 0, 1, 1)
    outputs = model.out_mlp[-1].out_features
    moved = 3 * config.encoder.input_px**2 + 2 * keys + 2 * body.depth * body.width + outputs
    assert encode.numbers + advance.numbers == sum(used.values()) + moved
