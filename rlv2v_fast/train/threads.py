"""How many threads training uses on a CPU: chosen, and chosen again, by what an iteration costs.

Threads wait for each other hundreds of times an iteration. Where another process has a core, two threads are slower
than one: the one that runs waits for the one that does not. Nothing tells this but the time that iterations take.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Iterations that are measured together: reinforcement learning makes every fourth one longer.
_WINDOW = 4
# Iterations before the first trial, after a change to fewer threads, and at most. They double with each trial in vain.
_SOONEST, _LATER, _LATEST = 8, 32, 128
# A number of threads is tried next to the current one where the current one gets the time of hardly more cores.
_SPARE = 1.25
# What a number of threads must save to be taken, and by how much an iteration must change to be looked into at once.
_GAIN, _CHANGE = 0.03, 0.3


class Chooser:
    """Chooses among `most` threads and each smaller power of two.

    It compares the mean time of a few iterations with that of another number, which it tries now and then: a lower one
    as soon as the processor time of iterations shows that threads do not run at the same time.

    Args:
        most: threads at first, and at most.
        use: called with a number of threads, which the next iterations then use.
        wall, processor: clocks, in seconds; the processor's counts all threads of the process.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], None],
        wall: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self._numbers = [most, *(2**power for power in reversed(range(most.bit_length())) if 2**power < most)]
        self._use, self._wall, self._processor = use, wall, processor
        self._current = 0
        self._trial: int | None = None
        self._costs: list[tuple[float, float]] = []
        # Seconds of an iteration with the current number when it was last looked at, and the number last tried in vain.
        self._usual = math.inf
        self._failed: int | None = None
        self._since, self._wait = 0, _SOONEST

    @property
    def threads(self) -> int:
        """The number in use, which may be on trial."""
        return self._numbers[self._current if self._trial is None else self._trial]

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Measures the iteration inside, and decides before the next."""
        began, used = self._wall(), self._processor()
        yield
        self._costs.append((self._wall() - began, self._processor() - used))
        self._since += 1
        if self._trial is not None:
            # The first iteration after a change starts threads.
            if len(self._costs) == _WINDOW + 1:
                self._judge()
        elif len(self._costs) >= _WINDOW:
            self._costs = self._costs[-_WINDOW:]
            self._consider()

    def _consider(self) -> None:
        """Start a trial where one is due."""
        if self._since < _SOONEST:
            return
        seconds, cores = self._measured()
        lower, higher = self._lower(cores), self._current - 1
        due = self._since >= self._wait
        if lower is not None and (due or seconds > self._usual * (1 + _CHANGE)):
            self._try(lower, seconds)
        elif higher >= 0 and (due or seconds < self._usual * (1 - _CHANGE)):
            self._try(higher, seconds)
        elif due:
            self._usual, self._failed = seconds, None

    def _lower(self, cores: float) -> int | None:
        """The lower number to try where threads have hardly more cores than it has threads; else None."""
        following = self._current + 1
        if following == len(self._numbers) or cores >= _SPARE * self._numbers[following]:
            return None
        fitting = next(i for i in range(following, len(self._numbers)) if self._numbers[i] <= max(1, _SPARE * cores))
        lower = following if self._failed == fitting else fitting
        return None if self._failed == lower and self._current > 0 else lower

    def _judge(self) -> None:
        """Keep the number on trial if it was faster, and go back if not."""
        assert self._trial is not None
        del self._costs[0]
        seconds, _ = self._measured()
        if seconds < self._usual * (1 - _GAIN):
            self._wait = _LATER if self._trial > self._current else _SOONEST
            self._current, self._usual, self._failed = self._trial, seconds, None
        else:
            self._wait, self._failed = min(_LATEST, 2 * self._wait), self._trial
        self._trial, self._since, self._costs = None, 0, []
        self._use(self.threads)

    def _try(self, index: int, usual: float) -> None:
        self._trial, self._usual, self._costs = index, usual, []
        self._use(self.threads)

    def _measured(self) -> tuple[float, float]:
        """Mean seconds of the iterations measured, and how many cores they had."""
        wall, processor = (sum(times) for times in zip(*self._costs, strict=True))
        return wall / len(self._costs), processor / max(wall, 1e-9)


_allowed = False
_chooser: Chooser | None = None


def allow() -> None:
    """Have the iterations of this process choose its threads. The rlv2v command calls it; as a library nobody does."""
    global _allowed
    _allowed = True


@contextmanager
def iteration(device: torch.device) -> Iterator[None]:
    """An iteration on a device: on a CPU it is measured, where choosing is allowed and the user gave no number."""
    global _chooser
    told = "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ
    if not _allowed or told or device.type != "cpu":
        yield
        return
    _chooser = _chooser or Chooser(torch.get_num_threads(), torch.set_num_threads)
    with _chooser.iteration():
        yield
