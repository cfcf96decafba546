"""Every kernel compiles for the GPUs of today without one at hand, within budgets of registers and shared memory.

Run as a program, this file compiles for one architecture and prints what each kernel uses; the tests start it so, for
Triton compiles only in a process whose own library is not interpreted.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ARCHITECTURES = [80, 90, 100]
NVIDIA_BIN = "backends/nvidia/bin"

# Types of the pointers; every other argument is an i32 unless a variant makes it a constant.
HALF, FLOAT, INDEX = "*bf16", "*fp32", "*i64"
POINTERS = {
    "gates_ptr": HALF,
    "bias_ptr": HALF,
    "peephole_ptr": HALF,
    "c_ptr": FLOAT,
    "h_prev_ptr": HALF,
    "lengths_ptr": INDEX,
    "h_ptr": HALF,
    "c_next_ptr": FLOAT,
    "output_ptr": HALF,
    "grad_c_next_ptr": FLOAT,
    "grad_output_ptr": HALF,
    "grad_h_ptr": HALF,
    "grad_last_ptr": HALF,
    "grad_gates_ptr": HALF,
    "grad_c_ptr": FLOAT,
    "sums_ptr": FLOAT,
}
OPTIONAL = ("bias_ptr", "peephole_ptr", "h_prev_ptr", "lengths_ptr", "grad_last_ptr", "sums_ptr")
# The channel stride is one everywhere but in the tensors that are contiguous; there the pixel stride is.
CONTIGUOUS_ALWAYS = ("output", "grad_output")


@dataclass(frozen=True)
class Variant:
    """One way a kernel is called, and what it may use."""

    kernel: str
    hidden: int
    block: tuple[int, int]
    registers: int
    dtype: str = "bf16"
    channels_last: bool = True
    everything: bool = True

    @property
    def aligned(self) -> bool:
        """Whether sizes and strides are multiples of 16, as Triton would find at a launch."""
        return self.hidden % 16 == 0


# At 128 threads, 128 registers leave 4 programs on a multiprocessor and 168 leave 3.
VARIANTS = [
    Variant("fwd", 64, (32, 32), 96),
    Variant("fwd", 64, (32, 32), 64, everything=False),
    Variant("fwd", 17, (32, 32), 128, dtype="fp32", channels_last=False),
    Variant("bwd", 64, (32, 32), 128),
    Variant("bwd", 64, (32, 32), 128, everything=False),
    Variant("bwd", 17, (32, 32), 168, dtype="fp32", channels_last=False),
    Variant("bwd", 1, (1024, 1), 168),
]
SHARED_BYTES = 16 * 1024


def source_of(variant: Variant):
    """The variant as Triton's compiler takes it."""
    from triton.compiler import ASTSource

    from rlv2v_fast.kernels import convlstm_gates

    kernel = getattr(convlstm_gates, f"convlstm_gates_{variant.kernel}_kernel")
    constants = {"K": variant.hidden, "BLOCK_S": variant.block[0], "BLOCK_K": variant.block[1]}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        tensor, _, axis = name.rpartition("_")
        unit_axis = "k" if variant.channels_last and tensor not in CONTIGUOUS_ALWAYS else "s"
        if name in OPTIONAL and not variant.everything:
            constants[name] = None
        elif name not in POINTERS and axis == unit_axis:
            constants[name] = 1
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = POINTERS.get(name, "i32").replace("bf16", variant.dtype)
        if name != "step" and (variant.aligned or name.endswith("_ptr")):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def compile_all(architecture: int) -> list[dict]:
    import triton
    from triton.backends.compiler import GPUTarget

    from rlv2v_fast.kernels.convlstm_gates import NUM_WARPS

    cuobjdump = Path(triton.__file__).parent / NVIDIA_BIN / "cuobjdump"
    rows = []
    for variant in VARIANTS:
        compiled = triton.compile(
            source_of(variant), target=GPUTarget("cuda", architecture, 32), options={"num_warps": NUM_WARPS}
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            usage = subprocess.run([cuobjdump, "-res-usage", cubin.name], capture_output=True, text=True, check=True)
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage.stdout)
        registers, stack, shared, local = (int(number) for number in found.groups())
        vectors = re.findall(r"(?:ld|st)\.global\S*\.v4", compiled.asm["ptx"])
        rows.append(
            {
                "registers": registers,
                "stack": stack,
                "local": local,
                "shared": max(shared, compiled.metadata.shared),
                "vectors": len(vectors),
            }
        )
    return rows


@pytest.fixture(scope="module", params=ARCHITECTURES, ids="sm_{}".format)
def usage(request, tmp_path_factory) -> list[dict]:
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-W", "ignore", __file__, str(request.param)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_spills(usage):
    """Spilled registers live in the stack frame, so that none means none."""
    assert [row["stack"] + row["local"] for row in usage] == [0] * len(VARIANTS)


def test_registers_within_budget(usage):
    over = [(v, row["registers"]) for v, row in zip(VARIANTS, usage, strict=True) if row["registers"] > v.registers]
    assert not over


def test_shared_memory_within_budget(usage):
    assert max(row["shared"] for row in usage) <= SHARED_BYTES


def test_aligned_half_tensors_move_in_16_byte_vectors(usage):
    """The four gates, at least, read whole."""
    for variant, row in zip(VARIANTS, usage, strict=True):
        if variant.aligned:
            assert row["vectors"] >= 4, variant


if __name__ == "__main__":
    print(json.dumps(compile_all(int(sys.argv[1]))))
