"""Writing the report of a run, at the end of the run or when asked."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rlv2v_fast.errors import InputError, TrainingDivergedError
from rlv2v_fast.files import replaced
from rlv2v_fast.train import distributed
from rlv2v_fast.train.checkpoint import SETTINGS_FILE
from rlv2v_fast.train.config import TrainConfig, resolve_device
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.report import samples
from rlv2v_fast.train.report.facts import SESSIONS_FILE, Facts, collect
from rlv2v_fast.train.report.page import duration, page
from rlv2v_fast.train.signals import Stopped

REPORT_FILE = "report.html"
# Variables of docs/environment.md that change how a run computes.
_VARIABLES = (
    "RLV2V_FAST_ISA",
    "RLV2V_FAST_SCRATCH_MB",
    "TRITON_INTERPRET",
    "OMP_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "CUDA_VISIBLE_DEVICES",
)


def write_report(run: Path, domains: Mapping[str, ClipSource] | None = None, device: str = "auto") -> Path:
    """Write run/report.html; gives its path.

    Args:
        domains: the clips of the run, for samples of videos that cannot be read.
        device: translates the samples.

    Raises:
        InputError: run is not the folder of a run, device does not exist, or the report cannot be written.
    """
    facts = collect(run)
    note = _sample(facts, domains, device)
    _, scenes = samples.saved(run)
    text = page(facts, scenes, note, datetime.now())
    path = run / REPORT_FILE
    with replaced(path, f"report {str(path)!r}") as unfinished:
        # A file name that is not UTF-8 has characters that cannot be written.
        unfinished.write_bytes(text.encode(errors="replace"))
    return path


def _sample(facts: Facts, domains: Mapping[str, ClipSource] | None, device: str) -> str:
    """Make the samples of a run's model where they are missing; gives a sentence on them."""
    there, _ = samples.saved(facts.run)
    if facts.model is None:
        return "There are none: the run has saved no model yet."
    step = f"iteration {int(facts.model.name.removeprefix('step_')):,}" if "step_" in facts.model.name else "the run"
    of = "The model is a look." if facts.look.get("alone") else f"By the model of {step}."
    if there == facts.model.name:
        return of
    try:
        samples.make(facts.run, facts.model, samples.clips_of(facts.config, domains), resolve_device(device))
    except (InputError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"Those of an earlier model: {reason}." if there else f"There are none: {reason}."
    return of


@contextmanager
def reported(config: TrainConfig, domains: Mapping[str, ClipSource], environment: Sequence[str] = ()) -> Iterator[None]:
    """A run is made within the context, and its report is written as it ends, is stopped, or diverges.

    Where the report cannot be written, a sentence on standard error says so and nothing else changes. In a run of
    several processes the first writes it.

    Args:
        config: of the run.
        environment: what to tell of the machine, a fact a line.
    """
    began, begin = datetime.now(), time.monotonic()
    how = ""
    try:
        yield
        how = "ended"
    except Stopped as stopped:
        how = str(stopped)
        raise
    except TrainingDivergedError as error:
        how = str(error)
        raise
    finally:
        if how and config.out is not None and distributed.rank() == 0 and (config.out / SETTINGS_FILE).is_file():
            session = {
                "began": began.isoformat(" ", "minutes"),
                "took": duration(time.monotonic() - begin),
                "how": how,
                "processes": distributed.count(),
                "environment": list(environment),
                "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
            }
            _write_at_end(config, domains, session)


def _write_at_end(config: TrainConfig, domains: Mapping[str, ClipSource], session: Mapping[str, object]) -> None:
    assert config.out is not None
    try:
        with (config.out / SESSIONS_FILE).open("a") as file:
            file.write(json.dumps(session) + "\n")
        write_report(config.out, domains, config.device)
    except Exception as error:  # whatever fails here, the run itself is complete
        reason = (str(error) or repr(error)).splitlines()[0]
        print(f"rlv2v: the report could not be written: {reason}", file=sys.stderr)
