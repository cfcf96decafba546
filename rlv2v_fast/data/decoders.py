"""Processes that decode videos for the cache, and what they and their parent say to each other.

A request is a line of JSON on a process's standard input, and its answer a line on its standard output. The standard
library's pools are not used: each of their processes runs the user's script again, or is a copy of one with threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from rlv2v_fast.data.entries import UnwritableError, make_entry
from rlv2v_fast.errors import InputError

# Seconds in which the reason that ended a process may end its parent.
_GRACE = 0.5
_PROGRAM = "import sys; sys.path[:] = {path!r}; from rlv2v_fast.data.decoders import serve; serve()"


class Decoder:
    """A process that makes entries of the cache, one at a time. Where it dies, this process does its work."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
        with suppress(OSError):
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def make_entry(self, video: Path, size: int, path: Path, *, wait: bool) -> bool:
        """As rlv2v_fast.data.entries.make_entry. False as well once the process has been ended."""
        answer = self._ask({"video": str(video), "size": size, "path": str(path), "wait": wait})
        if self._closed.is_set():
            return False
        if answer is None:
            # A signal to all processes of a terminal ends this one soon, too.
            if self._closed.wait(_GRACE):
                return False
            return make_entry(video, size, path, wait=wait)
        if "unwritable" in answer:
            raise UnwritableError(str(answer["unwritable"]))
        if "error" in answer:
            raise InputError(str(answer["error"]))
        return bool(answer["made"])

    def _ask(self, request: dict[str, str | int]) -> dict[str, str | bool] | None:
        """The answer; None where the process is dead."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):
            return None
        return json.loads(answer) if answer.endswith("\n") else None

    def close(self) -> None:
        """End the process, in the middle of a video as well."""
        self._closed.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Nothing but answers may reach the parent: libraries print what they like.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            made = make_entry(Path(request["video"]), request["size"], Path(request["path"]), wait=request["wait"])
            answer: dict[str, str | bool] = {"made": made}
        except UnwritableError as error:
            answer = {"unwritable": str(error)}
        except InputError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
