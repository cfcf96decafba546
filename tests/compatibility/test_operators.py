"""Every operator in every feature of PyTorch: what its reference gives, by its own kernels.

A line in OPERATORS gives an operator all of it.
"""

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
from rlv2v_fast.ops.causal_conv3d import causal_conv3d
from rlv2v_fast.ops.convlstm import convlstm
from rlv2v_fast.ops.convlstm_gates import convlstm_gates
from rlv2v_fast.ops.pixel_map import PixelMapConstants, PixelMapParameters, pixel_map
from rlv2v_fast.ops.upsample_conv import upsample_conv
from tests.compatibility.cases import LAYOUTS
from tests.compatibility.harness import watching

pytestmark = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))


# What an explicit backend says where a compiler traces a transform.
NOT_TRACED = r"cannot trace an operator under torch\.func or in forward mode; use backend='reference'"


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def clip_and_norms(x, skip, weight, bias):
    return x, skip, Norm(weight, bias, eps=1e-3), Norm(weight * 2, bias - 1, eps=1e-3)


def mapped(frames, *parameters, backend):
    constants = PixelMapConstants(gain=0.5, speed=2.0, slope=0.2, clamp=False)
    return (pixel_map(frames, PixelMapParameters(*parameters), constants, backend=backend),)


# By name: the operator as a function of tensors that all have a gradient, a backend, and those tensors.
OPERATORS = {
    # exact: Winograd's algorithm, float32 only, has an error bound of its own.
    "convlstm": (lambda *t, backend: convlstm(*t, backend=backend, exact=True), lambda: (
        draw(1, 2, 2, 3, 3), draw(4, 3, 3, 3), draw(4), draw(1, 1, 3, 3), draw(1, 1, 3, 3))),
    "convlstm low": (lambda *t, backend: convlstm(*t, backend=backend, exact=True, memory="low"), lambda: (
        draw(1, 2, 2, 3, 3), draw(4, 3, 3, 3), draw(4))),
    "convlstm_gates": (lambda *t, backend: convlstm_gates(*t, backend=backend), lambda: (
        draw(1, 8, 2, 3), draw(1, 2, 2, 3))),
    "causal_conv3d": (lambda *t, backend: causal_conv3d(*t, backend=backend, exact=True)[:1], lambda: (
        draw(1, 2, 2, 3, 3), draw(2, 2, 3, 3, 3), draw(2), draw(1, 2, 2, 3, 3))),
    "causal_conv3d upsampled": (lambda *t, backend: upsample_conv(*t, backend=backend, exact=True)[:1], lambda: (
        draw(1, 2, 2, 2, 1), draw(1, 2, 3, 3, 3))),
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
    "pixel_map": (mapped, lambda: (
        draw(1, 3, 2, 3).tanh(), draw(2, 5), draw(2), draw(4, 7), draw(4), draw(4, 4), draw(4), draw(4, 4), draw(4),
        draw(6, 4), draw(6), draw(3, 2, 2, 2))),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _compiled_anew():
    torch.compiler.reset()


@pytest.fixture(params=OPERATORS)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    """The fused operator and its reference as functions of tensors, and such tensors."""
    function, make = OPERATORS[name]
    return (
        lambda *tensors: function(*tensors, backend="cpp"),
        lambda *tensors: function(*tensors, backend="reference"),
        make(),
    )


def scalar(function):
    return lambda *tensors: sum(result.tanh().sum() for result in function(*tensors))


def agree(transform, case):
    fused, reference, tensors = case
    with watching() as seen:
        found = transform(fused, tensors)
    assert seen, "no fused operator ran"
    torch.testing.assert_close(found, transform(reference, tensors), rtol=1e-8, atol=1e-8)


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


def test_forward_over_reverse_of_one_argument_alone(case):
    def product(f, tensors, argnum):
        def gradient(one):
            return torch.func.grad(scalar(f), argnum)(*tensors[:argnum], one, *tensors[argnum + 1 :])

        return torch.func.jvp(gradient, (tensors[argnum],), (torch.cos(tensors[argnum]),))[1]

    for argnum in everywhere(case[2]):
        agree(lambda f, tensors, argnum=argnum: product(f, tensors, argnum), case)


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
    fused, _, tensors = case
    leaves = [t.clone().requires_grad_() for t in tensors]
    compiled = torch.compile(scalar(fused), fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(scalar(fused)(*leaves), leaves))


def test_compiled_transforms_are_right_in_a_whole_graph(name):
    function, make = OPERATORS[name]
    gradient = torch.func.grad(scalar(lambda *t: function(*t, backend="auto")))
    tensors = make()
    compiled = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), gradient(*tensors))


def test_a_whole_graph_refuses_transforms_of_a_fused_operator(case):
    fused, _, tensors = case
    compiled = torch.compile(torch.func.grad(scalar(fused)), backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=NOT_TRACED):
        compiled(*tensors)


def test_compiled_transforms_of_a_fused_operator_run_eagerly():
    function, make = OPERATORS["convlstm"]
    tensors, gradient = make(), torch.func.grad(scalar(lambda *t: function(*t, backend="cpp")))
    with watching() as seen:
        found = torch.compile(gradient, backend="aot_eager")(*tensors)
    assert seen
    torch.testing.assert_close(found, gradient(*tensors))


def test_compiled_forward_mode_is_right_or_refused(name):
    function, make = OPERATORS[name]
    tensors = make()

    def tangents(f):
        with forward_ad.dual_level():
            return [
                forward_ad.unpack_dual(y).tangent for y in f(*(forward_ad.make_dual(t, torch.cos(t)) for t in tensors))
            ]

    compiled = torch.compile(lambda *t: function(*t, backend="auto"), backend="aot_eager")
    torch.testing.assert_close(tangents(compiled), tangents(lambda *t: function(*t, backend="cpp")))
    with pytest.raises(RuntimeError, match=NOT_TRACED):
        tangents(torch.compile(lambda *t: function(*t, backend="cpp"), backend="aot_eager"))


class Function(torch.nn.Module):
    """A function as a module, which exporters want."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def test_export_and_trace_run_the_operator(case):
    fused, _, tensors = case
    program = torch.export.export(Function(fused), tensors).module()
    traced = torch.jit.trace(Function(fused), tensors)
    for each in (program, traced):
        with watching() as seen:
            found = each(*tensors)
        assert seen
        torch.testing.assert_close(tuple(found), tuple(fused(*tensors)))


def test_an_export_that_differentiates_inside_is_refused(case):
    # PyTorch exports no transform of any function rightly: constants take the place of what was computed.
    gradient = torch.func.grad(scalar(case[0]))
    with pytest.raises(RuntimeError, match=NOT_TRACED):
        torch.export.export(Function(gradient), case[2])


def test_flops_are_those_of_the_reference(case):
    counts = []
    for function in case[:2]:
        leaves = [t.clone().requires_grad_() for t in case[2]]
        # It imports Triton, which tests/kernels must do first.
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            scalar(function)(*leaves).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_meta_tensors_give_shapes(name):
    function, make = OPERATORS[name]
    tensors = make()
    found = function(*(t.to("meta") for t in tensors), backend="auto")
    assert [y.shape for y in found] == [y.shape for y in function(*tensors, backend="cpp")]
    with pytest.raises(RuntimeError, match="the C\\+\\+ operators run on cpu and cuda, not on meta"):
        function(*(t.to("meta") for t in tensors), backend="cpp")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_is_right_or_refused_with_a_sentence(case, name, dtype):
    fused, reference, tensors = case
    rounded = [t.to(dtype) for t in tensors]
    if dtype != torch.float32 and name.startswith(("convlstm_gates", "pixel_map")):
        sentence = r"the C\+\+ kernel takes float32 and float64|c must be torch.float32 beside"
        with pytest.raises((RuntimeError, ValueError), match=sentence):
            fused(*rounded)
        return
    found = fused(*rounded)
    exact = reference(*(t.double() for t in rounded))
    for ours, pytorch, truth in zip(found, reference(*rounded), exact, strict=True):
        off = [float((y.double() - truth).norm() / truth.norm()) for y in (ours, pytorch)]
        assert off[0] <= 2 * max(off[1], torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_of_every_tensor(case, layout):
    def gradients(f, tensors):
        leaves = [layout(t).detach().requires_grad_() if t.dim() > 1 else t for t in tensors]
        results = f(*leaves)
        return results, torch.autograd.grad(
            sum(y.tanh().sum() for y in results), [t for t in leaves if t.requires_grad]
        )

    agree(gradients, case)


def test_deterministic_mode_gives_the_same_bits(case):
    fused, _, tensors = case
    gradient = torch.func.grad(scalar(fused), everywhere(tensors))
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(gradient(*tensors), gradient(*tensors), rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_profile_names_forward_and_backward(name):
    function, make = OPERATORS[name]
    leaves = [t.requires_grad_() for t in make()]
    with watching() as seen:
        scalar(lambda *t: function(*t, backend="cpp"))(*leaves).backward()
    operator = name.partition(" ")[0]
    assert seen == {f"{schemas.NAMESPACE}::{operator}_fwd", f"{schemas.NAMESPACE}::{operator}_bwd"}


def test_every_operator_is_tried():
    tried = {f"{name.partition(' ')[0]}_{way}" for name in OPERATORS for way in ("fwd", "bwd")}
    # Statistics have no gradient; Triton's operators need a GPU or its interpreter (tests/kernels).
    rest = {name for name in schemas.SCHEMAS if "triton" in name or name == "bn_stats" or name.startswith("toy")}
    assert tried | rest == set(schemas.SCHEMAS)
