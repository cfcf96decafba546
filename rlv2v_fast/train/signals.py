"""Signals that ask a process to end: Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end. As KeyboardInterrupt does, it passes by `except Exception`.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that the signal ended: 130, 143 or 129."""
        return 128 + self.signum

    def __str__(self) -> str:
        return {2: "interrupted", 15: "terminated", 1: "hung up"}.get(self.signum, f"ended by signal {self.signum}")


@contextmanager
def raised() -> Iterator[None]:
    """Within the context each of the signals raises Stopped in the main thread, so that what was begun is cleared up.

    A signal that the process was started to ignore, as nohup does, stays ignored.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled(stop):
        yield


@contextmanager
def held_back() -> Iterator[Callable[[], int]]:
    """Hold the signals back within the context; gives a function that returns the number of the one that came, or 0.

    A second Ctrl-C raises Stopped at once. Further signals of other kinds change nothing: torchrun and terminals send
    several.
    """
    came = 0

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and signum == signal.SIGINT:
            raise Stopped(signum)
        came = came or signum

    with _handled(note):
        yield lambda: came


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {}
    try:
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                previous[signum] = signal.signal(signum, handler)
    except ValueError:  # not the main thread: signals go elsewhere
        pass
    try:
        yield
    finally:
        for signum, earlier in previous.items():
            signal.signal(signum, signal.SIG_DFL if earlier is None else earlier)
