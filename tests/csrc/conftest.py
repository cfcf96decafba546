"""The CUDA operators: on a GPU, or compiled as plain C++ against a simulated CUDA runtime (cuda_on_cpu/)."""

import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rlv2v_fast import extension
from rlv2v_fast.ops.schemas import SCHEMAS

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", f"-I{CSRC}", "-Wno-unknown-pragmas"]
KERNELS = sorted((CSRC / "norm/cuda").glob("*.cu"))
# Keeps the definitions alive.
_LIBRARIES: list[torch.library.Library] = []


def _compile(compiler: str, folder: Path, source: Path, flags: list[str]) -> str:
    target = str(folder / f"{source.stem}.o")
    subprocess.run([compiler, *FLAGS, *flags, "-c", str(source), "-o", target], check=True)
    return target


def _digest() -> str:
    """Of all that the library is made of."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cu"), *HERE.rglob("*.*")]):
        if path.suffix in (".h", ".cu", ".cpp", ".py"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(compiler: str, folder: Path) -> Path:
    torch_folder = Path(torch.__file__).parent
    as_cuda = ["-x", "c++", f"-I{HERE / 'cuda_on_cpu'}"]
    as_torch = [f"-I{torch_folder / 'include'}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    jobs = [(source, as_cuda) for source in KERNELS] + [(HERE / "simulated_ops.cpp", as_torch)]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda job: _compile(compiler, folder, *job), jobs))
    library = folder / "simulated_ops.so"
    link = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-o", str(library)]
    subprocess.run([compiler, "-shared", *objects, *link], check=True)
    return library


def _simulated(scratch: Path) -> ModuleType:
    """torch.ops.rlv2v_simulated: the operators bn_*, their CUDA implementation run on the CPU."""
    compiler, fcntl = shutil.which("c++"), pytest.importorskip("fcntl")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the simulated CUDA runtime needs Linux and a C++ compiler")
    # Kept from run to run; of several processes one builds it and the others wait.
    library = CSRC.parent / "build" / f"simulated_ops_{_digest()}.so"
    library.parent.mkdir(exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            shutil.copy(_build(compiler, scratch), library.with_suffix(".partial"))
            library.with_suffix(".partial").replace(library)
    definitions = torch.library.Library("rlv2v_simulated", "DEF")
    _LIBRARIES.append(definitions)
    for schema in SCHEMAS.values():
        if schema.name.startswith("bn_"):
            definitions.define(schema.text)
    torch.ops.load_library(str(library))
    return torch.ops.rlv2v_simulated


@dataclass(frozen=True)
class CudaOps:
    """Calls the CUDA implementation of an operator with CPU tensors and gives CPU tensors."""

    namespace: ModuleType
    device: str

    def __call__(self, op: str, *arguments: Any) -> tuple[torch.Tensor, ...]:
        moved = [a.to(self.device) if isinstance(a, torch.Tensor) else a for a in arguments]
        return tuple(t.cpu() for t in getattr(self.namespace, op)(*moved))


@pytest.fixture(scope="session", params=["simulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda_ops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CudaOps:
    if request.param == "simulated":
        return CudaOps(_simulated(tmp_path_factory.mktemp("simulated")), "cpu")
    if reason := extension.why_not_cuda():
        pytest.fail(reason)
    return CudaOps(torch.ops.rlv2v_fast, "cuda")
