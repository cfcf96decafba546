"""norm_by in one process; tests/nn/test_sync_norm.py has the exchange."""

import pytest
import torch

from rlv2v_fast import extension
from rlv2v_fast.ops.bn import normalize
from rlv2v_fast.ops.bn_relu import bn_relu
from rlv2v_fast.ops.bn_sync import is_shared, norm_by

BACKENDS = ["reference"] if extension.why_not_cpu() else ["cpp", "reference"]


@pytest.fixture
def tensors():
    """x, mean, var, weight, bias; a mean that is large beside the spread."""
    x = 100 + torch.randn(2, 3, 2, 4, 3, dtype=torch.float64)
    var, mean = torch.var_mean(x, dim=(0, 2, 3, 4), correction=0)
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    return tuple(t.detach().requires_grad_() for t in (x, mean, var, weight, bias))


def formula(x, mean, var, weight, bias):
    mean, var, weight, bias = (t.view(-1, 1, 1, 1) for t in (mean, var, weight, bias))
    return (x - mean) / (var + 1e-3).sqrt() * weight + bias


def by(x, *norm):
    return norm_by(*norm, 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_given_statistics_get_gradients_from_the_fused_operator(tensors, backend):
    def fused(*tensors):
        return bn_relu(tensors[0], by(*tensors), backend=backend)[0]

    y, wanted = fused(*tensors), formula(*tensors).relu()
    torch.testing.assert_close(y, wanted)
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, tensors, grad), torch.autograd.grad(wanted, tensors, grad))
    torch.autograd.gradgradcheck(fused, tensors)


def test_normalizing_by_them_is_the_formula_twice_differentiable(tensors):
    def affine(*tensors):
        return normalize(tensors[0], by(*tensors))

    torch.testing.assert_close(affine(*tensors), formula(*tensors))
    torch.autograd.gradcheck(affine, tensors)
    torch.autograd.gradgradcheck(affine, tensors)


def test_a_lone_process_shares_nothing():
    assert not is_shared()
