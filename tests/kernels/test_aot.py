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

# Types of the pointers; other arguments are i32 unless a variant makes them constants.
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
    "conv_input_ptr": HALF,
    "next_conv_input_ptr": HALF,
    "weight_ptr": HALF,
}
OPTIONAL = ("bias_ptr", "peephole_ptr", "h_prev_ptr", "lengths_ptr", "grad_last_ptr", "sums_ptr")
# The channel stride is one everywhere but in the tensors that are contiguous; there the pixel stride is.
CONTIGUOUS_ALWAYS = ("output", "grad_output")


@dataclass(frozen=True)
class Variant:
    """One way a kernel is called, and the registers a thread and shared memory a program that it may use."""

    kernel: str
    hidden: int
    registers: int
    shared: int
    dtype: str = "bf16"
    channels_last: bool = True
    everything: bool = True
    channels: int = 64

    @property
    def fused(self) -> bool:
        return self.kernel == "fused_fwd"

    @property
    def aligned(self) -> bool:
        """Whether sizes and strides are multiples of 16, as Triton would find at a launch."""
        return self.hidden % 16 == 0

    def constants(self, kernels) -> dict:
        """The constexpr arguments that the launcher would pass for a 64 x 64 image."""
        if not self.fused:
            block_s, block_k = kernels.blocks(64 * 64, self.hidden)
            return {"K": self.hidden, "BLOCK_S": block_s, "BLOCK_K": block_k}
        pitch = self.channels + self.hidden
        blocks = {"BLOCK_M": kernels.BLOCK_PIXELS, "BLOCK_K": kernels.BLOCK_HIDDEN, "GROUP": kernels.GROUP}
        return {"P": pitch, "K": self.hidden, "KH": 3, "KW": 3, "BLOCK_C": kernels.block_channels(pitch), **blocks}


# Gate kernels: 128 threads, of which a multiprocessor holds 4 programs at 128 registers and 3 at 168. Fused: 256
# threads and one program, which its accumulator, not its registers, makes worth a multiprocessor.
VARIANTS = [
    Variant("gates_fwd", 64, 96, 8 << 10),
    Variant("gates_fwd", 64, 64, 8 << 10, everything=False),
    Variant("gates_fwd", 17, 128, 8 << 10, dtype="fp32", channels_last=False),
    Variant("gates_bwd", 64, 128, 8 << 10),
    Variant("gates_bwd", 64, 128, 8 << 10, everything=False),
    Variant("gates_bwd", 17, 168, 8 << 10, dtype="fp32", channels_last=False),
    Variant("gates_bwd", 1, 168, 8 << 10),
    Variant("fused_fwd", 128, 192, 100 << 10),
    Variant("fused_fwd", 32, 192, 100 << 10, channels=8, everything=False),
]


def source_of(variant: Variant, kernels):
    """The variant as Triton's compiler takes it."""
    from triton.compiler import ASTSource

    kernel = getattr(kernels, f"convlstm_{variant.kernel}_kernel")
    constants = variant.constants(kernels)
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        tensor, _, axis = name.rpartition("_")
        unit_axis = "k" if variant.channels_last and tensor not in CONTIGUOUS_ALWAYS else "s"
        if name in OPTIONAL and not variant.everything:
            constants[name] = None
        elif tensor and axis == unit_axis:
            constants[name] = 1
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = POINTERS.get(name, "i32").replace("bf16", variant.dtype)
        if name != "step" and (variant.aligned or name in POINTERS):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def resources(compiled) -> dict[str, int]:
    """What one compiled kernel uses, by NVIDIA's own account of its machine code."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        command = [Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump", "-res-usage", cubin.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", report)
    registers, stack, shared, local = (int(number) for number in found.groups())
    code = compiled.asm["ptx"]
    return {
        "registers": registers,
        "stack": stack + local,
        "shared": max(shared, compiled.metadata.shared),
        "vectors": len(re.findall(r"(?:ld|st)\.global\S*\.v4|cp\.async\S* .*, 16|cp\.async.*, 0x10", code)),
        "tensor_cores": len(re.findall(r"mma\.sync|wgmma\.mma_async|tcgen05\.mma", code)),
    }


def compile_all(architecture: int) -> list[dict[str, int]]:
    import triton
    from triton.backends.compiler import GPUTarget

    from rlv2v_fast.kernels import convlstm_fused, convlstm_gates

    rows = []
    for variant in VARIANTS:
        kernels = convlstm_fused if variant.fused else convlstm_gates
        options = {"num_warps": kernels.NUM_WARPS}
        if variant.fused:
            options["num_stages"] = kernels.NUM_STAGES
        target = GPUTarget("cuda", architecture, 32)
        rows.append(resources(triton.compile(source_of(variant, kernels), target=target, options=options)))
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
    """Spilled registers live in the stack frame: no frame, no spill."""
    assert [row["stack"] for row in usage] == [0] * len(VARIANTS)


@pytest.mark.parametrize("resource", ["registers", "shared"])
def test_within_budget(usage, resource):
    rows = zip(VARIANTS, usage, strict=True)
    assert not [(variant, row) for variant, row in rows if row[resource] > getattr(variant, resource)]


def test_aligned_half_tensors_move_in_16_byte_vectors(usage):
    """At least the four gates of the gate kernels, and both operands of the fused one."""
    for variant, row in zip(VARIANTS, usage, strict=True):
        if variant.aligned:
            assert row["vectors"] >= 4, variant


def test_fused_kernel_runs_on_tensor_cores(usage):
    assert all(row["tensor_cores"] for variant, row in zip(VARIANTS, usage, strict=True) if variant.fused)


if __name__ == "__main__":
    print(json.dumps(compile_all(int(sys.argv[1]))))
