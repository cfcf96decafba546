"""Every operator under transforms of torch.func and in forward mode: what its reference gives, by its own kernels."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from rlv2v_fast import extension
from rlv2v_fast.ops import schemas
from rlv2v_fast.ops.bn import Norm
from rlv2v_fast.ops.bn_add_relu import bn_add_relu
from rlv2v_fast.ops.bn_add_relu_pool import bn_add_relu_pool
from rlv2v_fast.ops.bn_relu import bn_relu
from rlv2v_fast.ops.convlstm import convlstm
from rlv2v_fast.ops.convlstm_gates import convlstm_gates

pytestmark = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def clip_and_norms(x, skip, weight, bias):
    return x, skip, Norm(weight, bias, eps=1e-3), Norm(weight * 2, bias - 1, eps=1e-3)


# By name: the operator as a function of tensors that all have a gradient, a backend, and those tensors.
OPERATORS = {
    "convlstm": (lambda *t, backend: convlstm(*t, backend=backend), lambda: (
        draw(1, 2, 2, 3, 3), draw(4, 3, 3, 3), draw(4), draw(1, 1, 3, 3), draw(1, 1, 3, 3))),
    "convlstm low": (lambda *t, backend: convlstm(*t, backend=backend, memory="low"), lambda: (
        draw(1, 2, 2, 3, 3), draw(4, 3, 3, 3), draw(4))),
    "convlstm_gates": (lambda *t, backend: convlstm_gates(*t, backend=backend), lambda: (
        draw(1, 8, 2, 3), draw(1, 2, 2, 3))),
    "bn_relu": (lambda x, w, b, backend: bn_relu(x, Norm(w, b), backend=backend)[:1], lambda: (
        draw(2, 2, 1, 2, 3), draw(2), draw(2))),
    "bn_relu frozen": (
        lambda x, w, b, backend: bn_relu(x, Norm(w, b, torch.zeros_like(w), torch.ones_like(w)), backend=backend)[:1],
        lambda: (draw(2, 2, 1, 2, 3), draw(2), draw(2))),
    "bn_relu per frame": (
        lambda x, w, b, backend: bn_relu(x, Norm(w, b, per_frame=True), backend=backend)[:1],
        lambda: (draw(1, 2, 2, 2, 3), draw(2), draw(2))),
    "bn_add_relu": (lambda *t, backend: bn_add_relu(*clip_and_norms(*t)[:3], backend=backend)[:1], lambda: (
        draw(2, 2, 1, 2, 2), draw(2, 2, 1, 1, 1), draw(2), draw(2))),
    "bn_add_relu post": (lambda *t, backend: bn_add_relu(*clip_and_norms(*t), backend=backend)[:1], lambda: (
        draw(2, 2, 1, 2, 3), draw(2, 2, 1, 2, 3), draw(2), draw(2))),
    "bn_add_relu_pool": (lambda *t, backend: bn_add_relu_pool(*clip_and_norms(*t), backend=backend)[:1], lambda: (
        draw(2, 2, 1, 2, 4), draw(2, 2, 1, 2, 4), draw(2), draw(2))),
}  # fmt: skip


@pytest.fixture(params=OPERATORS)
def case(request):
    """The fused operator and its reference as functions of tensors, and such tensors."""
    function, make = OPERATORS[request.param]
    return (
        lambda *tensors: function(*tensors, backend="cpp"),
        lambda *tensors: function(*tensors, backend="reference"),
        make(),
    )


def scalar(function):
    return lambda *tensors: sum(result.tanh().sum() for result in function(*tensors))


def agree(transform, case):
    fused, reference, tensors = case
    torch.testing.assert_close(transform(fused, tensors), transform(reference, tensors), rtol=1e-8, atol=1e-8)


def everywhere(tensors):
    return tuple(range(len(tensors)))


def test_func_grad(case):
    agree(lambda f, tensors: torch.func.grad(scalar(f), everywhere(tensors))(*tensors), case)


def test_func_vjp(case):
    agree(lambda f, tensors: torch.func.vjp(scalar(f), *tensors)[1](torch.ones((), dtype=torch.float64)), case)


def test_func_jvp(case):
    tangents = [torch.randn_like(t) for t in case[2]]
    agree(lambda f, tensors: torch.func.jvp(f, tensors, tuple(tangents))[1], case)


def test_func_jvp_of_one_input(case):
    tangent = torch.randn_like(case[2][0])
    agree(lambda f, t: torch.func.jvp(lambda x: f(x, *t[1:]), (t[0],), (tangent,))[1], case)


def test_forward_mode(case):
    tangents = [torch.randn_like(t) for t in case[2]]

    def tangents_of_results(f, tensors):
        with forward_ad.dual_level():
            results = f(*(forward_ad.make_dual(*pair) for pair in zip(tensors, tangents, strict=True)))
            return [forward_ad.unpack_dual(result).tangent for result in results]

    agree(tangents_of_results, case)


def test_jacrev_and_jacfwd(case):
    agree(lambda f, tensors: torch.func.jacrev(f, everywhere(tensors))(*tensors), case)
    agree(lambda f, tensors: torch.func.jacfwd(f, everywhere(tensors))(*tensors), case)


def test_hessian(case):
    fused, reference, tensors = case

    def of_two(function):
        return lambda x, w: scalar(function)(x, w, *tensors[2:])

    # By reverse mode twice: under torch.vmap the second derivative of PyTorch's own batch_norm is wrong (torch 2.13).
    wanted = torch.autograd.functional.hessian(of_two(reference), tensors[:2])
    torch.testing.assert_close(torch.func.hessian(of_two(fused), (0, 1))(*tensors[:2]), wanted, rtol=1e-8, atol=1e-8)


def test_gradients_of_gradients(case):
    def penalty(f, tensors):
        def size(*tensors):
            return sum(g.square().sum() for g in torch.func.grad(scalar(f), everywhere(tensors))(*tensors))

        return torch.func.grad(size, everywhere(tensors))(*tensors)

    agree(penalty, case)


def test_forward_over_reverse(case):
    tangents = tuple(torch.randn_like(t) for t in case[2])

    def product(f, tensors):
        return torch.func.jvp(torch.func.grad(scalar(f), everywhere(tensors)), tensors, tangents)[1]

    agree(product, case)


def test_vmap(case):
    many = tuple(torch.stack([t, 2 * t, -t]) for t in case[2])
    agree(lambda f, _: torch.vmap(f)(*many), case)


def test_vmap_of_channels_last_clips():
    x, weight, bias = draw(3, 2, 2, 1, 4, 4), draw(2), draw(2)
    last = torch.stack([clip.contiguous(memory_format=torch.channels_last_3d) for clip in x])

    def relu(x):
        return bn_relu(x, Norm(weight, bias), backend="cpp")[0]

    torch.testing.assert_close(torch.vmap(relu)(last), torch.vmap(relu)(x))


def test_vmap_over_nothing_is_refused():
    x, weight, bias = draw(0, 2, 2, 1, 4, 4), draw(2), draw(2)
    with pytest.raises(
        ValueError, match=r"at least one element for rlv2v_fast::bn_relu_fwd, or use backend='reference'"
    ):
        torch.vmap(lambda x: bn_relu(x, Norm(weight, bias), backend="cpp")[0])(x)


def test_gradients_of_each_sample(case):
    many = torch.stack([case[2][0], -case[2][0]])
    in_dims = (0, *(None for _ in case[2][1:]))
    agree(lambda f, t: torch.vmap(torch.func.grad(scalar(f), everywhere(t)), in_dims)(many, *t[1:]), case)


def test_make_fx_records_the_operator(case):
    fused, _, tensors = case
    graph = make_fx(torch.func.grad(scalar(fused), everywhere(tensors)))(*tensors)
    assert f"{schemas.NAMESPACE}." in str(graph.graph)
    torch.testing.assert_close(graph(*tensors), torch.func.grad(scalar(fused), everywhere(tensors))(*tensors))


def test_checkpoint(case):
    fused, _, tensors = case
    leaves = [t.clone().requires_grad_() for t in tensors]
    found = torch.autograd.grad(checkpoint(scalar(fused), *leaves, use_reentrant=False), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(scalar(fused)(*leaves), leaves))


def test_compiled_gradient(case):
    torch.compiler.reset()
    fused, _, tensors = case
    leaves = [t.clone().requires_grad_() for t in tensors]
    compiled = torch.compile(scalar(fused), fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(scalar(fused)(*leaves), leaves))


def test_compiled_func_grad_is_right_or_refused(case):
    torch.compiler.reset()
    fused, _, tensors = case
    function = torch.func.grad(scalar(fused))
    try:
        found = torch.compile(function, backend="aot_eager")(*tensors)
    except Exception as error:
        pytest.skip(f"refused: {type(error).__name__}")
    torch.testing.assert_close(found, function(*tensors))
