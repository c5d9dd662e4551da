"""The objective equals its definition: one separate question for every nested set and query."""

import pytest
import torch

from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.batches import Batch
from fpt_ros.train.loss import Objective, PartLoss, to_model_range

VIEWS, OUTCOMES, POKES, QUERIES = 2, 3, 3, 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        DinoEncoderConfig(input_px=28, width=16, depth=1, heads=2, position_grid=2),
        TransformerConfig(width=16, depth=2, d_head=8),
        HeadConfig(n_components=2),
    )
    model = FlowPokeModel(config)
    for parameter in model.parameters():  # no zero initialisation that would hide a path
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(*shape, 2, generator=generator)

    rows = (VIEWS, OUTCOMES)
    return Batch(
        image=torch.randint(0, 256, (VIEWS, 3, 28, 28), dtype=torch.uint8, generator=generator),
        camera_static=torch.tensor([True, False]),
        poke_xy=draw(*rows, POKES),
        poke_flow=draw(*rows, POKES) - 0.5,
        query_xy=draw(*rows, POKES + 1, QUERIES),
        query_flow=draw(*rows, POKES + 1, QUERIES) - 0.5,
        query_moves=torch.ones(*rows, POKES + 1, QUERIES, dtype=torch.bool),
        part_xy=draw(VIEWS, 6),
        part=torch.tensor([[0, 0, 1, 1, 2, 2], [0] * 6]),
        n_skipped=0,
    )


def separate_questions(model, batch):
    """Mean -log p with every image, outcome, set and query asked on its own."""
    losses = []
    for view in range(VIEWS):
        context = model.encode(to_model_range(batch.image[view : view + 1]))
        static = batch.camera_static[view : view + 1]
        for outcome in range(OUTCOMES):
            for group in range(POKES + 1):
                xy = batch.poke_xy[view, outcome, :group][None, None]
                flow = batch.poke_flow[view, outcome, :group][None, None]
                pokes = model.condition(context, xy, flow, None, static)
                for query in range(QUERIES):
                    point = batch.query_xy[view, outcome, group, query].view(1, 1, 1, 2)
                    target = batch.query_flow[view, outcome, group, query].double()
                    mixture = model.mixture(model.query(context, pokes, point))
                    losses.append(-mixture.log_prob(target).squeeze())
    return torch.stack(losses).mean()


def test_loss_and_gradient_equal_separate_questions(model, batch):
    loss, measures = Objective(model)(batch)
    truth = separate_questions(model, batch)
    torch.testing.assert_close(loss, truth, rtol=1e-5, atol=1e-5, check_dtype=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss, parameters, allow_unused=True)
    theirs = torch.autograd.grad(truth, parameters, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        if other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
    assert all(torch.isfinite(value) for value in measures.values())


def test_a_set_does_not_see_later_pokes(model, batch):
    def group_losses():
        raw = model(
            to_model_range(batch.image),
            batch.poke_xy,
            batch.poke_flow,
            batch.query_xy,
            batch.camera_static,
        )
        return raw.detach()

    before = group_losses()
    batch.poke_flow[:, :, 1] += 0.3
    changed = (group_losses() - before).abs().amax(dim=(0, 1, 3, 4))
    assert changed[:2].max() < 1e-6
    assert changed[2:].min() > 1e-4


def test_part_loss_equals_its_definition():
    """Every pair of points on its own; the last view is empty but for the world."""
    torch.manual_seed(0)
    loss = PartLoss(channels=5)
    features = torch.randn(3, 6, 5)
    part = torch.tensor([[0, 0, 1, 1, 2, 1], [0, 1, 1, 2, 2, 2], [0] * 6])
    views = []
    for view in range(3):
        alike, different, movable = [], [], []
        for i in range(6):
            truth = float(part[view, i] > 0)
            p = loss.movable(features[view, i]).sigmoid()
            movable.append(-(truth * p.log() + (1 - truth) * (1 - p).log()))
            for j in range(6):
                if i == j or part[view, i] == part[view, j] == 0:
                    continue
                a, b = (loss.embed(features[view, k]) for k in (i, j))
                cosine = a @ b / a.norm() / b.norm()
                p = (loss.sharpness * cosine + loss.same_bias).sigmoid()
                if part[view, i] == part[view, j]:
                    alike.append(-p.log())
                else:
                    different.append(-(1 - p).log())
        means = [sum(each) / max(1, len(each)) for each in (alike, different, movable)]
        views.append(sum(means).squeeze() / 2)
    torch.testing.assert_close(loss(features, part), torch.stack(views).mean())


def test_part_loss_reaches_the_encoder_only(model, batch):
    plain = Objective(model)(batch)[0]
    torch.manual_seed(0)
    objective = Objective(model, part_weight=0.5)
    total, measures = objective(batch)
    torch.testing.assert_close(total - plain, 0.5 * measures["part"], check_dtype=False)
    others = [p for p in model.transformer.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total - plain, others, allow_unused=True)
    assert all(each is None or each.abs().max() < 1e-6 for each in gradients)
