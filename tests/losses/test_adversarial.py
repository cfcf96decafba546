import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.losses.adversarial import KINDS, fake_loss, fooling_loss, r1_penalty, real_loss

LOGITS = [-3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.5]

# (kind, loss, what it is for one logit z): the closed forms, in Python's own arithmetic.
CLOSED_FORMS = [
    ("bce", real_loss, lambda z: -math.log(1 / (1 + math.exp(-z)))),
    ("bce", fake_loss, lambda z: -math.log(1 - 1 / (1 + math.exp(-z)))),
    ("bce", fooling_loss, lambda z: -math.log(1 / (1 + math.exp(-z)))),
    ("hinge", real_loss, lambda z: max(0.0, 1 - z)),
    ("hinge", fake_loss, lambda z: max(0.0, 1 + z)),
    ("hinge", fooling_loss, lambda z: -z),
    ("least_squares", real_loss, lambda z: (z - 1) ** 2),
    ("least_squares", fake_loss, lambda z: z**2),
    ("least_squares", fooling_loss, lambda z: (z - 1) ** 2),
]
# Derivatives in z of the same, away from the hinges' corners.
SLOPES = [
    ("bce", real_loss, lambda z: 1 / (1 + math.exp(-z)) - 1),
    ("bce", fake_loss, lambda z: 1 / (1 + math.exp(-z))),
    ("bce", fooling_loss, lambda z: 1 / (1 + math.exp(-z)) - 1),
    ("hinge", real_loss, lambda z: -1.0 if z < 1 else 0.0),
    ("hinge", fake_loss, lambda z: 1.0 if z > -1 else 0.0),
    ("hinge", fooling_loss, lambda z: -1.0),
    ("least_squares", real_loss, lambda z: 2 * (z - 1)),
    ("least_squares", fake_loss, lambda z: 2 * z),
    ("least_squares", fooling_loss, lambda z: 2 * (z - 1)),
]


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}-{case[1].__name__}") for case in cases]


@pytest.mark.parametrize(("kind", "loss", "formula"), named(CLOSED_FORMS))
def test_loss_of_each_logit_is_its_closed_form(kind, loss, formula):
    z = torch.tensor(LOGITS, dtype=torch.float64)
    expected = torch.tensor([formula(value) for value in LOGITS], dtype=torch.float64)
    torch.testing.assert_close(loss(z, kind), expected)


@pytest.mark.parametrize(("kind", "loss", "slope"), named(SLOPES))
def test_gradient_of_each_logit_is_its_derivative(kind, loss, slope):
    values = [-2.5, -0.5, 0.25, 2.0]
    z = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    loss(z, kind).sum().backward()
    torch.testing.assert_close(z.grad, torch.tensor([slope(value) for value in values], dtype=torch.float64))


@given(
    logits=st.lists(st.floats(-30, 30), min_size=1, max_size=6),
    target=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_bce_is_pytorchs_bce_with_logits(logits, target):
    z = torch.tensor(logits, dtype=torch.float64)
    ours = (real_loss if target else fake_loss)(z)
    expected = F.binary_cross_entropy_with_logits(z, torch.full_like(z, target), reduction="none")
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [real_loss, fake_loss, fooling_loss])
def test_losses_are_per_element(loss, kind):
    z = torch.randn(2, 3, 1, 2)
    losses = loss(z, kind)
    assert losses.shape == z.shape
    assert torch.equal(losses[1, 2], loss(z[1, 2], kind))


@pytest.mark.parametrize("kind", KINDS)
def test_descent_moves_real_and_fooling_logits_up_and_fake_down(kind):
    for loss, start, up in ((real_loss, -0.5, True), (fake_loss, 0.5, False), (fooling_loss, -0.5, True)):
        z = torch.tensor(start, requires_grad=True)
        loss(z, kind).backward()
        assert (-z.grad > 0) == up, loss.__name__


def test_bce_fooling_is_non_saturating():
    z = torch.tensor(-20.0, requires_grad=True)
    fooling_loss(z).backward()
    # log(1 - sigmoid(z)), the saturating form, has a slope of about -2e-9 here.
    assert z.grad.item() == pytest.approx(-1.0, abs=1e-6)


def test_hinge_spares_a_perfect_discriminator_not_its_generator():
    z = torch.tensor([2.0], requires_grad=True)
    (real_loss(z, "hinge") + fake_loss(-z, "hinge")).sum().backward()
    assert z.grad.item() == 0
    fooling = torch.tensor([5.0], requires_grad=True)
    fooling_loss(fooling, "hinge").sum().backward()
    assert fooling.grad.item() == -1


def test_bce_stays_finite_where_the_sigmoid_would_be_rounded():
    z = torch.tensor([-1e4, 1e4], requires_grad=True)
    losses = torch.cat([real_loss(z), fake_loss(z), fooling_loss(z)])
    assert losses.tolist() == [1e4, 0, 0, 1e4, 1e4, 0]
    losses.sum().backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("loss", [real_loss, fake_loss, fooling_loss])
def test_an_unknown_kind_is_named(loss):
    with pytest.raises(ValueError, match="kind must be one of bce, hinge, least_squares; got 'wasserstein'"):
        loss(torch.zeros(1), "wasserstein")


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    x = torch.randn(3, 2, 2, requires_grad=True)
    assert r1_penalty((x * weight).sum((1, 2)), x).item() == 0.5 * (1 + 4 + 0.25 + 9)


def test_r1_of_a_quadratic_discriminator_and_its_gradients():
    # D(x) = sum(a x^2) / 2 has gradient a x: the penalty is sum_bi (a_i x_bi)^2 / 2B.
    a = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((a * x**2).sum(1) / 2, x)
    assert penalty.item() == 0.5 * ((1 + 16 + 9) + (0.25 + 0 + 36)) / 2
    grad_a, grad_x = torch.autograd.grad(penalty, (a, x))
    torch.testing.assert_close(grad_a, (a * (x**2)).detach().sum(0) / 2)
    torch.testing.assert_close(grad_x, (a**2 * x).detach() / 2)


def test_r1_sums_over_logits_and_averages_over_samples():
    x = torch.ones(4, 2, 3, requires_grad=True)
    # Six patch logits a sample, each 2 x: gradient 2 everywhere, squared norm 6 * 4.
    assert r1_penalty(2 * x, x).item() == 12
    # A discriminator blind to half of the samples has half of the penalty.
    assert r1_penalty(2 * x * torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None, None], x).item() == 6


def test_r1_trains_the_discriminator_through_its_double_backward():
    layer = torch.nn.Linear(3, 1).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    r1_penalty(layer(x), x).backward()
    torch.testing.assert_close(layer.weight.grad, layer.weight.detach())
