"""Where the kernel tests run: on the GPU where there is one, else in Triton's interpreter.

Triton decides at its import whether its own library is interpreted, at a kernel's definition whether the kernel is,
and looks again while one runs. So all of it is imported here while TRITON_INTERPRET is set, and the variable is set
again around each test: tests of other folders, in the same process, see a CPU without Triton, as users do.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rlv2v_fast.kernels

HAS_GPU = torch.cuda.is_available()

if not HAS_GPU:
    if "triton" in sys.modules and not sys.modules["triton"].knobs.runtime.interpret:
        raise pytest.UsageError("triton was imported before tests/kernels; run them alone or with TRITON_INTERPRET=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in pkgutil.iter_modules(rlv2v_fast.kernels.__path__):
            importlib.import_module(f"rlv2v_fast.kernels.{module.name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs on either device is a test for a GPU where there is one, so that -m gpu runs it there."""
    here = Path(__file__).parent
    for item in items if HAS_GPU else ():
        if here in item.path.parents and "device" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture
def gpu() -> torch.device:
    """The GPU, for tests whose point it is; without one they are skipped."""
    if not HAS_GPU:
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN until they are written: PyTorch fills them where algorithms are to be deterministic."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, not TF32, and the same every time, so that both sides of a comparison round alike."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
