"""Try faults, all or those named, and write what came of them into docs/reliability.md.

`python -m tests.trust kill flip --times 20 --write`
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.trust import crashes, hostile

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"


@dataclass(frozen=True)
class Fault:
    """A fault: what it is, how to try it, and how often by default."""

    name: str
    attempt: Callable[[int, random.Random, Path], str]
    times: int


FAULTS = {
    "kill": Fault("A training process is killed (SIGKILL)", crashes.kill, 200),
    "flip": Fault("A bit of a file of the newest checkpoint flips", crashes.flip, 50),
    "full": Fault("A file cannot grow (RLIMIT_FSIZE)", crashes.full, 30),
    "tmpfs": Fault("The disk of a run fills (a tmpfs; needs root)", crashes.tmpfs, 20),
    "readonly": Fault("The folder of a run becomes read-only", crashes.readonly, 10),
    "clock": Fault("The clock jumps by up to ten years at each reading", crashes.clock, 10),
    "second": Fault("A second process trains into the same folder", crashes.second, 10),
    "hostile": Fault("A file that is read is damaged or hostile", hostile.attempt, 5000),
    "places": Fault("A file has an odd name or is no file", hostile.places, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.trust", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--times", type=int, help="how often to try each; by default as FAULTS says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the rows into docs/reliability.md")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - FAULTS.keys())
    if unknown:
        parser.error(f"unknown fault {unknown[0]!r}; known are {', '.join(FAULTS)}")
    failed = False
    for name in options.names or FAULTS:
        fault = FAULTS[name]
        times, begin = options.times or fault.times, time.monotonic()
        # Each fault is tried in a process of its own: what one does to its process is nothing to the next.
        with tempfile.TemporaryDirectory(prefix="trust-") as folder:
            outcome = in_child(fault, times, options.seed, Path(folder))
        if outcome == "":
            continue
        failed = failed or outcome is None
        command = f"python -m tests.trust {name} --times {times} --seed {options.seed}"
        row = f"| {fault.name} | {times} | {outcome or '**failed**'} | `{command}` |"
        print(f"{row}  ({time.monotonic() - begin:.0f} s)", flush=True)
        if options.write:
            write_row(name, row)
    raise SystemExit(failed)


def in_child(fault: Fault, times: int, seed: int, folder: Path) -> str | None:
    """The outcome of a fault; None where something did not hold, "" where it cannot be tried here. Both are printed."""
    answer, tell = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.write(tell, fault.attempt(times, random.Random(seed), folder).encode())
            status = 0
        except crashes.ImpossibleError as error:
            print(f"{fault.name}: cannot be tried here: {error}")
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(tell)
    with os.fdopen(answer, "rb") as told:
        outcome = told.read().decode()
    _, status = os.waitpid(child, 0)
    return outcome if status == 0 else None


def write_row(name: str, row: str) -> None:
    """Put a row into the page's table: in place of the fault's earlier one, or at the end."""
    text = PAGE.read_text()
    old = re.search(rf"^\| .*`python -m tests\.trust {name} .*\n", text, re.MULTILINE)
    if old:
        text = text.replace(old[0], row + "\n")
    else:
        rule = re.search(r"^\| *-.*\n(\|.*\n)*", text, re.MULTILINE)
        assert rule is not None, "the page has no table"
        text = text[: rule.end()] + row + "\n" + text[rule.end() :]
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
