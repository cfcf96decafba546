"""Training processes that are forked, disturbed and killed, and what they leave behind.

Each is forked from a process that has imported the package and made the clips, so that a life takes a second. None has
trained before: its threads would not be in its children.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # here, as yaml, so that lives start faster, and a user who may not read Python's files can train
import yaml  # noqa: F401
from PIL import Image

from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips
from rlv2v_fast.errors import InputError
from rlv2v_fast.train.checkpoint import checkpoints, damage_of_best, newest_whole, step_of
from rlv2v_fast.train.config import LossConfig, NetworkConfig, OptimConfig, TrainConfig, resolve
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.starts import STARTS

FRAMES, SIZE, STEPS, INTERVAL = 4, 16, 10, 2
REFUSED = 2
# What Python tells its audit hooks of changes of files. C++ and Rust, which write weights and states, tell nothing.
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}


def run_config(out: Path) -> TrainConfig:
    """A run of ten iterations with two starts, a checkpoint and a judged model at every other, and previews."""
    return resolve(
        TrainConfig(
            source=Path("x"),
            target=Path("y"),
            out=out,
            size=SIZE,
            frames=FRAMES,
            steps=STEPS,
            window=2,
            starts=2,
            start_steps=3,
            checkpoint_every=INTERVAL,
            select_every=INTERVAL,
            preview_every=3,
            device="cpu",
            quiet=True,
            network=NetworkConfig(width=4, generator="local", discriminator="patch"),
            loss=LossConfig(recurrent=0, recycle=0, video=0, cycle=1, cycle_from=0.5),
            optim=OptimConfig(decay=True, lr_discriminator=1e-3),
        )
    )


def make_domains() -> dict[str, Domain]:
    torch.set_num_threads(1)
    Image.init()
    return {
        name: Domain.from_arrays(figure1_clips(kind, 3, 8, SIZE, seed=1), frames=FRAMES, size=SIZE)
        for name, kind in (("x", "source"), ("y", "target"))
    }


@dataclasses.dataclass
class End:
    """How a training process ended: its exit status (negative for a signal), what it said, and its file operations."""

    status: int
    said: str
    operations: int


class Life:
    """A training process.

    Args:
        prepare: called in the process before it trains.
        kill_at: number of the file operation, from 1, before which it kills itself; with `delay` it tells `end`, which
            kills it so many seconds later.
    """

    def __init__(
        self,
        out: Path,
        domains: dict[str, Domain],
        *,
        resume: bool = False,
        prepare: Callable[[], None] = lambda: None,
        kill_at: int | None = None,
        delay: float | None = None,
    ) -> None:
        self._delay = delay
        self._told, tell = os.pipe()
        self._here, here = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(tell)
            os.close(here)
            return
        status = 70
        try:
            _train(out, domains, resume, prepare, kill_at, delay, tell, here)
            status = 0
        except InputError as error:
            os.write(tell, f"{' '.join(str(error).splitlines())}\n".encode())
            status = REFUSED
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> End:
        """Wait for the process's end."""
        if self._delay is not None and os.read(self._here, 1):
            time.sleep(self._delay)
            self.kill()
        with os.fdopen(self._told, "rb") as told:
            lines = told.read().decode().splitlines()
        os.close(self._here)
        _, status = os.waitpid(self.pid, 0)
        operations = [int(line[1:]) for line in lines if line.startswith("#")]
        said = [line for line in lines if not line.startswith("#")]
        return End(os.waitstatus_to_exitcode(status), " ".join(said), operations[0] if operations else 0)


def _train(
    out: Path,
    domains: dict[str, Domain],
    resume: bool,
    prepare: Callable[[], None],
    kill_at: int | None,
    delay: float | None,
    tell: int,
    here: int,
) -> None:
    count = 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event in _CHANGES or (event == "open" and str(args[0]).startswith(str(out))):
            count += 1
            if count == kill_at and delay is None:
                os.kill(os.getpid(), signal.SIGKILL)
            elif count == kill_at:
                os.write(here, b"!")

    sys.addaudithook(watch)
    prepare()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(run_config(out), domains, resume=resume)
    for warning in caught:
        os.write(tell, f"{warning.message}\n".encode())
    os.write(tell, f"#{count}\n".encode())


def result(out: Path) -> dict[str, str]:
    """What a finished run ended with: hashes of the weights of its last checkpoint and of its best model, and more."""
    files = [
        checkpoints(out)[-1] / "model.safetensors",
        *sorted((out / "best").glob("step_*/*.safetensors")),
        *sorted((out / "best").glob("step_*/best.json")),
        out / "starts.json",
        *sorted((out / "previews").iterdir()),
    ]
    found = {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), rows
    found["losses"] = repr([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
    return found


def check_left(out: Path) -> bool:
    """Check what a killed process left; gives whether there is a run to resume."""
    saved, errors = newest_whole(out)
    # What is left of the starts after the first checkpoint is of no use, and is deleted.
    begun, start_errors = newest_whole(out / STARTS) if saved is None else (None, [])
    assert not errors + start_errors
    assert damage_of_best(out) is None
    log = out / "metrics.jsonl"
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")] if log.exists() else []
    assert [json.loads(line)["step"] for line in whole] == list(range(1, len(whole) + 1))
    age = len(whole) - (step_of(saved) if saved else 0)
    assert 0 <= age <= INTERVAL, f"the newest checkpoint is {age} iterations old"
    return bool(saved or begun or (out / "config.yaml").exists())
