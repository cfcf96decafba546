"""What a user did to a submodule is honoured: its call runs, or an explicit backend says why it cannot."""

import copy
import types

import pytest
import torch
from torch import nn

from rlv2v_fast import extension
from rlv2v_fast.nn.blocks import RPB, URB, R
from rlv2v_fast.nn.convlstm import ConvLSTM, ConvLSTMCell
from rlv2v_fast.nn.plain import why_not_plain
from rlv2v_fast.ops import backends
from rlv2v_fast.ops.backends import BackendFallbackWarning

pytestmark = [
    pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu())),
    pytest.mark.filterwarnings("ignore::rlv2v_fast.ops.backends.BackendFallbackWarning"),
]
BLOCKS = [R, RPB, URB]


def layer(**options):
    torch.manual_seed(0)
    return ConvLSTM(3, 8, 3, 2, batch_first=True, **options).double()


@pytest.fixture
def clip():
    return torch.randn(1, 2, 3, 6, 6, dtype=torch.float64)


def halve(module, arguments, output):
    return output / 2


def halved_forward(self, x):
    return type(self).forward(self, x) / 2


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


def subclassed(conv):
    conv.__class__ = Halved


# Each makes a convolution give half of what it gave.
HALVINGS = {
    "forward hook": lambda conv: conv.register_forward_hook(halve),
    "forward pre-hook": lambda conv: conv.register_forward_pre_hook(lambda m, a: (a[0] / 2,)),
    "patched forward": lambda conv: setattr(conv, "forward", types.MethodType(halved_forward, conv)),
    "subclass": subclassed,
}


@pytest.mark.parametrize("halve", HALVINGS.values(), ids=HALVINGS)
def test_what_a_convolution_of_a_cell_gives_is_honoured(halve, clip):
    changed, wanted = layer(bias=False), layer(bias=False)
    halve(changed.cell_list[0].conv)
    with torch.no_grad():
        wanted.cell_list[0].conv.weight /= 2
    torch.testing.assert_close(changed(clip)[0][0], wanted(clip)[0][0])


@pytest.mark.parametrize("attribute", [("padding_mode", "circular"), ("dilation", (2, 2)), ("padding", (0, 0))])
def test_a_changed_attribute_of_the_convolution_is_honoured(attribute, clip):
    changed = layer()
    conv = changed.cell_list[0].conv
    setattr(conv, *attribute)
    if attribute[0] == "padding_mode":
        conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
        assert not torch.allclose(changed(clip)[0][0], layer()(clip)[0][0])
    elif attribute[0] == "dilation":
        conv.padding = (2, 2)
        assert not torch.allclose(changed(clip)[0][0], layer()(clip)[0][0])
    else:
        with pytest.raises(RuntimeError, match="size of tensor"):
            changed(clip)


def test_a_cell_of_ones_own_is_called_at_every_step(clip):
    class Doubled(ConvLSTMCell):
        def forward(self, input_tensor, cur_state):
            h, c = super().forward(input_tensor, cur_state)
            return 2 * h, c

    changed, wanted = layer(), layer()
    own = Doubled(3, 8, 3).double()
    own.load_state_dict(changed.cell_list[0].state_dict())
    changed.cell_list[0] = own
    h, c = wanted.cell_list[0].init_hidden(1, (6, 6))
    outputs = []
    for frame in clip.unbind(1):
        h, c = wanted.cell_list[0](frame, (h, c))
        h = 2 * h
        outputs.append(h)
    torch.testing.assert_close(changed(clip)[0][0], wanted.cell_list[1].sequence(torch.stack(outputs, 1))[0])


def test_hooks_of_a_cell_run_at_every_step(clip):
    changed, seen = layer(), []
    changed.cell_list[1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    output = changed(clip, lengths=torch.tensor([2]))[0][0]
    assert len(seen) == 2
    torch.testing.assert_close(output, layer()(clip)[0][0])


def test_a_method_set_on_a_class_is_honoured(clip, monkeypatch):
    wanted = layer()(clip)[0][0]
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, weight, bias: x.new_zeros(1, 32, 6, 6))
    assert not torch.equal(layer()(clip)[0][0], wanted)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", ["conv1", "conv2", "skip", "bn1", "bn2"])
def test_hooks_inside_a_block_run_in_clip_and_stream(kind, name):
    block = kind(2, 3).double().eval()
    seen = []
    getattr(block, name).register_forward_hook(lambda module, arguments, output: seen.append(1) or 2 * output)
    x = torch.randn(1, 2, 5, 4, 4, dtype=torch.float64)
    whole, state, parts = block(x), None, []
    assert len(seen) == 1
    for piece in x.split([1, 2, 2], dim=2):
        y, state = block.stream(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 2), whole)
    assert not torch.allclose(whole, copy.deepcopy(kind(2, 3).double().eval())(x))


@pytest.mark.parametrize("backend", ["cpp", "triton"])
def test_an_explicit_backend_refuses_what_it_cannot_honour(backend, clip):
    changed = layer(backend=backend)
    changed.cell_list[0].conv.register_forward_hook(halve)
    with pytest.raises(RuntimeError, match="cannot run convlstm: the Conv2d has hooks, which only calling it runs"):
        changed(clip)


@pytest.mark.filterwarnings("default")
def test_the_fallback_is_said_once(clip):
    backends._warned.clear()
    changed = layer()
    changed.cell_list[0].conv.register_forward_hook(halve)
    with pytest.warns(BackendFallbackWarning, match="the Conv2d has hooks") as caught:
        _ = [changed(clip) for _ in range(2)]
    assert len(caught) == 1


def test_a_changed_attribute_of_a_causal_convolution_is_named():
    block = R(2, 3)
    block.conv1.padding_mode = "reflect"
    with pytest.raises(
        ValueError, match=r"padding_mode must be 1, 1, 1 and 'zeros' in a CausalConv3d; got .* 'reflect'"
    ):
        block(torch.zeros(1, 2, 2, 4, 4))


NORMS = {
    "not tracking, idiom": lambda norm: setattr(norm, "track_running_stats", False),
    "no bias": lambda norm: norm.register_parameter("bias", None),
    "no counter": lambda norm: setattr(norm, "num_batches_tracked", None),
    "no counter, cumulative": lambda norm: (
        setattr(norm, "num_batches_tracked", None), setattr(norm, "momentum", None)),
    "no weight": lambda norm: norm.register_parameter("weight", None),
    "momentum 0": lambda norm: setattr(norm, "momentum", 0.0),
    "no statistics": lambda norm: (setattr(norm, "running_mean", None), setattr(norm, "running_var", None)),
}  # fmt: skip


@pytest.mark.parametrize("change", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_normalization_is_batchnorm_whatever_was_set(kind, training, change):
    found = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(1)
        block = kind(2, 3, backend=backend).double()
        for name, norm in block.named_children():
            if name.startswith("bn"):
                change(norm)
        x = torch.randn(2, 2, 3, 6, 4, dtype=torch.float64)
        first = block(x)
        block.train(training)
        found.append((first, block(x), dict(block.named_buffers())))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda block: block.train(), "bn2 cannot be folded into conv2: it is in training mode"),
        (lambda block: setattr(block.bn2, "running_var", None), "bn2 cannot be folded into conv2: it has no running"),
        (lambda block: block.conv2.register_forward_hook(halve), "conv2: the CausalConv3d has hooks"),
        (lambda block: block.bn2.register_forward_hook(halve), "conv2: the BatchNorm3d has hooks"),
    ],
)
def test_fuse_names_what_it_cannot_fold_and_folds_nothing(change, reason):
    block = R(2, 3).eval()
    change(block)
    block.bn1.eval()
    with pytest.raises(RuntimeError, match=reason):
        block.fuse()
    assert isinstance(block.bn1, nn.BatchNorm3d)


def test_the_check_costs_little_beside_a_call():
    """Counted, not timed: it reads attributes, and makes no tensor."""
    conv = nn.Conv2d(1, 1, 1)
    with torch.profiler.profile() as profile:
        assert why_not_plain(conv, nn.Conv2d) is None
    assert not [event for event in profile.key_averages() if event.key.startswith("aten::")]


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this process alone."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("PyTorch was built without torch.distributed")
    distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("shards", [["cell_list.0.conv"], ["cell_list.0"], ["cell_list.0.conv", "cell_list.1"], []])
def test_modules_sharded_by_fsdp_are_called(shards, mesh, clip):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    sharded, wanted = layer().float(), layer().float()
    for name in shards:
        fsdp.fully_shard(sharded.get_submodule(name), mesh=mesh)
    fsdp.fully_shard(sharded, mesh=mesh)
    outputs = [each(clip.float())[0][0] for each in (sharded, wanted)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(sharded.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, rtol=1e-3, atol=1e-4)
