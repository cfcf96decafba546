"""Faults of a training run: kills, full disks, folders without permission, clocks that jump, other processes, bad bits.

Each function tries its fault some times in a folder, asserts what must hold, and gives the outcome in a sentence.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import shutil
import subprocess
import time
from pathlib import Path

from rlv2v_fast.train.checkpoint import checkpoints
from tests.trust.lives import INTERVAL, REFUSED, End, Life, check_left, make_domains, result

_NOBODY = 65534


class ImpossibleError(Exception):
    """A fault cannot be tried by this user or on this system."""


class Runs:
    """Runs in folders of their own, and the one that nothing disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.domains = folder, make_domains()
        self._count = 0
        begin = time.monotonic()
        straight = self.new()
        end = Life(straight, self.domains).end()
        assert end.status == 0, end
        self.seconds, self.operations = time.monotonic() - begin, end.operations
        self.wanted = result(straight)

    def new(self) -> Path:
        self._count += 1
        return self.folder / f"run{self._count}"

    def finish(self, out: Path, *, resume: bool = True) -> End:
        """Let a run go on to its end, compare it with the undisturbed one, and delete it."""
        end = Life(out, self.domains, resume=resume).end()
        assert end.status == 0, end
        self.compare(out)
        return end

    def compare(self, out: Path) -> None:
        """Compare a finished run with the undisturbed one, and delete it."""
        found = result(out)
        different = [name for name in found | self.wanted if found.get(name) != self.wanted.get(name)]
        assert not different, f"{different} of {out} differ from those of the undisturbed run"
        left = list(out.rglob(".*"))
        assert not left, left
        shutil.rmtree(out)


def kill(times: int, rng: random.Random, folder: Path) -> str:
    """SIGKILL: before a file operation, within 5 ms after one, or at any time."""
    runs = Runs(folder)
    killed = {"before a file operation": 0, "within 5 ms after one": 0, "at any time": 0}
    finished = unbegun = 0
    while sum(killed.values()) < times:
        out, resume = runs.new(), False
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice(list(killed))
            left = max(1, runs.operations if not resume else runs.operations // 2)
            if kind == "at any time":
                life = Life(out, runs.domains, resume=resume)
                time.sleep(rng.uniform(0, runs.seconds))
                life.kill()
            else:
                delay = rng.uniform(0, 0.005) if kind.startswith("within") else None
                life = Life(out, runs.domains, resume=resume, kill_at=rng.randint(1, left), delay=delay)
            end = life.end()
            assert end.status in (0, -9), end
            if end.status == 0:
                break
            killed[kind] += 1
            resume = check_left(out)
            unbegun += not resume
            if sum(killed.values()) == times:
                break
        finished += 1
        if end.status == 0:
            runs.compare(out)
        else:
            runs.finish(out, resume=resume)
    kinds = ", ".join(f"{count} {kind}" for kind, count in killed.items())
    return (
        f"{kinds}: each time a whole checkpoint at most one interval ({INTERVAL} iterations) old or the first step; "
        f"{finished} runs ended with the weights, best model, losses and previews of the run never killed; "
        f"{unbegun} kills came before there was anything to resume"
    )


def full(times: int, rng: random.Random, folder: Path) -> str:
    """A limit on the size of a file, at which writing fails as on a full disk."""
    runs = Runs(folder)
    refused = 0
    for _ in range(times):
        out, room = runs.new(), int(2 ** rng.uniform(6, 18))

        def limit(room: int = room) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        end = Life(out, runs.domains, prepare=limit).end()
        assert end.status in (0, REFUSED), end
        if end.status == REFUSED:
            assert "cannot be written" in end.said, end
            refused += 1
        resume = check_left(out)
        runs.finish(out, resume=resume) if end.status else runs.compare(out)
    return f"{refused} runs ended with one sentence that names the file, {times - refused} had room; all resumed alike"


def tmpfs(times: int, rng: random.Random, folder: Path) -> str:
    """A small file system that fills."""
    runs = Runs(folder)
    refused = 0
    for _ in range(times):
        out = runs.new()
        out.mkdir()
        size = f"size={rng.randint(16, 2000)}k"
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", out], capture_output=True, text=True)
        if mount.returncode:
            raise ImpossibleError(mount.stderr.strip())
        try:
            end = Life(out, runs.domains).end()
            assert end.status in (0, REFUSED), end
            refused += end.status == REFUSED
            assert end.status == 0 or "cannot be written" in end.said, end
            resume = check_left(out)
            kept = runs.new()
            shutil.copytree(out, kept)
        finally:
            subprocess.run(["umount", out], check=True)
        runs.finish(kept, resume=resume) if end.status else runs.compare(kept)
    return f"{refused} runs ended with one sentence that names the file, {times - refused} had room; all resumed alike"


def readonly(times: int, rng: random.Random, folder: Path) -> str:
    """A folder that may not be written: from the start, or from a moment of the run on."""
    runs = Runs(folder)
    folder.chmod(0o777)

    def as_nobody() -> None:
        if os.getuid() == 0:  # whom permissions do not bind
            os.setuid(_NOBODY)

    late = 0
    for _ in range(times):
        out = runs.new()
        out.mkdir(mode=0o555)
        end = Life(out, runs.domains, prepare=as_nobody).end()
        assert end.status == REFUSED, end
        assert "not writable" in end.said or "cannot be written" in end.said, end
        out.chmod(0o777)
        life = Life(out, runs.domains, prepare=as_nobody)
        time.sleep(rng.uniform(0, 0.7 * runs.seconds))
        _allow(out, 0o555)
        end = life.end()
        _allow(out, 0o777)
        assert end.status in (0, REFUSED), end
        late += end.status == REFUSED
        if end.status == REFUSED:
            assert "cannot be written" in end.said or "not writable" in end.said, end
            runs.finish(out, resume=check_left(out))
    return (
        f"{times} runs were refused at their start, and {late} of {times} during the run, each with one sentence; "
        f"these resumed alike"
    )


def _allow(out: Path, mode: int) -> None:
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        with contextlib.suppress(OSError):  # the run may just have renamed it
            folder.chmod(mode)


def _let_clock_jump(seed: float) -> None:
    jumps, now = random.Random(seed), time.time
    time.time = lambda: now() + jumps.uniform(-3e8, 3e8)
    time.time_ns = lambda: int(1e9 * time.time())


def clock(times: int, rng: random.Random, folder: Path) -> str:
    """A clock that jumps by up to ten years, forwards or back, each time that it is read."""
    runs = Runs(folder)
    for _ in range(times):
        out, jumping = runs.new(), functools.partial(_let_clock_jump, rng.random())
        end = Life(out, runs.domains, prepare=jumping, kill_at=rng.randint(1, runs.operations)).end()
        assert end.status == -9, end
        runs.finish(out, resume=check_left(out))
    return "each was killed as well, and resumed to the weights of the run whose clock was right"


def second(times: int, rng: random.Random, folder: Path) -> str:
    """A second process that trains into the folder of the first."""
    runs = Runs(folder)
    for _ in range(times):
        out = runs.new()
        first = Life(out, runs.domains)
        while not (out / "config.yaml").exists():
            time.sleep(0.01)
        end = Life(out, runs.domains, resume=rng.random() < 0.5).end()
        assert end.status == REFUSED, end
        assert "in use" in end.said or "already holds" in end.said, end
        assert first.end().status == 0
        runs.compare(out)
    return "the second was refused with one sentence, and the first ended as if alone"


def flip(times: int, rng: random.Random, folder: Path) -> str:
    """One bit of one file of the newest checkpoint, changed after a kill."""
    runs = Runs(folder)
    names: dict[str, int] = {}
    tried = 0
    while tried < times:
        out = runs.new()
        end = Life(out, runs.domains, kill_at=rng.randint(runs.operations // 2, runs.operations)).end()
        kept = checkpoints(out)
        if end.status == 0 or len(kept) < 2:
            shutil.rmtree(out)
            continue
        file = rng.choice(sorted(kept[-1].iterdir()))
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        end = Life(out, runs.domains, resume=True).end()
        assert end.status == 0, end
        assert f"file {str(file)!r} is damaged" in end.said, end
        assert str(kept[-2]) in end.said, end
        for aside in (out / "checkpoints").glob("damaged_*"):
            shutil.rmtree(aside)
        runs.compare(out)
        names[file.name] = names.get(file.name, 0) + 1
        tried += 1
    each = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    return f"the file was named ({each}), and the run resumed from the checkpoint before to the same weights"
