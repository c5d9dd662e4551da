"""`HeadConfig.stays`: one component says "does not move", the others are as without it."""

import dataclasses

import pytest
import torch

from fpt_ros.core.config import FPT_SMALL, HeadConfig
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel

HEAD = HeadConfig(n_components=3, flow_scale=10.0, min_std=0.006, poke_relative=True)


def mixture(raw: torch.Tensor, stays: bool):
    torch.manual_seed(0)
    head = dataclasses.replace(HEAD, stays=stays)
    return FlowPokeModel(dataclasses.replace(FPT_SMALL, head=head)).mixture(raw)


def test_first_component_is_pinned():
    raw = torch.randn(5, 18)
    pinned, free = mixture(raw, stays=True), mixture(raw, stays=False)
    assert (pinned.means[:, 0] == 0).all()
    expected = (0.006 - 1e-5) * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(pinned.scale_tril[:, 0], expected.expand(5, 2, 2))
    torch.testing.assert_close(pinned.log_weights, free.log_weights)
    torch.testing.assert_close(pinned.means[:, 1:], free.means[:, 1:])
    torch.testing.assert_close(pinned.scale_tril[:, 1:], free.scale_tril[:, 1:])


def test_likelihood_of_staying_depends_on_the_weights_alone():
    raw = torch.randn(5, 18, requires_grad=True)
    still = torch.zeros(5, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mixture(raw, stays=True).log_prob(still).sum(), raw)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, [3, 4, 9, 10, 11]] == 0).all()  # its mean and its Cholesky entries
    assert (gradient[:, 0] > 0).all()


def test_needs_a_deviation():
    with pytest.raises(InvalidInputError, match="min_std"):
        HeadConfig(stays=True)
