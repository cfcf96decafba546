"""Programs made of all modules at once, because making one takes seconds: saved, exported to ONNX, compiled ahead."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rlv2v_fast import extension
from tests.compatibility.cases import MODULES
from tests.compatibility.harness import AOTI, CALLED, FUSED, ONNX, SAVED, close, page_table, watching

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu())),
    pytest.mark.filterwarnings("ignore"),
]


LAYERS = {name: case for name, case in MODULES.items() if not case.composed}


class All(nn.Module):
    """Every layer of the table, each with an input and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(case.make("auto") for case in LAYERS.values())

    def forward(self, *inputs):
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


@pytest.fixture(scope="module")
def everything():
    torch.manual_seed(0)
    return All().eval()


def inputs(batch=2, longer=0):
    found = []
    for case in LAYERS.values():
        shape = [batch, *case.shape[1:]]
        for dim in case.dynamic:
            shape[dim] += longer
        found.append(torch.randn(shape))
    return tuple(found)


def dynamic_shapes():
    """The batch of all, and the time of each where it may change."""
    batch, times = torch.export.Dim("batch"), {name: torch.export.Dim(f"t_{name}") for name in LAYERS}
    return (tuple({0: batch} | dict.fromkeys(case.dynamic, times[name]) for name, case in LAYERS.items()),)


def said(row):
    """What the page says of the modules that have fused operators; of the others it says `called`."""
    table = page_table()
    own = {name for name, verdict in table["eager mode, with gradients"].items() if name in LAYERS and verdict == FUSED}
    assert {table[row][name] for name in LAYERS if name not in own} == {CALLED}
    (verdict,) = {table[row][name] for name in own}
    return verdict


@pytest.fixture(scope="module")
def program(everything):
    return torch.export.export(everything, inputs(), dynamic_shapes=dynamic_shapes())


@pytest.fixture(scope="module")
def operators(program):
    """The fused operators of all modules."""
    with watching() as seen:
        program.module()(*inputs())
    assert len(seen) >= 4
    return seen


def test_the_sizes_of_an_exported_program_are_free(program, everything):
    x = inputs(3, longer=1)
    with torch.no_grad():
        close(program.module()(*x), everything(*x))


def test_saved_programs_run_where_torch_comes_after_the_package(everything, program, operators, tmp_path):
    x = inputs()
    torch.export.save(program, tmp_path / "exported.pt2")
    torch.jit.trace(everything, x, check_trace=False).save(tmp_path / "traced.pt")
    torch.save((x, [y.detach() for y in everything(*x)]), tmp_path / "values.pt")
    code = (
        "import pathlib, rlv2v_fast, torch\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "x, y = torch.load(folder / 'values.pt')\n"
        "exported = torch.export.load(folder / 'exported.pt2').module()\n"
        "traced = torch.jit.load(folder / 'traced.pt')\n"
        "for program in (traced, exported):\n"
        "    torch.testing.assert_close(program(*x), tuple(y), rtol=1e-4, atol=1e-5)\n"
        "with torch.profiler.profile() as profile:\n"
        "    exported(*x)\n"
        "print(sorted(e.key for e in profile.key_averages() if e.key.startswith('rlv2v_fast::')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(operators))
    assert said(SAVED) == FUSED


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_runs_what_the_reference_does_at_any_batch(dynamo, everything, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "all.onnx"
    options = (
        {"dynamic_shapes": dynamic_shapes()}
        if dynamo
        else {"input_names": list(LAYERS), "dynamic_axes": {name: {0: "batch"} for name in LAYERS}}
    )
    logging.disable(logging.WARNING)  # that torchvision is not installed
    try:
        torch.onnx.export(everything, inputs(), path, dynamo=dynamo, verbose=False, **options)
    finally:
        logging.disable(logging.NOTSET)
    session = onnxruntime.InferenceSession(path)
    for x in (inputs(), inputs(3, longer=1 if dynamo else 0)):
        found = session.run(None, {each.name: t.numpy() for each, t in zip(session.get_inputs(), x, strict=True)})
        with torch.no_grad():
            close([torch.from_numpy(y) for y in found], list(everything(*x)))
    assert said(ONNX) == CALLED


@pytest.mark.parametrize("name", [name for name, case in LAYERS.items() if "cpp" in case.backends])
def test_onnx_refuses_an_explicit_backend(name, tmp_path):
    # The newer exporter tries in several ways, and its error is that of the last.
    module, x = LAYERS[name].make("cpp").eval(), torch.randn(LAYERS[name].shape)
    with pytest.raises(RuntimeError, match=r"backend='cpp' cannot run .*: ONNX has no such operator; use backend='ref"):
        torch.onnx.export(module, (x,), tmp_path / "refused.onnx", dynamo=False)


@pytest.mark.slow
def test_aotinductor_runs_the_fused_operators(program, everything, operators, tmp_path):
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "all.pt2"))
    compiled = torch._inductor.aoti_load_package(path)
    for x in (inputs(), inputs(3, longer=1)):
        with watching() as seen, torch.no_grad():
            found = compiled(*x)
        assert seen == operators
        close(tuple(found), everything(*x))
    assert said(AOTI) == FUSED
