"""Attention with gradients against the fused kernel without."""

import pytest
import torch
import torch.nn.functional as F

from fpt_ros.core.attention import attend


@pytest.mark.parametrize("scale", [None, 1.0])
def test_values_and_gradients_are_those_of_the_fused_kernel(scale):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    results = []
    for attention in (attend, F.scaled_dot_product_attention):
        leaves = [each.clone().requires_grad_() for each in inputs]
        mixed = attention(*leaves, scale=scale)
        results.append([mixed, *torch.autograd.grad((mixed * weights).sum(), leaves)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, scale=scale), results[0][0])
