"""The whole system: training, streaming translation, replay, decoding, import, and the size of a wheel.

python -m bench run --op system
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.cases import (
    ROOT,
    SYSTEM_DECODE,
    SYSTEM_INSTALL,
    SYSTEM_REPLAY,
    SYSTEM_STREAM,
    SYSTEM_TRAIN,
    Calls,
    Case,
    Operation,
    Setting,
    UnavailableError,
)

# Iterations of one call: a rollout comes once in so many.
CYCLE = 4
# The operators' backend for each backend of the system.
OPERATOR_BACKENDS = {"ours": "auto", "reference": "reference", "compile": "auto"}
# The files of a release's source archive that a build needs; none of them is built.
SOURCES = ("build_backend.py", "csrc", "kernels", "LICENSE", "pyproject.toml", "README.md", "rlv2v_fast", "setup.py")
IMPORTS = {"python": "pass", "torch": "import torch", "ours": "from rlv2v_fast import ConvLSTM, RLV2VGAN"}


def train_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of CYCLE iterations of the trainer, with reinforcement learning, on generated clips."""
    from rlv2v_fast.data.clips import Domain
    from rlv2v_fast.data.synthetic import figure1_clips
    from rlv2v_fast.train.config import NetworkConfig, RLConfig, TrainConfig, resolve
    from rlv2v_fast.train.trainer import Trainer

    side, frames = case.shape["H"], case.shape["T"]
    width = 2 if case.name.endswith("tiny") else None
    config = resolve(
        TrainConfig(
            size=side,
            frames=frames,
            device=str(setting.device),
            compile=backend == "compile",
            backend=OPERATOR_BACKENDS[backend],  # type: ignore[arg-type]
            network=NetworkConfig(width=width),
            rl=RLConfig(weight=0.1, rollout_every=CYCLE, critic_warmup=0, capacity=256),
        )
    )
    trainer = Trainer(
        config,
        {
            "x": Domain.from_arrays(figure1_clips("source", 4, frames, side), frames=frames, size=side),
            "y": Domain.from_arrays(figure1_clips("target", 4, frames, side), frames=frames, size=side),
        },
    )
    return {"run": lambda: [trainer.iterate() for _ in range(CYCLE)]}


def stream_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls that translate T frames of an endless video, from tensor to tensor."""
    from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig

    width = 2 if case.name.endswith("tiny") else 64 if setting.device.type == "cuda" else 16
    model = RLV2VGAN(ModelConfig(width=width, critics=False), backend=OPERATOR_BACKENDS[backend])
    model = model.to(setting.device).eval()
    piece = torch.rand(1, case.shape["T"], 3, case.shape["H"], case.shape["W"], device=setting.device) * 2 - 1
    stream = model.translate_stream(itertools.repeat(piece))
    return {"run": lambda: next(stream)}


def replay_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls that store N transitions in a full buffer, or draw N from it."""
    from rlv2v_fast.rl.replay import ReplayBuffer, Transitions

    count, shape = case.shape["N"], (3, case.shape["H"], case.shape["W"])
    new = Transitions(
        state=torch.rand(count, 3, *shape) * 2 - 1,
        action=torch.rand(count, *shape) * 2 - 1,
        true_action=torch.rand(count, *shape) * 2 - 1,
        reward=torch.rand(count),
        position=torch.rand(count),
        next_position=torch.rand(count),
        domain=torch.zeros(count, dtype=torch.int64),
        done=torch.zeros(count, dtype=torch.bool),
        outcome=torch.rand(count),
    )
    buffer = ReplayBuffer(1024, 3, shape)
    for _ in range(1024 // count):
        buffer.add(new)
    random = torch.Generator().manual_seed(0)
    return {"run": (lambda: buffer.add(new)) if case.name == "replay-add" else lambda: buffer.sample(count, random)}


@cache
def scratch() -> Any:
    """A temporary folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="bench-")


def decode_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls that decode every frame of an H.264 file."""
    import av  # noqa: F401  (named in the row where it is missing)

    from rlv2v_fast.data.synthetic import figure1_pair
    from rlv2v_fast.data.video import read_frames
    from rlv2v_fast.data.writer import VideoWriter

    side, path = case.shape["H"], Path(scratch().name) / f"{case.name}.mp4"
    with VideoWriter(path, side, side, 25) as writer:
        for frame in figure1_pair(0, case.shape["T"], side)[1]:
            writer.write(frame)
    return {"run": lambda: sum(1 for _ in read_frames(path))}


def import_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls that start a Python process, which imports the package, torch alone, or nothing."""
    command = [sys.executable, "-c", IMPORTS[backend]]
    return {"run": lambda: subprocess.run(command, cwd=ROOT, check=True)}


def install_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of what `pip install --no-deps` does where torch is installed: compile, pack, unpack."""
    folder = Path(scratch().name)
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for name in SOURCES:
        path, target = ROOT / name, source / name
        if path.is_dir():
            built = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json")
            shutil.copytree(path, target, ignore=built, dirs_exist_ok=True)
        else:
            shutil.copy2(path, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]

    def install() -> None:
        command = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
        subprocess.run(command, check=True)
        command = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(newest_wheel())]
        subprocess.run(command, check=True)

    return {"run": install}


def wheel_calls(case: Case, backend: str, setting: Setting) -> Calls:
    """A call that does nothing: the case measures the size of the wheel."""
    newest_wheel()
    return {"run": lambda: None}


def newest_wheel() -> Path:
    """The wheel that the case install built, or else the newest one in dist/."""
    for folder in (Path(scratch().name), ROOT / "dist"):
        wheels = sorted(folder.glob("rlv2v_fast-*.whl"), key=lambda path: path.stat().st_mtime)
        if wheels:
            return wheels[-1]
    raise UnavailableError("no wheel: the case install builds one, and so does python setup.py bdist_wheel in dist/")


PARTS = {
    "train": train_calls,
    "stream": stream_calls,
    "latency": stream_calls,
    "replay": replay_calls,
    "decode": decode_calls,
    "import": import_calls,
    "install": install_calls,
    "wheel": wheel_calls,
}


def part(case: Case) -> str:
    """What a case measures: the first word of its name."""
    return case.name.split("-")[0]


def applies(case: Case, backend: str) -> bool:
    """Whether a backend has the case: only training compiles, and a case without operators has one backend."""
    backends = {"train": tuple(OPERATOR_BACKENDS), "import": tuple(IMPORTS)}
    backends |= dict.fromkeys(("stream", "latency"), ("ours", "reference"))
    return backend in backends.get(part(case), ("ours",))


def prepare(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of one backend."""
    return PARTS[part(case)](case, backend, setting)


def value(case: Case, seconds: float) -> tuple[float, str]:
    """The figure that a user wants of a case, and its unit."""
    name = part(case)
    if name == "train":
        return seconds / CYCLE, "s/iteration"
    if name in ("stream", "decode"):
        return case.shape["T"] / seconds, "frames/s"
    if name == "latency":
        return 1e3 * seconds / case.shape["T"], "ms/frame"
    if name == "replay":
        return case.shape["N"] / seconds, "transitions/s"
    if name == "wheel":
        return newest_wheel().stat().st_size / 1e6, "MB"
    return seconds, "s"


OPERATIONS = (
    Operation(
        "system",
        (*SYSTEM_TRAIN, *SYSTEM_STREAM, *SYSTEM_REPLAY, *SYSTEM_DECODE, *SYSTEM_INSTALL),
        ("ours", "reference", "compile", "python", "torch"),
        prepare,
        phases=("run",),
        layouts=("contiguous",),
        value=value,
        applies=applies,
        system=True,
    ),
)
