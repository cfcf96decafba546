"""The cases of every operation under pytest-benchmark, in the contiguous layout.

pytest bench/ --benchmark-only              every default case, many minutes; -k "convlstm and cpp" chooses
pytest bench/                               the tiny cases: whether everything that is measured runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from bench.cases import Case, Operation, Setting, operations, prepare_all
from bench.harness import first_calls, synchronize

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# A call of a compiled peer or of the whole system takes seconds to minutes, so there are few rounds.
ROUNDS = 3


def parameters(every: bool) -> Iterator[object]:
    """The cases that a person would wait for. Cases that run once, and compiled training iterations, are left out."""
    for operation in operations().values():
        for case in operation.cases:
            tiny = case.name.endswith("tiny")
            if DEVICE.type not in case.devices or not case.timed or case.once or not (tiny or (every and case.default)):
                continue
            for backend in operation.backends:
                if operation.system and backend == "compile":
                    continue
                if operation.applies is None or operation.applies(case, backend):
                    for phase in operation.phases:
                        name = "-".join((operation.name, case.name, backend, phase))
                        yield pytest.param(operation, case, backend, phase, id=name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("benchmark_only", False)
    metafunc.parametrize(("operation", "case", "backend", "phase"), list(parameters(every)))


def test_case(benchmark: Callable[..., None], operation: Operation, case: Case, backend: str, phase: str) -> None:
    setting = Setting(DEVICE)
    if backend == "compile":
        torch.compiler.reset()
    prepared, refused = prepare_all(operation, case, setting, [backend])
    if backend in refused or phase not in prepared[backend]:
        pytest.skip(refused.get(backend, f"{backend} has no {phase}"))
    call = prepared[backend][phase]
    _, failed = first_calls({backend: call}, setting)
    if failed:
        pytest.skip(failed[backend])

    def call_and_wait() -> None:
        call()
        synchronize(DEVICE)

    benchmark.pedantic(call_and_wait, rounds=ROUNDS)  # type: ignore[attr-defined]
