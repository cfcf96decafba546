"""Every benchmark case, and the description of an operation that the harness works with.

A case is a name and its sizes; a `bench_*.py` turns cases into calls. The harness finds the operations in the tuple
`OPERATIONS` of those modules, so a new file needs no entry here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
# Not a competitor but a bound: only the convolutions, which an operation cannot do without.
FLOOR = "conv"
PHASES = ("fwd", "fwd_bwd")
# One gradient alone, of a convolution's input or of its weight, after a forward that is not timed.
GRADIENT_PHASES = ("grad_x", "grad_weight")


class UnavailableError(Exception):
    """A backend cannot run a case here. The message says why, and the row shows it."""


@dataclass(frozen=True)
class Case:
    """Sizes with a name.

    devices: device types that it is meant for. default: whether it runs where no case is named. sweep: the letter of
    the size that a scaling run varies. clock: replaces the run's. timed: False where only the operation's value counts.
    once: True where one call takes minutes, so that only the first call is made.
    """

    name: str
    shape: Mapping[str, int]
    devices: tuple[str, ...] = ("cpu", "cuda")
    default: bool = True
    sweep: str | None = None
    clock: str | None = None
    timed: bool = True
    once: bool = False


@dataclass(frozen=True)
class Setting:
    """Device, dtype and memory layout that a case runs with."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"


@dataclass(frozen=True)
class Work:
    """The least work of a call: floating-point operations, and bytes that are each read or written once."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class ForwardBackward:
    """A call that gives the gradients of `outputs()` for `leaves`. The bytes it saves in between can be counted."""

    outputs: Callable[[], Sequence[Tensor]]
    leaves: Sequence[Tensor]

    def __call__(self) -> tuple[Tensor, ...]:
        # Not .backward(): accumulating into .grad is not a layer's work, and its streams prevent graph capture.
        outputs = self.outputs()
        return torch.autograd.grad(outputs, self.leaves, [torch.ones_like(y) for y in outputs])


Call = Callable[[], object]
# phase -> call, without the phases that a backend does not have.
Calls = Mapping[str, Call]


@dataclass(frozen=True)
class Operation:
    """What is measured, and how.

    prepare: (case, backend, setting) -> calls by phase; UnavailableError or ImportError where it cannot run.
    count: (case, phase, dtype) -> Work; None where work is not counted.
    value: (case, seconds of a call) -> figure and unit, such as frames per second.
    applies: (case, backend) -> whether the backend has the case; if not, there is no row.
    system: True for parts of the whole system, which have no phases and no naive peer.
    """

    name: str
    cases: tuple[Case, ...]
    backends: tuple[str, ...]
    prepare: Callable[[Case, str, Setting], Calls]
    phases: tuple[str, ...] = PHASES
    layouts: tuple[str, ...] = ("contiguous", "channels_last")
    count: Callable[[Case, str, torch.dtype], Work] | None = None
    value: Callable[[Case, float], tuple[float, str]] | None = None
    applies: Callable[[Case, str], bool] | None = None
    system: bool = False


def convlstm_case(name: str, sizes: tuple[int, int, int, int, int, int], **options: object) -> Case:
    """A case of the ConvLSTM layer; sizes: (B, T, C, H = W, K, k)."""
    batch, steps, channels, side, hidden, kernel = sizes
    shape = {"B": batch, "T": steps, "C": channels, "H": side, "W": side, "K": hidden, "k": kernel}
    return Case(name, shape, **options)  # type: ignore[arg-type]


def block_case(name: str, sizes: tuple[int, int, int, int], **options: object) -> Case:
    """A case of a block; sizes: (B, T, C, H = W) that its convolutions work on."""
    batch, steps, channels, side = sizes
    shape = {"B": batch, "T": steps, "C": channels, "H": side, "W": side}
    return Case(name, shape, **options)  # type: ignore[arg-type]


def conv3d_case(name: str, sizes: tuple[int, int, int, int, int], **options: object) -> Case:
    """A case of the causal convolution; sizes: (B, T, C, O, H = W)."""
    batch, steps, channels, outputs, side = sizes
    shape = {"B": batch, "T": steps, "C": channels, "O": outputs, "H": side, "W": side}
    return Case(name, shape, **options)  # type: ignore[arg-type]


CONVLSTM = (
    convlstm_case("A", (2, 10, 16, 64, 64, 3)),
    convlstm_case("B", (4, 16, 3, 64, 32, 3)),
    convlstm_case("C", (1, 8, 64, 32, 128, 3)),
    convlstm_case("D", (8, 10, 1, 64, 64, 5)),
    convlstm_case("BIG", (8, 16, 64, 128, 128, 3), devices=("cuda",)),
    # One step of one frame, the fixed cost of a call.
    convlstm_case("streaming", (1, 1, 64, 32, 64, 3)),
    convlstm_case("tiny", (1, 2, 4, 16, 8, 3), default=False),
)

BLOCKS = (
    block_case("A", (2, 8, 64, 64)),
    block_case("B", (4, 16, 32, 32)),
    block_case("BIG", (4, 16, 64, 128), devices=("cuda",)),
    block_case("tiny", (1, 2, 4, 8), default=False),
)

CONV3D = tuple(
    conv3d_case(name, sizes, devices=("cpu",), default=name != "tiny")
    for name, sizes in {
        "A": (2, 8, 64, 64, 64),
        "B": (4, 16, 32, 32, 32),
        "narrow": (2, 8, 16, 16, 64),
        "stem": (2, 8, 3, 16, 64),
        "low": (2, 8, 128, 128, 8),
        "streaming": (1, 1, 16, 16, 64),
        "tiny": (1, 2, 4, 4, 8),
    }.items()
)

# N frames of C channels, F features, K hidden channels, and L levels of the table.
PIXEL_MAP = tuple(
    Case(name, dict(zip("NCHWFKL", sizes, strict=True)), default=name != "tiny")
    for name, sizes in {
        "few-shot": (2, 3, 64, 64, 64, 32, 17),
        "stream": (1, 3, 720, 1280, 64, 32, 17),
        "tiny": (1, 3, 8, 8, 8, 8, 2),
    }.items()
)

SYSTEM_TRAIN = (
    Case("train-32", {"H": 32, "W": 32, "T": 8}),
    Case("train-64x8", {"H": 64, "W": 64, "T": 8}, devices=("cpu",)),
    Case("train-64", {"H": 64, "W": 64, "T": 16}, devices=("cuda",)),
    Case("train-tiny", {"H": 16, "W": 16, "T": 4}, default=False),
)
SYSTEM_STREAM = (
    *(Case(f"stream-{side}", {"H": side, "W": side, "T": 8}) for side in (64, 128, 256)),
    *(Case(f"latency-{side}", {"H": side, "W": side, "T": 1}) for side in (64, 128, 256)),
    Case("stream-tiny", {"H": 16, "W": 16, "T": 2}, default=False),
)
# N transitions a call, in a buffer of 1024 with states of p = 3 frames.
SYSTEM_REPLAY = tuple(
    Case(f"replay-{what}", {"N": 64, "H": 64, "W": 64}, devices=("cpu",)) for what in ("add", "sample")
)
SYSTEM_DECODE = (Case("decode-256", {"T": 48, "H": 256, "W": 256}, devices=("cpu",)),)
SYSTEM_INSTALL = (
    # From source, with its compilations. The case wheel measures the size of the wheel that this case makes.
    Case("install", {}, devices=("cpu",), clock="wall", once=True),
    Case("wheel", {}, devices=("cpu",), timed=False),
    # Wall time, because other processes do the work and this one's processor time does not count them.
    Case("import", {}, devices=("cpu",), clock="wall"),
)


def operations() -> dict[str, Operation]:
    """Every operation of every bench_*.py, by name."""
    by_name: dict[str, Operation] = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        module = importlib.import_module(f"bench.{path.stem}")
        by_name |= {operation.name: operation for operation in getattr(module, "OPERATIONS", ())}
    return by_name


def prepare_all(
    operation: Operation, case: Case, setting: Setting, backends: Iterable[str]
) -> tuple[dict[str, Calls], dict[str, str]]:
    """Calls by backend, and for each backend that has none the reason."""
    prepared: dict[str, Calls] = {}
    refused: dict[str, str] = {}
    for backend in backends:
        try:
            prepared[backend] = operation.prepare(case, backend, setting)
        except (ImportError, UnavailableError, RuntimeError) as error:
            refused[backend] = reason(error)
    return prepared, refused


def reason(error: Exception) -> str:
    """One line that says why something does not run."""
    if isinstance(error, UnavailableError):
        return str(error)
    if isinstance(error, ImportError) and error.name:
        return f"{error.name} is not installed"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def scaled(case: Case, letter: str, factor: float) -> Case:
    """The case with one size multiplied by factor; "HW" multiplies the pixels, and so each side by the root of factor.

    Sides stay even, because blocks halve or double them.
    """
    shape = dict(case.shape)
    if letter == "HW":
        shape |= {side: max(2, 2 * round(shape[side] * factor**0.5 / 2)) for side in ("H", "W")}
    else:
        shape[letter] = max(1, round(shape[letter] * factor))
    size = shape["H"] * shape["W"] if letter == "HW" else shape[letter]
    return Case(f"{case.name}[{letter}={size}]", shape, case.devices, sweep=letter)


def sweep_cases(case: Case, factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)) -> list[Case]:
    """The case with one of T, B, pixels and channels varied at a time; sizes that round to the same run once.

    The channels are the hidden ones, K; in a block they are C.
    """
    letters = ("T", "B", "HW", "K" if "K" in case.shape else "C")
    cases = [scaled(case, letter, factor) for letter in letters for factor in factors]
    return list({each.name: each for each in cases}.values())
