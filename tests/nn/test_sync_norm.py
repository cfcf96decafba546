"""Two processes with synchronized batch normalization against one that has the whole batch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rlv2v_fast.nn.blocks import RPB, URB, R
from rlv2v_fast.nn.norm import SyncBatchNorm
from rlv2v_fast.ops import backends
from rlv2v_fast.ops.backends import BackendFallbackWarning

WORKER = Path(__file__).with_name("sync_worker.py")
ROOT = WORKER.parents[2]
spec = importlib.util.spec_from_file_location("sync_worker", WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch was built without torch.distributed")


def run_together(folder, processes=2, device="cpu", backends="fused,reference"):
    """What each of some processes found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    running = []
    for rank in range(processes):
        command = [sys.executable, WORKER, str(rank), str(processes), folder, device, backends]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        messages = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, messages
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """One start of the processes for every case: starting them is what takes time."""
    return run_together(tmp_path_factory.mktemp("gloo"))


def merged(parts):
    """What the processes found, as one would have: clips joined, gradients of parameters added."""
    whole = {}
    for name, tensor in parts[0].items():
        every = [part[name] for part in parts]
        if " sum " in name:
            whole[name] = sum(every)
        elif name.startswith("same "):
            assert all(torch.equal(tensor, other) for other in every), name
            whole[name] = tensor
        else:
            whole[name] = torch.cat(every)
    return whole


def alone(name, dtype, draw=0):
    """What one process with plain batch normalization finds on the whole batch."""
    kind, _, layout, options, shares, _ = worker.cases()[name]
    block, clips = worker.build(kind, "reference", options, dtype, draw), worker.batch(layout, shares, dtype, draw)
    return worker.results(block, clips)


def check_exactly(parts):
    names = [name for name in parts[0] if name.endswith("float64")]
    assert names
    for name in names:
        found, wanted = merged([part[name][0] for part in parts]), alone(name, "float64")
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


RUN = [name for name in worker.cases() if "compiled" not in name]


@pytest.mark.parametrize("name", [name for name in RUN if name.endswith("float64")])
def test_processes_together_are_one_with_the_whole_batch(together, name):
    check_exactly([{name: part[name]} for part in together])


@pytest.mark.slow
def test_exchanges_are_captured_by_torch_compile(tmp_path):
    check_exactly(run_together(tmp_path, backends="compiled"))


@pytest.mark.parametrize("name", [name for name in RUN if not name.endswith("float64")])
def test_lower_precision_is_as_near_the_truth_as_pytorch_alone(together, name):
    precision = name.split(", ")[-1]
    unit = torch.finfo(getattr(torch, precision)).eps
    ours, pytorchs = [], []
    for draw, parts in enumerate(zip(*(part[name] for part in together), strict=True)):
        truth = alone(name, "float64", draw)
        ours.append(relative_errors(merged(parts), truth))
        pytorchs.append(relative_errors(alone(name, precision, draw), truth))
    for what in ours[0]:
        error, pytorch_error = (torch.stack([draw[what] for draw in draws]).mean().sqrt() for draws in (ours, pytorchs))
        # And a sum over processes of what each has rounded.
        assert error <= max(3 * pytorch_error, 8 * unit), what


def relative_errors(found, truth):
    """Mean square of each tensor's error over that of the tensor: a ReLU decided the other way is one large error.

    Without second derivatives, which are judged in double precision.
    """
    names = [name for name in found if "penalty" not in name]
    return {n: (found[n].double() - truth[n]).square().mean() / truth[n].double().square().mean() for n in names}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_gpus_together_are_one_with_the_whole_batch(tmp_path):
    check_exactly(run_together(tmp_path, 2, "cuda", "reference"))


@pytest.mark.gpu
def test_a_group_of_one_gpu_is_plain_batch_normalization(tmp_path):
    check_exactly(run_together(tmp_path, 1, "cuda", "reference"))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", [R, RPB, URB])
def test_one_process_runs_plain_batch_normalization_fused(kind, grouped, tmp_path, monkeypatch):
    plain, converted = (worker.build(kind.__name__, "fused", "plain", "float32") for _ in range(2))
    SyncBatchNorm.convert(converted)
    # What calling the module would run.
    monkeypatch.setattr(nn.functional, "batch_norm", None)
    monkeypatch.setattr(dist, "all_gather", None)
    clips = worker.batch("contiguous", "even", "float32")
    if grouped:
        dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        found = [worker.results(block, clips) for block in (converted, plain)]
    finally:
        if grouped:
            dist.destroy_process_group()
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_convert_keeps_names_tensors_modes_hooks_and_the_rest():
    class Special(nn.BatchNorm3d):
        pass

    inner = nn.BatchNorm3d(2, eps=1e-2, momentum=None, affine=False).eval()
    seen = []
    inner.register_forward_hook(lambda module, arguments, output: seen.append(module))
    model = nn.ModuleDict({"block": RPB(2, 3), "special": Special(2), "image": nn.BatchNorm2d(2), "inner": inner})
    before = model.state_dict(keep_vars=True)
    assert SyncBatchNorm.convert(model) is model
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert {n for n, m in model.named_modules() if type(m) is SyncBatchNorm} == {
        "block.bn1", "block.bn2", "block.bn3", "inner",
    }  # fmt: skip
    model["inner"](torch.randn(2, 2, 1, 2, 2))
    assert seen == [model["inner"]]
    assert (model["inner"].training, model["inner"].eps, model["inner"].momentum) == (False, 1e-2, None)
    assert type(SyncBatchNorm.convert(nn.BatchNorm3d(2))) is SyncBatchNorm
    assert SyncBatchNorm.convert(model) is model


def test_it_folds_for_inference_as_batch_normalization_does():
    block = SyncBatchNorm.convert(R(2, 3).double()).eval()
    x = torch.randn(1, 2, 2, 4, 4).double()
    wanted = block(x)
    torch.testing.assert_close(block.fuse()(x), wanted)
    assert isinstance(block.bn1, nn.Identity)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [R, RPB, URB])
def test_pytorchs_own_runs_inside_the_blocks_through_the_module(kind, training):
    plain = kind(2, 3, backend="reference").double().train(training)
    theirs = kind(2, 3).double().train(training)
    theirs.load_state_dict(plain.state_dict())
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(theirs)
    x = torch.randn(2, 2, 2, 4, 6).double()
    backends._warned.clear()
    with pytest.warns(BackendFallbackWarning, match="a SyncBatchNorm is no plain BatchNorm3d"):
        found = theirs(x)
    torch.testing.assert_close(found, plain(x))
    torch.testing.assert_close(theirs.state_dict(), plain.state_dict())
