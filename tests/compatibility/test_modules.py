"""Every public module in every feature of PyTorch, below and above the sizes at which a call takes another way.

docs/compatibility.md says what is to be seen: `fused` where operators of the package run, `called` where PyTorch's own
do. Where the page says `called`, an explicit backend has to refuse.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from rlv2v_fast import extension
from rlv2v_fast.ops.blocks import is_small
from rlv2v_fast.ops.causal_conv3d import is_worthwhile
from tests.compatibility.cases import LAYOUTS, MODULES, public_modules
from tests.compatibility.harness import CALLED, FUSED, PROGRAMS, Trial, close, page_table, trained

pytestmark = [
    pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu())),
    pytest.mark.filterwarnings(
        "ignore::rlv2v_fast.ops.backends.BackendFallbackWarning",
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore::torch.jit.TracerWarning",
    ),
]
FEATURES: dict[str, Callable[[Trial], None]] = {}
# Features that trace the module, in which no rule by size holds.
TRACED: set[str] = set()
# Features that are left out for modules that are composed of others.
COSTLY: set[str] = set()


def feature(name: str, *, traced: bool = False, costly: bool = False):
    """Register a test under the name of its row in docs/compatibility.md."""

    def register(test: Callable[[Trial], None]) -> Callable[[Trial], None]:
        FEATURES[name] = test
        if traced:
            TRACED.add(name)
        if costly:
            COSTLY.add(name)
        return test

    return register


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]


def leaves(module):
    """Submodules with parameters of their own, and the module itself where it has no others."""
    return [m for m in module.modules() if list(m.parameters(recurse=False))]


@feature("eager mode, with gradients")
def _(trial):
    trial.agree(trained)


@feature("hooks of all kinds on every submodule")
def _(trial):
    def run(module, x):
        calls = []
        for each in leaves(module):
            each.register_forward_hook(
                lambda m, inputs, output: 2 * output if isinstance(output, torch.Tensor) else None
            )
            each.register_forward_pre_hook(lambda m, inputs: calls.append(m))
            each.register_full_backward_hook(lambda m, *grads: calls.append("backward"))
            each.register_full_backward_pre_hook(lambda m, grads: calls.append("before backward"))
        found = trained(module, x)
        assert set(calls) == {*leaves(module), "backward", "before backward"}
        return found

    trial.agree(run)


@feature("hooks of all modules")
def _(trial):
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, inputs, output: calls.append(m))
    try:
        trial.agree(trained)
    finally:
        handle.remove()
    assert set(calls) >= set(convolutions(calls[-1]))


REPARAMETRIZATIONS = {
    "spectral_norm, old": spectral_norm,
    "weight_norm, old": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "pruning": lambda conv: prune.random_unstructured(conv, "weight", 0.5),
}


@feature("`spectral_norm`, `weight_norm` (old and new), pruning", costly=True)
def _(trial):
    for change in REPARAMETRIZATIONS.values():

        def run(module, x, change=change):
            torch.manual_seed(0)
            for conv in convolutions(module):
                change(conv)
            trained(module, x)
            return trained(module, x)

        trial.agree(run)


@feature("submodules of a class of one's own")
def _(trial):
    def run(module, x):
        for each in leaves(module):
            if not list(each.children()):
                kind = type(each)
                forward = lambda self, x, kind=kind: kind.forward(self, x) / 2  # noqa: E731
                each.__class__ = type("Own", (kind,), {"forward": forward})
        return trained(module, x)

    trial.agree(run)


@feature("`torch.utils.checkpoint`")
def _(trial):
    def run(module, x):
        # Computing again moves running statistics again, but for those after the last tensor that is needed.
        return trained(lambda_of(module, lambda x: checkpoint(module, x, use_reentrant=False)), x)[:2]

    trial.agree(run)


def lambda_of(module, function):
    """A module with the parameters and buffers of another, and a forward of its own."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return function(x)

    return Wrapped()


def functional(module):
    """The module as a loss of its parameters and its input, and its parameters."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    return lambda p, x: torch.func.functional_call(module, p, (x,)).square().sum(), parameters


@feature("`torch.func`: grad, vjp, jvp, jvp of grad", costly=True)
def _(trial):
    def run(module, x):
        loss, parameters = functional(module.eval())
        tangents = {name: torch.cos(p) for name, p in parameters.items()}, torch.cos(x)
        _, pull = torch.func.vjp(loss, parameters, x)
        one = torch.ones((), dtype=x.dtype)
        by_input = torch.func.grad(lambda x: loss(parameters, x))
        return (
            torch.func.grad(loss)(parameters, x),
            pull(one),
            torch.func.jvp(loss, (parameters, x), tangents),
            torch.func.jvp(by_input, (x,), (torch.cos(x),)),
        )

    trial.agree(run)


@feature("forward mode (`torch.autograd.forward_ad`)", costly=True)
def _(trial):
    def run(module, x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(module(forward_ad.make_dual(x, torch.cos(x)))).tangent

    trial.agree(run)


@feature("`torch.vmap`, gradients of each sample", costly=True)
def _(trial):
    def run(module, x):
        loss, parameters = functional(module.eval())
        many = torch.stack([x, 2 * x])
        return torch.vmap(module)(many), torch.vmap(torch.func.grad(loss), (None, 0))(parameters, many)

    trial.agree(run)


@feature("`torch.compile(fullgraph=True)`", traced=True, costly=True)
def _(trial):
    torch.compiler.reset()
    ours, wanted = trial.pair()
    x = trial.input()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    trained(compiled, x)
    trained(wanted, x)
    with trial.watch():
        found = trained(compiled, x)
    close(found[:2], trained(wanted, x)[:2])
    close(dict(ours.named_buffers()), dict(wanted.named_buffers()))


@feature("`torch.export`, dynamic sizes", traced=True, costly=True)
def _(trial):
    ours, wanted = (module.eval() for module in trial.pair(torch.float32))
    sizes = {dim: torch.export.Dim(f"d{dim}") for dim in (0, *trial.case.dynamic)}
    program = torch.export.export(ours, (torch.randn(trial.case.shape),), dynamic_shapes=(sizes,)).module()
    longer = list(trial.shape)
    for dim in trial.case.dynamic:
        longer[dim] += 1
    for shape in (trial.shape, longer):
        x = torch.randn(shape)
        with trial.watch():
            found = program(x)
        close(found, wanted(x))


@feature("`torch.jit.trace`", costly=True)
def _(trial):
    ours, wanted = (module.eval() for module in trial.pair(torch.float32))
    x = trial.input(torch.float32)
    traced = torch.jit.trace(ours, (x,), check_trace=True)
    with trial.watch():
        found = traced(x / 2)
    close(found, wanted(x / 2))


@feature("FSDP2 (`fully_shard`) of every submodule")
def _(trial, mesh):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    ours, wanted = trial.pair(torch.float32)
    # From the innermost out: a module shards what its submodules have not.
    for each in reversed(leaves(ours)):
        fsdp.fully_shard(each, mesh=mesh)
    if not isinstance(ours, fsdp.FSDPModule):
        fsdp.fully_shard(ours, mesh=mesh)
    x = trial.input(torch.float32)
    with trial.watch():
        y = ours(x)
        y.square().sum().backward()
    expected = wanted(x)
    close(y, expected)
    expected.square().sum().backward()
    for mine, theirs in zip(ours.parameters(), wanted.parameters(), strict=True):
        close(mine.grad.full_tensor(), theirs.grad, rtol=1e-3, atol=1e-3 * float(theirs.grad.abs().max()))


@feature("the meta device")
def _(trial):
    x = trial.input()
    module = trial.module().to("meta")
    with trial.watch():
        found = module(x.to("meta"))
    assert found.shape == trial.module()(x).shape


@feature("deepcopy, pickle")
def _(trial):
    module, x = trial.module(), trial.input()
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    wanted = trained(module, x)
    for each in copies:
        with trial.watch():
            found = trained(each, x)
        close(found, wanted, rtol=0, atol=0)


def in_dtype(trial, dtype, context=None):
    """Assert that in dtype the error against float64 is within twice that of PyTorch's own kernels."""
    ours, wanted = trial.pair(torch.float32)
    x = trial.input(torch.float32)
    with context or torch.autograd.set_grad_enabled(True):
        if context is None:
            ours, wanted, x = ours.to(dtype), wanted.to(dtype), x.to(dtype)
        # The weights as dtype has them: rounding those is no error of a kernel.
        exact = copy.deepcopy(wanted).double()
        with trial.watch():
            found = ours(x)
            found.square().mean().backward()
        expected = wanted(x)
    truth = exact(x.double())
    assert found.dtype == expected.dtype
    assert all(p.grad.isfinite().all() for p in ours.parameters())
    if context is None and dtype == torch.float32:
        # ConvLSTM and the causal convolution state bounds of their own.
        close(found.double(), truth, rtol=1e-5, atol=1e-5)
        return
    off = [float((y.double() - truth).norm() / truth.norm()) for y in (found, expected)]
    assert off[0] <= 2 * max(off[1], torch.finfo(dtype).eps)


@feature("float32")
def _(trial):
    in_dtype(trial, torch.float32)


@feature("bfloat16")
def _(trial):
    in_dtype(trial, torch.bfloat16)


@feature("float16")
def _(trial):
    in_dtype(trial, torch.float16)


@feature("autocast to bfloat16")
def _(trial):
    in_dtype(trial, torch.bfloat16, torch.autocast("cpu", torch.bfloat16))


@feature("channels_last, transposed, sliced, expanded", costly=True)
def _(trial):
    for change in LAYOUTS.values():
        trial.agree(lambda module, x, change=change: trained(module, change(x)))


@feature("`torch.use_deterministic_algorithms`", costly=True)
def _(trial):
    module, x = trial.module().eval(), trial.input()
    torch.use_deterministic_algorithms(True)
    try:
        with trial.watch():
            close(trained(module, x), trained(module, x), rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


@feature("`FlopCounterMode` (it hooks all modules)")
def _(trial):
    def run(module, x):
        # It imports Triton, which tests/kernels must do first.
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            trained(module, x)
        return counter.get_total_flops()

    trial.agree(run)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """A mesh of this process alone."""
    if not torch.distributed.is_available():
        pytest.skip("PyTorch was built without torch.distributed")
    file = tmp_path_factory.mktemp("mesh") / "rendezvous"
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def trials() -> Iterator:
    """By id: the feature, the module, and the backend and size of the trial."""
    for name in FEATURES:
        for module, case in MODULES.items():
            if case.composed and name in COSTLY:
                continue
            for backend in case.backends:
                sizes = ["small", "large"] if backend == "auto" and case.growth else ["small"]
                for size in sizes:
                    yield pytest.param(name, module, backend, size, id=f"{name}-{module}-{backend}-{size}")


@pytest.mark.parametrize(("name", "module", "backend", "size"), list(trials()))
def test_a_module_does_what_the_page_says(name, module, backend, size, monkeypatch, request):
    monkeypatch.undo()  # the rules by size as users have them
    torch.manual_seed(0)
    case = MODULES[module]
    trial = Trial(case, backend, case.shape_above() if size == "large" else case.shape)
    run = FEATURES[name]
    if name.startswith("FSDP2"):
        arguments = (trial, request.getfixturevalue("mesh"))
    else:
        arguments = (trial,)
    said = page_table()[name][module]
    if backend == "auto":
        run(*arguments)
        left_to_pytorch = case.growth and size == "small" and name not in TRACED
        assert trial.verdict == (CALLED if left_to_pytorch else said)
    elif said == FUSED:
        run(*arguments)
        assert trial.verdict == FUSED
    else:
        with pytest.raises(RuntimeError, match="backend='cpp' cannot run"):
            run(*arguments)


def test_every_public_module_is_tried():
    assert public_modules() == set(MODULES)


def test_the_page_has_every_feature_and_module():
    table = page_table()
    assert list(table) == [*FEATURES, *PROGRAMS]
    assert all(list(row) == list(MODULES) for row in table.values())
    left_out = {(name, module) for name, row in table.items() for module, said in row.items() if said == "–"}
    composed = [module for module, case in MODULES.items() if case.composed]
    assert left_out == {(name, module) for name in (*COSTLY, *PROGRAMS) for module in composed}


@pytest.mark.parametrize("name", [name for name, case in MODULES.items() if case.growth])
def test_the_shapes_lie_on_both_sides_of_the_rules(name, monkeypatch):
    monkeypatch.undo()
    case = MODULES[name]
    for shape, small in ((case.shape, True), (case.shape_above(), False)):
        sizes = []
        module = case.make("reference")
        module.bn1.register_forward_pre_hook(lambda m, inputs, sizes=sizes: sizes.append(inputs[0]))
        x = torch.randn(shape)
        module(x)
        assert is_small(sizes[0]) is small
        assert not is_worthwhile(x, module.conv1.weight, upsample=name == "URB")
