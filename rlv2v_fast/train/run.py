"""The life of a run around its iterations: its folder, its starts, progress, files, and signals to end."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from rlv2v_fast.data.locks import locked
from rlv2v_fast.errors import InputError, RunWarning, TrainingDivergedError
from rlv2v_fast.files import check_folder, remove_temporaries, write_text
from rlv2v_fast.train import distributed, look
from rlv2v_fast.train.checkpoint import (
    SETTINGS_FILE,
    best_folder,
    checkpoints,
    damage_of_best,
    newest_whole,
    remove_unfinished,
    save_best,
    set_aside,
    step_of,
)
from rlv2v_fast.train.config import TrainConfig, check_unchanged, load_config, save_config
from rlv2v_fast.train.logging import METRICS_FILE, RunLog, preview_rows, save_preview, summary_writer
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.selection import is_judged, judged_clips, keep_if_best
from rlv2v_fast.train.signals import Stopped, held_back
from rlv2v_fast.train.starts import STARTS, Race
from rlv2v_fast.train.trainer import Trainer


def fit(config: TrainConfig, domains: Mapping[str, ClipSource], *, resume: bool = False) -> Trainer:
    """The trainer after the run that config describes, in the folder config.out.

    Args:
        resume: continue from the newest whole checkpoint in that folder, or from its unfinished starts; from the first
            step where the run was killed before either was written. What is damaged is set aside, with a RunWarning.

    Raises:
        InputError: the folder cannot be used, another process uses it, or the run cannot be resumed as asked.
        TrainingDivergedError: a loss is NaN or infinite. The last checkpoint stays.
        Stopped: after Ctrl-C, SIGTERM or SIGHUP, once the running iteration has ended and all is saved.
    """
    assert config.out is not None
    run = config.out
    with ExitStack() as held:
        saved, begun = distributed.from_first(lambda: _prepare(config, run, resume, held))
        deadline = time.monotonic() + 60 * (config.max_minutes or math.inf)
        came = held.enter_context(held_back())
        ending = _Ending(came, deadline)
        if saved is not None:
            trainer = Trainer(config, domains)
            trainer.load(saved)
        else:
            trainer = _begin(config, domains, run, begun, ending)
        _train_to_end(trainer, run, ending.ask)
        if saved is None or trainer.step > step_of(saved):
            _save(trainer, run)
        ending.ask()
        ending.raise_if_stopped()
    return trainer


class _Ending:
    """Whether a run ends before its last step, agreed among its processes: a signal to any, or the clock of the first.

    Args:
        came: gives the number of the signal that came to this process, or 0.
        deadline: in seconds of time.monotonic.
    """

    def __init__(self, came: Callable[[], int], deadline: float) -> None:
        self._came, self._deadline = came, deadline
        self._signum = 0

    def ask(self) -> bool:
        """Whether the run is over. All processes must ask together."""
        late = distributed.rank() == 0 and time.monotonic() >= self._deadline
        signum = self._came()
        answer = distributed.largest(signum + 1 if signum else int(late))
        self._signum = answer - 1 if answer > 1 else 0
        return answer > 0

    @property
    def is_stopped(self) -> bool:
        """Whether a signal was the reason, when last asked."""
        return self._signum > 0

    def raise_if_stopped(self) -> None:
        if self.is_stopped:
            raise Stopped(self._signum)


def settle(config: TrainConfig, domains: Mapping[str, ClipSource]) -> tuple[bool, str]:
    """Whether an estimated look is all that a fresh run needs, and why, in words; (False, "") where config asks not.

    The estimate is written into run/look.json. Where it is all, its model is in run/best, and fit must not be called.

    Raises:
        InputError: the folder cannot be used.
    """
    assert config.out is not None
    run = config.out
    if config.look == "never":
        return False, ""

    def decide() -> tuple[bool, str]:
        with ExitStack() as held:
            _prepare(config, run, False, held)
            found = look.settle(domains, config.pairs)
            look.write_report(found, run)
            if found.alone:
                save_config(config, run / "config.yaml")
                model = look.model_of(found)
                clips = {domain: source.spread(1) for domain, source in domains.items()}
                save_preview(preview_rows(model, clips, torch.device("cpu")), run / "previews" / "step_00000000.png")
                save_best(run, 0, model, 0.0)
            return found.alone, str(found)

    return distributed.from_first(decide)


def _train_to_end(trainer: Trainer, run: Path, is_over: Callable[[], bool]) -> None:
    """Train and record each iteration, to the last step or until is_over()."""
    config = trainer.config
    log = _open_log(config, run, trainer.step) if distributed.rank() == 0 else None
    judged = judged_clips(trainer.domains) if log is not None and config.select_every is not None else None
    try:
        while trainer.step < config.steps and not is_over():
            _step_and_record(trainer, log, run, judged)
    except TrainingDivergedError as error:
        kept = checkpoints(run)
        where = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint had been written yet"
        raise TrainingDivergedError(f"{error}; {where}") from None
    finally:
        if log is not None:
            log.close()


def _begin(
    config: TrainConfig, domains: Mapping[str, ClipSource], run: Path, begun: Path | None, ending: _Ending
) -> Trainer:
    """A trainer before its first step, after the starts if config asks for several, with a progress bar.

    Their state is saved as often as the run's. Their distances are written into run/starts.json.

    Args:
        begun: the state of starts to go on from, if there is one.

    Raises:
        Stopped: a signal came, and the state of the starts is saved.
    """
    first = distributed.rank() == 0
    if first:
        save_config(config, run / "config.yaml")
    if config.starts == 1:
        return Trainer(config, domains)
    race = Race(config, domains)
    if begun is not None:
        race.load(begun)
    total = config.starts * config.start_steps
    with tqdm(total=total, initial=race.steps, desc="starts", unit="step", disable=config.quiet or not first) as bar:

        def count_step() -> bool:
            bar.update()
            over = ending.ask()
            if ending.is_stopped or race.steps % config.checkpoint_every == 0:
                race.save(run)
            ending.raise_if_stopped()
            return over

        race.run(count_step, judged=lambda: race.save(run))
    if first:
        # JSON has no infinity: a start that diverged is null.
        finite = {name: [d if math.isfinite(d) else None for d in each] for name, each in race.distances.items()}
        write_text(run / "starts.json", json.dumps(finite) + "\n", f"report {str(run / 'starts.json')!r}")
    return race.trainer


def _save(trainer: Trainer, run: Path) -> None:
    """Write a checkpoint. What was kept of the starts is then of no use."""
    trainer.save(run)
    if distributed.rank() == 0:
        shutil.rmtree(run / STARTS, ignore_errors=True)


def _open_log(config: TrainConfig, run: Path, step: int) -> RunLog:
    save_config(config, run / "config.yaml")  # a resumed run may have changed it
    expected = config.steps if config.max_minutes is None else None
    return RunLog(run, step, expected, quiet=config.quiet, tensorboard=config.tensorboard)


def _step_and_record(trainer: Trainer, log: RunLog | None, run: Path, judged: Mapping[str, Tensor] | None) -> None:
    """One iteration, then its row, preview, judgement and checkpoint where they are due.

    A process without a log writes only its own part of checkpoints.
    """
    config = trainer.config
    begin = time.perf_counter()
    losses = trainer.iterate()
    seconds = time.perf_counter() - begin
    if judged is not None and is_judged(config, trainer.step):
        losses["distance"] = keep_if_best(trainer, judged, run)
    if log is not None:
        log.row(trainer.step, seconds, losses)
        if trainer.step % config.preview_every == 0 or trainer.step == config.steps:
            trainer.preview(run / "previews" / f"step_{trainer.step:08d}.png")
    if trainer.step % config.checkpoint_every == 0 and trainer.step < config.steps:
        _save(trainer, run)


def check_place(config: TrainConfig, *, resume: bool) -> tuple[Path | None, Path | None]:
    """The checkpoint to resume from, or the state of starts; both None for a fresh run.

    It writes nothing, so it may come before any work.

    Raises:
        InputError: the run cannot be written into config.out, which holds another run or none, or is not writable.
    """
    assert config.out is not None
    run = config.out
    check_folder(run, f"out {str(run)!r}")
    saved, _ = newest_whole(run)
    # What a run that was killed just then left of its starts after its first checkpoint is of no use.
    begun = newest_whole(run / STARTS)[0] if saved is None else None
    if resume and saved is None and begun is None and not _is_begun(config, run):
        raise InputError(f"out {str(run)!r} holds no checkpoint to resume from")
    if (saved or begun) and not resume:
        raise InputError(f"out {str(run)!r} already holds a run; pass --resume to continue it, or another folder")
    if not resume and best_folder(run) is not None:
        # A run that ended before its first checkpoint left it. It would be taken for this run's.
        raise InputError(f"out {str(run)!r} already holds the best model of a run; remove it, or pass another folder")
    return saved, begun


def _is_begun(config: TrainConfig, run: Path) -> bool:
    """Whether a run with this config was killed before its first checkpoint: it is resumed from its first step.

    InputError names a setting that would change the run. A look that was all a run needed is no run to resume.
    """
    if not (run / SETTINGS_FILE).is_file() or (best_folder(run) and not (run / METRICS_FILE).is_file()):
        return False
    check_unchanged(load_config(run / SETTINGS_FILE), config)
    return True


def _prepare(config: TrainConfig, run: Path, resume: bool, held: ExitStack) -> tuple[Path | None, Path | None]:
    """What check_place gives. Makes the run's folder, which is this process's alone until held is closed.

    What is damaged is set aside, with a warning; the run goes on from what was before.
    """
    if not run.is_dir():
        check_place(config, resume=resume)
    try:
        run.mkdir(parents=True, exist_ok=True)
        is_mine = held.enter_context(locked(run / ".lock", wait=False))
    except OSError as error:
        raise InputError(f"out {str(run)!r} cannot be written: {error.strerror}") from error
    if not is_mine:
        raise InputError(f"out {str(run)!r} is in use: another process trains into it")
    found = check_place(config, resume=resume)
    if config.tensorboard:
        summary_writer()
    for folder in (run, run / "previews"):
        remove_temporaries(folder)
    remove_unfinished(run)
    remove_unfinished(run / STARTS)
    if found[0] is not None:
        shutil.rmtree(run / STARTS, ignore_errors=True)
    if resume:
        _set_damaged_aside(run, found)
        if found == (None, None):
            shutil.rmtree(run / "best", ignore_errors=True)  # the run makes it again
    return found


def _set_damaged_aside(run: Path, found: tuple[Path | None, Path | None]) -> None:
    for folder, whole in zip((run, run / STARTS), found, strict=True):
        if whole is None:
            continue
        _, errors = newest_whole(folder)
        for damaged, error in zip(reversed(checkpoints(folder)), errors, strict=False):
            aside = set_aside(damaged)
            warnings.warn(f"{error}; the run goes on from {whole}, and {aside} may be deleted", RunWarning)
    if (best := damage_of_best(run)) is not None:
        aside = set_aside(best[0])
        warnings.warn(f"{best[1]}; the best model is sought anew, and {aside} may be deleted", RunWarning)
