"""Operators made from schemas and a formula, on a toy: z = scale (x + shift)^2, scale; w = sin x."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from rlv2v_fast.ops.register import Operator
from rlv2v_fast.ops.schemas import LIBRARY, SCHEMAS, Schema, define

define("toy_fwd(Tensor x, Tensor? shift, Tensor? scale) -> (Tensor z, Tensor w, Tensor scale, Tensor[] parts)")
define(
    "toy_bwd(Tensor? grad_z, Tensor grad_w, Tensor x, Tensor? shift, Tensor scale, Tensor[] parts, bool given,"
    " bool need_shift) -> (Tensor grad_x, Tensor grad_shift)"
)
# Arguments of each call of the backward.
CALLS = []


def forward(x, shift, scale):
    measured = x.mean() if scale is None else x.new_empty(0)
    moved = x.clone() if shift is None else x + shift
    return (measured if scale is None else scale) * moved.square(), x.sin(), measured, [moved, x.cos()]


def backward(grad_z, grad_w, x, shift, scale, parts, given, need_shift):
    CALLS.append((grad_z, grad_w, parts, given, need_shift))
    moved, cosine = parts
    grad_x = grad_w * cosine
    through_z = torch.zeros_like(x) if grad_z is None else grad_z * 2 * scale * moved
    grad_x = grad_x + through_z
    if grad_z is not None and not given:
        grad_x = grad_x + (grad_z * moved.square()).sum() / x.numel()
    return grad_x, through_z if need_shift else x.new_empty(0)


def fake(v):
    return (
        v.x.new_empty(v.x.shape),
        v.x.new_empty(v.x.shape),
        v.x.new_empty(() if v.scale is None else 0),
        [v.x.new_empty(v.x.shape) for _ in range(2)],
    )


def formula(v):
    scale = v.scale.detach() if v.given else v.x.mean()
    moved = v.x if v.shift is None else v.x + v.shift
    return scale * moved.square(), v.x.sin()


LIBRARY.impl("toy_fwd", forward, "CompositeExplicitAutograd")
LIBRARY.impl("toy_bwd", backward, "CompositeExplicitAutograd")
toy = Operator("toy", fake=fake, reference=formula, arguments=lambda given, results: {"given": given.scale is not None})


@pytest.fixture
def x():
    return torch.randn(2, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_first_and_second_derivatives(x, shifted, given):
    shift = torch.randn(2, 3, dtype=torch.float64, requires_grad=True) if shifted else None
    scale = torch.tensor(1.5, dtype=torch.float64) if given else None
    inputs = (x, shift) if shifted else (x,)

    def results(x, shift=None):
        return toy(x, shift, scale)[:2]

    torch.autograd.gradcheck(results, inputs)
    torch.autograd.gradgradcheck(results, inputs)


def test_third_derivative(x):
    found = []
    for function in (lambda x: toy(x, None, None)[0], lambda x: x.mean() * x.square()):
        total = function(x).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(total, x, create_graph=True)
            total = grad.square().sum()
        found.append(grad)
    torch.testing.assert_close(*found)


def test_a_gradient_that_did_not_arrive_is_none_where_it_may_be(x):
    CALLS.clear()
    toy(x, None, None)[1].sum().backward()
    toy(x, None, None)[0].sum().backward()
    (no_z, all_w, *_), (all_z, zero_w, *_) = CALLS
    assert no_z is None
    assert zero_w is not None
    assert not zero_w.any()
    assert all_w.all()
    assert all_z.all()


def test_only_gradients_that_somebody_wants_are_asked_for(x):
    CALLS.clear()
    shift = torch.ones(2, 3, dtype=torch.float64)
    for wanted in (False, True):
        z = toy(x, shift.requires_grad_(wanted), None)[0]
        z.sum().backward()
    assert [call[4] for call in CALLS] == [False, True]


def test_a_list_of_tensors_comes_back_as_a_list(x):
    CALLS.clear()
    toy(x, None, None)[0].sum().backward()
    assert isinstance(CALLS[0][2], (list, tuple))
    torch.testing.assert_close(CALLS[0][2][1], x.detach().cos())


def test_results_without_a_gradient_need_none(x):
    z, w, scale, parts = toy(x, None, None)
    assert [t.requires_grad for t in (z, w, scale, *parts)] == [True, True, False, False, False]


def test_saved_tensors_are_read_once_as_checkpoints_demand(x):
    checkpoint(lambda x: toy(x, None, None)[0].sum(), x, use_reentrant=False).backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(toy(x, None, None)[0].sum(), x)[0])


def test_sixteen_bits_are_differentiated_twice_in_float32():
    x = torch.randn(64, dtype=torch.float16, requires_grad=True)
    (grad,) = torch.autograd.grad(toy(x, None, torch.tensor(1.0, dtype=torch.float16))[0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert second.dtype == torch.float16
    assert (second == 2).all()


def test_every_operator_traces_with_its_derivatives(x):
    compiled = torch.compile(lambda x: toy(x, None, None)[0].square().sum(), fullgraph=True, backend="aot_eager")
    compiled(x).backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(toy(x, None, None)[0].square().sum(), x)[0])


def test_a_schema_is_read_by_name_and_type():
    text = "f(Tensor? x, float eps) -> (Tensor y, Tensor[] kept)"
    assert Schema.parse(text) == Schema(
        text, "f", {"x": "Tensor?", "eps": "float"}, {"y": "Tensor", "kept": "Tensor[]"}
    )
    with pytest.raises(ValueError, match=r"text must read 'name\(Type argument"):
        Schema.parse("f(Tensor x)")


def test_every_backward_names_only_what_its_forward_has():
    """A name that fits nothing would be found at the first gradient only."""
    pairs = [(s, SCHEMAS[f"{name[:-4]}_bwd"]) for name, s in SCHEMAS.items() if name.endswith("_fwd")]
    assert len(pairs) >= 7
    for forward, backward in pairs:
        assert {n[5:] for n in backward.results} <= set(forward.arguments), backward.name
        grads = [n[5:] for n in backward.arguments if n.startswith("grad_")]
        needs = [n[5:] for n in backward.arguments if n.startswith("need_")]
        assert set(grads) <= set(forward.results), backward.name
        assert set(needs) <= set(forward.arguments), backward.name
