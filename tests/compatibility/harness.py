"""What a test of a feature works with: modules, inputs, and a witness of whose kernels ran."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlv2v_fast.ops.schemas import NAMESPACE
from tests.compatibility.cases import Case

PAGE = Path(__file__).resolve().parents[2] / "docs/compatibility.md"
FUSED, CALLED = "fused", "called"
# Rows of the page that test_programs.py tries, with all layers in one program.
SAVED, ONNX, AOTI = PROGRAMS = (
    "a saved program loaded where only the package is imported",
    "ONNX, both exporters",
    "AOTInductor",
)


@contextmanager
def watching() -> Iterator[set[str]]:
    """Collect the fused operators that run, by the profiler: PyTorch's dispatcher tells it, whoever calls."""
    seen: set[str] = set()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        yield seen
    seen |= {e.key for e in profile.key_averages() if e.key.startswith(f"{NAMESPACE}::")}


@dataclass
class Trial:
    """One module, backend and size, tried in one feature.

    operators: the fused ones that ran under watch().
    """

    case: Case
    backend: str
    shape: tuple[int, ...]
    operators: set[str] = field(default_factory=set)

    def input(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(self.shape, dtype=dtype)

    def module(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        return self.pair(dtype)[0]

    def pair(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
        """The module, and what it has to agree with, with the same weights: not those of a fresh normalization."""
        ours, wanted = (self.case.make(backend) for backend in (self.backend, "reference"))
        state = {
            name: value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value
            for name, value in ours.state_dict().items()
        }
        for module in (ours, wanted):
            module.load_state_dict(state)
            module.to(dtype)
        return ours, wanted

    @contextmanager
    def watch(self) -> Iterator[None]:
        """See which fused operators run."""
        with watching() as seen:
            yield
        self.operators |= seen

    @property
    def verdict(self) -> str:
        return FUSED if self.operators else CALLED

    def agree(
        self, run: Callable[[nn.Module, Tensor], Any], dtype: torch.dtype = torch.float64, **tolerance: float
    ) -> None:
        """Assert that run(module, x) is the same for the module, which is watched, and its reference."""
        ours, wanted = self.pair(dtype)
        x = self.input(dtype)
        with self.watch():
            found = run(ours, x)
        close(found, run(wanted, x), **tolerance)


def close(found: Any, wanted: Any, **tolerance: float) -> None:
    if not tolerance:
        tolerance = {"rtol": 1e-7, "atol": 1e-9} if _is_double(found) else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, wanted, **tolerance)


def _is_double(values: Any) -> bool:
    leaves = torch.utils._pytree.tree_leaves(values)
    return any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in leaves)


def trained(module: nn.Module, x: Tensor) -> tuple[Any, ...]:
    """Output, gradients and buffers after one step."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.square().mean().backward()
    grads = [tensor.grad for tensor in (x, *module.parameters())]
    assert all(grad is not None for grad in grads)
    return y, grads, copy.deepcopy(dict(module.named_buffers()))


def page_table() -> dict[str, dict[str, str]]:
    """The table of docs/compatibility.md: by feature and module, what the page says."""
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|") and not re.match(r"\|[-|\s]+$", line)
    ]
    (_, *modules), *features = rows
    return {name: dict(zip(modules, cells, strict=True)) for name, *cells in features}
