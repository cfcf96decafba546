"""Seconds of a training iteration with and without another process that keeps one core busy.

    python -m bench.busy [--seconds 40] [--rounds 3]

Each way of starting has a process of its own, because OpenMP reads its variables once. The machine must be quiet:
"quiet" and "busy" are what this script makes of it. Ways in turn within each round; a figure is the mean over a
process's time after its first two iterations, and the median over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.cases import ROOT

# What the variables of a process are, and whether it does what the command rlv2v does.
WAYS: dict[str, tuple[dict[str, str], bool]] = {
    "rlv2v": ({}, True),
    "library": ({}, False),
    "GOMP_SPINCOUNT=30000": ({"GOMP_SPINCOUNT": "30000"}, False),
    "GOMP_SPINCOUNT=2000": ({"GOMP_SPINCOUNT": "2000"}, False),
    "OMP_NUM_THREADS=1": ({"OMP_NUM_THREADS": "1"}, False),
}
_ITERATE = """
import json, sys, time
seconds, command = float(sys.argv[1]), sys.argv[2] == "command"
if command:
    from rlv2v_fast.machine import settle
    settle(trains=True)
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips
from rlv2v_fast.train import threads
from rlv2v_fast.train.config import load_config, resolve
from rlv2v_fast.train.trainer import Trainer
if command:
    threads.allow()
config = resolve(load_config("figure1-cpu"))
clips = {name: figure1_clips(kind, 8, config.frames, config.size) for name, kind in (("x", "source"), ("y", "target"))}
domains = {name: Domain.from_arrays(c, frames=config.frames, size=config.size) for name, c in clips.items()}
trainer = Trainer(config, domains)
for _ in range(2):
    trainer.iterate()
began, steps = time.perf_counter(), trainer.step
while time.perf_counter() < began + seconds:
    trainer.iterate()
print(json.dumps((time.perf_counter() - began) / (trainer.step - steps)))
"""


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that keeps one core busy meanwhile."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def seconds_of(way: str, seconds: float) -> float:
    """Mean seconds of an iteration in a process started this way."""
    variables, command = WAYS[way]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    arguments = [sys.executable, "-c", _ITERATE, str(seconds), "command" if command else "library"]
    done = subprocess.run(
        arguments, env=environment | variables, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    print("load before:", " ".join(f"{each:.2f}" for each in os.getloadavg()))
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for way in options.ways:
            found.setdefault((way, "quiet"), []).append(seconds_of(way, options.seconds))
            with busy_core():
                found.setdefault((way, "busy"), []).append(seconds_of(way, options.seconds))
    print("| started by | quiet | one core busy | busy over quiet |\n|---|---|---|---|")
    for way in options.ways:
        quiet, busy = found[way, "quiet"], found[way, "busy"]
        ratio = statistics.median(b / q for b, q in zip(busy, quiet, strict=True))
        columns = [f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in (quiet, busy)]
        print(f"| {way} | {columns[0]} | {columns[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
