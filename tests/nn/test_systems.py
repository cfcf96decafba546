"""Every public layer in PyTorch's other systems: meta device, export, tracing, FLOPs, determinism, copies, pickles."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from rlv2v_fast import extension
from rlv2v_fast.nn.blocks import RPB, URB, R
from rlv2v_fast.nn.convlstm import ConvLSTM

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ["reference", "cpp"] if extension.why_not_cpu() is None else ["reference"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::rlv2v_fast.ops.backends.BackendFallbackWarning", "ignore::DeprecationWarning"
)


class Sequence(nn.Module):
    """The output of a ConvLSTM."""

    def __init__(self, backend="auto"):
        super().__init__()
        self.layer = ConvLSTM(3, 8, 3, 2, batch_first=True, backend=backend)

    def forward(self, x):
        return self.layer(x)[0][0]


LAYERS = {
    "ConvLSTM": (Sequence, (2, 3, 3, 8, 6)),
    "R": (lambda backend="auto": R(3, 5, backend=backend), (2, 3, 3, 8, 6)),
    "RPB": (lambda backend="auto": RPB(3, 5, backend=backend), (2, 3, 3, 8, 6)),
    "URB": (lambda backend="auto": URB(3, 5, backend=backend), (2, 3, 3, 8, 6)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """What makes the layer for a backend, and an input."""
    make, shape = LAYERS[request.param]
    return make, torch.randn(shape)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_meta_device_gives_shapes(case, backend):
    make, x = case
    assert make(backend).to("meta")(x.to("meta")).shape == make(backend)(x).shape


def test_flops_are_counted(case):
    make, x = case
    counts = []
    for each in ("auto", "reference"):
        with FlopCounterMode(display=False) as counter:
            make(each)(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_traced_layer_checks_itself_with_gradients_on(case, backend):
    make, x = case
    layer = make(backend).eval()
    traced = torch.jit.trace(layer, (x,), check_trace=True)
    torch.testing.assert_close(traced(2 * x), layer(2 * x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["rlv2v_fast, torch", "torch, rlv2v_fast"])
def test_saved_programs_run_where_only_the_package_is_imported(order, tmp_path):
    for name, (make, shape) in LAYERS.items():
        layer, x = make().eval(), torch.randn(shape)
        torch.export.save(torch.export.export(layer, (x,)), tmp_path / f"{name}.pt2")
        torch.jit.trace(layer, (x,)).save(tmp_path / f"{name}.pt")
        torch.save((x, layer(x).detach()), tmp_path / f"{name}.values")
    code = (
        f"import {order}, pathlib\n"
        f"for path in pathlib.Path({str(tmp_path)!r}).glob('*.values'):\n"
        "    x, y = torch.load(path)\n"
        "    program = torch.export.load(path.with_suffix('.pt2')).module()\n"
        "    traced = torch.jit.load(path.with_suffix('.pt'))\n"
        "    for found in (program(x), traced(x)):\n"
        "        torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpointing_changes_no_gradient(case, backend):
    make, x = case
    layer = make(backend)
    grads = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        layer.zero_grad()
        run(x).square().sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_function_transforms_of_a_module(case, backend):
    make, x = case
    layer, wanted = make(backend).double().eval(), make("reference").double().eval()
    wanted.load_state_dict(layer.state_dict())
    x = x.double()

    def gradient(module):
        parameters = dict(module.named_parameters())

        def loss(parameters, x):
            return torch.func.functional_call(module, parameters, (x,)).square().sum()

        tangents = torch.ones_like(x)
        return torch.func.grad(loss)(parameters, x), torch.func.jvp(lambda x: loss(parameters, x), (x,), (tangents,))

    torch.testing.assert_close(gradient(layer), gradient(wanted))


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_and_pickles_are_the_same_layer(case, backend):
    make, x = case
    layer = make(backend).eval()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_deterministic_mode_is_borne(case, backend):
    make, x = case
    torch.use_deterministic_algorithms(True)
    try:
        make(backend)(x).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_sizes_may_be_numpy_integers():
    size = np.int64
    layer = ConvLSTM(size(3), [size(4), size(5)], (size(3), size(5)), size(2), batch_first=True)
    assert layer(torch.randn(1, 2, 3, 6, 6))[0][0].shape == (1, 2, 5, 6, 6)
    assert RPB(size(3), size(4))(torch.randn(1, 3, 2, 4, 4)).shape == (1, 4, 2, 2, 2)
    with pytest.raises(ValueError, match="input_dim must be a positive integer; got True"):
        ConvLSTM(True, 4, 3, 1)
