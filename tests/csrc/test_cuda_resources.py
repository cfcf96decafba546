"""Every CUDA source compiles for the GPUs of today without one at hand.

It spills nothing, stays within budgets of registers and shared memory, and moves aligned tensors in 16-byte vectors.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(str(path.relative_to(CSRC)) for path in CSRC.glob("*/cuda/*.cu") if "device" not in path.name)
ARCHITECTURES = ("80", "90", "100")
NVCC = shutil.which("nvcc")
# A block has 256 threads, or 512 where it merges sums: with 128 registers a thread, two blocks fit a multiprocessor.
# A vector of 16-bit numbers has eight lanes, which may have constants and sums each, and a window has four vectors.
REGISTERS, REGISTERS_OF_LANES, REGISTERS_OF_WINDOWS = 128, 168, 224
# Half of what a block may have without asking for more.
SHARED = 24 * 1024

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc")


@dataclass
class Kernel:
    name: str
    registers: int = 0
    shared: int = 0
    local: int = 0
    code: str = ""

    @property
    def lanes(self) -> int:
        found = re.search(r", (\d), (?:true|false)>", self.name)
        return int(found[1]) if found else 1

    @property
    def budget(self) -> int:
        if not self.name.startswith("norm_pass") or not self.name.endswith("8, false>"):
            return REGISTERS
        return REGISTERS_OF_WINDOWS if "WindowTiling" in self.name else REGISTERS_OF_LANES


def cuobjdump() -> str | None:
    """NVIDIA's disassembler, of the toolkit or of Triton."""
    if found := shutil.which("cuobjdump"):
        return found
    triton = pytest.importorskip("triton")
    found = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return str(found) if found.exists() else None


def demangled(names: list[str]) -> list[str]:
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = re.sub(r"rlv2v::|\(anonymous namespace\)::|void ", "", plain)
    return [line.split("(")[0] for line in short.splitlines()]


def kernels_of(cubin: Path) -> list[Kernel]:
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump")
    usage = subprocess.run([tool, "-res-usage", str(cubin)], capture_output=True, text=True, check=True).stdout
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    found = {name: [int(n) for n in numbers] for name, *numbers in re.findall(pattern, usage)}
    assembly = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    code = dict(part.split("\n", 1) for part in assembly.split("Function : ")[1:])
    kernels = []
    for name, (registers, stack, shared, local) in found.items():
        kernels.append(Kernel(name, registers, shared, stack + local, code[name]))
    for kernel, name in zip(kernels, demangled([k.name for k in kernels]), strict=True):
        kernel.name = name
    return kernels


@pytest.fixture(scope="module", params=[(s, a) for s in SOURCES for a in ARCHITECTURES], ids="{0[0]}-sm_{0[1]}".format)
def kernels(request, tmp_path_factory) -> list[Kernel]:
    source, architecture = request.param
    cubin = tmp_path_factory.mktemp("cubin") / "kernels.cubin"
    command = [NVCC, "-O3", "-std=c++17", "--expt-relaxed-constexpr", f"-I{CSRC}", "-cubin", f"-arch=sm_{architecture}"]
    done = subprocess.run([*command, str(CSRC / source), "-o", str(cubin)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return kernels_of(cubin)


def test_resources(kernels):
    assert kernels
    # A double's exp keeps a few words in local memory.
    assert not [k.name for k in kernels if k.local and "double" not in k.name]
    assert not [(k.name, k.registers) for k in kernels if k.registers > k.budget]
    assert not [(k.name, k.shared) for k in kernels if k.shared > SHARED + 1024]
    # Vectors of numbers are read 16 bytes at a time, and what is as large as x is written so.
    vectors = [k for k in kernels if k.lanes > 1]
    assert not [k.name for k in vectors if "LDG.E.128" not in k.code]
    writers = [k for k in vectors if re.search(r"GradPass|ApplyPass|AddReluPass|UnpoolPass", k.name)]
    assert not [k.name for k in writers if "STG.E.128" not in k.code]
