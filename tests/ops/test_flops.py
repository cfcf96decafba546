"""Fused operators count as many FLOPs as their references, called as functions or by an exported program."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rlv2v_fast import extension
from rlv2v_fast.nn.convlstm import ConvLSTM
from rlv2v_fast.ops.convlstm import convlstm

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_every_choice_of_gradients_counts_as_the_reference(memory):
    shapes = {"x": (2, 3, 2, 5, 4), "weight": (12, 5, 3, 5), "bias": (12,), "h0": (2, 3, 5, 4), "c0": (2, 3, 5, 4)}
    counts = []
    # The reference computes the gradient of the bias alone without that of the weight; the operator computes both.
    for wanted in itertools.product([False, True], repeat=4):
        needed = dict(zip(("x", "weight", "h0", "c0"), wanted, strict=True))
        given = {n: torch.randn(s).requires_grad_(needed.get(n, needed["weight"])) for n, s in shapes.items()}

        def run(backend, given=given):
            output, _, _ = convlstm(**given, memory=memory, backend=backend)
            if output.requires_grad:
                output.sum().backward()

        found, expected = flops(lambda run=run: run("cpp")), flops(lambda run=run: run("reference"))
        assert found == expected > 0, needed
        counts.append(found)
    assert len(set(counts)) > 3


def test_an_exported_program_counts_by_the_operator():
    layer, x = ConvLSTM(3, 8, 3, 2, batch_first=True, backend="cpp").eval(), torch.randn(2, 3, 3, 8, 6)
    program = torch.export.export(layer, (x,)).module()
    for cell in layer.cell_list:
        cell.backend = "reference"
    assert flops(lambda: program(x)) == flops(lambda: layer(x)) > 0


def test_a_counter_may_be_imported_after_the_package():
    code = (
        "import rlv2v_fast, torch.utils.flop_counter\n"
        "operator = torch.ops.rlv2v_fast.convlstm_fwd\n"
        "with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.device('meta'):\n"
        "    operator(torch.empty(1, 2, 3, 4, 5), torch.empty(8, 5, 3, 3), None, None, None, False, False, False)\n"
        "print(counter.get_total_flops())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str(2 * 2 * 4 * 5 * 8 * 5 * 9), done.stderr
