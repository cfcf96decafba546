import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from PIL import Image

import rlv2v_fast
from rlv2v_fast import cli
from rlv2v_fast.data.synthetic import write_figure1
from rlv2v_fast.data.video import probe, read_frames
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.config import (
    COMMON,
    TrainConfig,
    _flat,
    load_config,
    presets,
    resolve,
    resolve_device,
    save_config,
    to_dict,
)
from rlv2v_fast.train.demo import NO_FILES, run_demo
from tests.data.helpers import no_more_than

TINY = ["--size", "16", "--frames", "4", "--network.width", "2", "--device", "cpu", "--quiet"]
TINY += ["--config", "paper", "--rl.weight", "0"]


def run(*arguments):
    """Exit status of the command in this process: 0 where it returns."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return exit_.code or 0
    return 0


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_figure1(folder, 2, 3, frames=6, size=16)
    return folder


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["--source", videos / "source", "--target", videos / "target", "--out", out, "--steps", 2, *TINY]
    assert run("train", *arguments, "--few-shot", 2) == 0
    return out


def fails(capsys, *arguments):
    """stderr of a command that must end with status 2 and one sentence."""
    capsys.readouterr()
    assert run(*arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("rlv2v: ")
    assert "Traceback" not in message
    return message.splitlines()[-1]


def test_train_saves_its_resolved_config(trained):
    saved = yaml.safe_load((trained / "config.yaml").read_text())
    assert (saved["device"], saved["few_shot"], saved["network"]["width"]) == ("cpu", 2, 2)


def test_train_tells_which_model_it_kept(videos, tmp_path, capsys, monkeypatch):
    distances = iter([0.5, 0.7])
    monkeypatch.setattr("rlv2v_fast.train.selection.translation_distance", lambda *_: next(distances))
    places = ["--source", videos / "source", "--target", videos / "target", "--out", tmp_path / "run"]
    assert run("train", *places, *TINY, "--steps", 3, "--select-every", 1) == 0
    told = capsys.readouterr().out
    assert told.startswith("3 steps done, the model of step 2 kept as the best; rlv2v translate --model ")


def test_train_resumes_with_the_runs_own_configuration(trained, videos, tmp_path, capsys):
    import shutil

    run_copy = tmp_path / "run"
    shutil.copytree(trained, run_copy)
    assert run("train", "--out", run_copy, "--resume", "--steps", 3) == 0
    assert len((run_copy / "metrics.jsonl").read_text().splitlines()) == 3
    message = fails(capsys, "train", "--out", run_copy, "--resume", "--size", 24)
    assert message == "rlv2v: size cannot change when resuming: the run has 16; got 24"


def test_flags_override_the_config_file(tmp_path):
    (tmp_path / "c.yaml").write_text("size: 32\nframes: 6\nrl: {weight: 0.3, gamma: 0.5}\n")
    command = cli.parse(["train", "--config", str(tmp_path / "c.yaml"), "--frames", "8", "--rl.gamma", "0.9"])
    assert isinstance(command, cli.Train)
    assert (command.run.size, command.run.frames) == (32, 8)
    assert (command.run.rl.weight, command.run.rl.gamma) == (0.3, 0.9)


def test_every_train_flag_reaches_the_configuration(tmp_path):
    (tmp_path / "defaults.yaml").touch()
    flags = {
        "--source": "s", "--target": "t", "--out": "o", "--few-shot": "3", "--size": "24", "--frames": "5",
        "--steps": "9", "--max-minutes": "1.5", "--checkpoint-every": "7", "--keep": "4", "--preview-every": "6",
        "--seed": "11", "--device": "cpu", "--precision": "bf16", "--backend": "reference", "--network.width": "3",
        "--network.norm": "instance", "--loss.adversarial": "hinge", "--loss.distance": "l2", "--loss.recurrent": "1",
        "--loss.recycle": "2", "--loss.video": "3", "--loss.r1": "4", "--rl.weight": "0.3", "--rl.state-frames": "2",
        "--rl.sigma1": "0.1", "--rl.sigma2": "0.2", "--rl.epsilon": "0.3", "--rl.gamma": "0.4", "--rl.tau": "0.6",
        "--rl.rollout-every": "2", "--rl.critic-warmup": "3", "--rl.batch-size": "4", "--rl.capacity": "5",
        "--rl.buffer-gib": "0.5", "--optim.lr": "0.1", "--optim.lr-critic": "0.2", "--optim.beta2": "0.4",
        "--optim.batch-size": "5", "--optim.accumulate": "2", "--optim.ema": "0.7",
        "--window": "2", "--starts": "2", "--start-steps": "8", "--loss.style": "0.5", "--loss.cycle": "0.5",
        "--loss.cycle-from": "0.25", "--optim.lr-discriminator": "0.2", "--network.generator": "local",
        "--network.discriminator": "patch", "--network.output": "gain", "--rl.target": "monte_carlo",
        "--rl.critics": "2", "--rl.smoothing": "0.1", "--rl.critic-steps": "3", "--rl.first-step": "4",
        "--loss.contrast": "0.25", "--start-window": "3", "--select-every": "5", "--look": "auto", "--pairs": "p",
        "--cache": "c", "--cache-gib": "3", "--start-failed": "0.5", "--loss.pairs": "2",
    }  # fmt: skip
    switches = ["--flip", "--compile", "--tensorboard", "--quiet", "--network.no-sync-norm", "--optim.decay"]
    switches += ["--rl.normalize", "--rl.baseline"]
    arguments = [
        "train",
        "--config",
        str(tmp_path / "defaults.yaml"),
        *(word for pair in flags.items() for word in pair),
        *switches,
        "--loss.augment",
        "cutout",
    ]
    changed = cli.parse(arguments).run
    before, after = _flat(to_dict(TrainConfig())), _flat(to_dict(changed))
    assert [name for name in before if before[name] == after[name]] == []


def flags_in_help(capsys, monkeypatch, *arguments):
    """Names of the train flags that a help lists, as in YAML; no line of it is wider than 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    assert run("train", *arguments) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    named = re.findall(r"^. --([a-z][a-z0-9.-]*)", text, re.MULTILINE)
    return [name.replace("-", "_") for name in named], text


def test_help_lists_what_a_user_sets(capsys, monkeypatch):
    listed, text = flags_in_help(capsys, monkeypatch, "--help")
    assert set(listed) == {"config", "resume", *COMMON}
    assert "--help-all" in text
    for name, summary in presets().items():
        assert f"{name}: {summary.split(',')[0]}" in text


def test_help_all_lists_every_setting(capsys, monkeypatch):
    listed, _ = flags_in_help(capsys, monkeypatch, "--help-all")
    assert set(listed) == {"config", "resume", *_flat(to_dict(TrainConfig()))}


def test_help_shows_the_values_of_a_preset(capsys, monkeypatch):
    _, text = flags_in_help(capsys, monkeypatch, "--config", "figure1-cpu", "-h")
    assert re.search(r"--size INT .*\(default: 32\)", text)


@pytest.mark.parametrize("command", [["rlv2v_fast"], ["rlv2v_fast.cli"]])
def test_the_version_is_printed(command):
    done = subprocess.run([sys.executable, "-m", *command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"rlv2v_fast {rlv2v_fast.__version__}\n"


def test_translate_writes_the_video(trained, videos, tmp_path, capsys):
    source = next((videos / "source").iterdir())
    assert run("translate", "--model", trained, source, tmp_path / "out.mp4", "--quiet") == 0
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 6
    assert "6 frames" in capsys.readouterr().out


def test_a_folder_is_translated_into_a_folder(trained, videos, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for path in (videos / "source").iterdir():
        shutil.copy(path, tmp_path / "in")
    arguments = ["translate", "--model", trained, tmp_path / "in", tmp_path / "out", "--quiet", "--max-height", 8]
    assert run(*arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 translated (12 frames)\n"
    assert next(read_frames(next((tmp_path / "out").glob("*.mp4")))).shape == (8, 8, 3)
    assert run(*arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 0 translated (0 frames), 2 already there\n"
    (tmp_path / "in" / "noise.mp4").write_bytes(b"noise")
    told = fails(capsys, *arguments)
    assert "not every video of" in told
    assert "noise.mp4" in told


def test_raw_video_goes_through_pipes(trained, videos, tmp_path, monkeypatch, capsys):
    """From a file into a pipe, from pipe to pipe, and from a pipe into a file."""
    source = next((videos / "source").iterdir())

    def through(arguments, given=b""):
        """Exit status, standard output and standard error."""
        output = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(output, write_through=True))
            status = run("translate", "--model", trained, "--device", "cpu", *arguments)
            return status, output.getvalue(), capsys.readouterr().err

    status, first, told = through([source, "-"])
    assert (status, told) == (0, "-: 6 frames\n")
    second = through(["-", "-"], first)[1]
    assert second.count(b"FRAME\n") == 6
    assert through(["-", tmp_path / "out.mp4"], second)[0] == 0
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 6
    status, _, told = through(["-", tmp_path / "no.mp4"], second[:-10])
    assert (status, told) == (2, "rlv2v: input '-' ends within a frame\n")
    assert not (tmp_path / "no.mp4").exists()


def test_a_player_that_is_closed_ends_the_command_silently(trained, videos):
    source = next((videos / "source").iterdir())
    command = [sys.executable, "-m", "rlv2v_fast", "translate", "--model", trained, "--device", "cpu", source, "-"]
    environment = {**os.environ, "PYTHONPATH": str(Path(rlv2v_fast.__file__).parents[1])}
    player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    player.stdout.close()
    assert (player.stderr.read(), player.wait(60)) == (b"", 141)


def test_translate_replaces_an_output_only_where_asked(trained, videos, tmp_path, capsys, monkeypatch):
    source = next((videos / "source").iterdir())
    (tmp_path / "out.mp4").write_text("precious")
    command = ["translate", "--model", trained, source, tmp_path / "out.mp4", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr("rlv2v_fast.train.translate.load_model", lambda *_, **__: pytest.fail("it loaded the model"))
        assert fails(capsys, *command).endswith("out.mp4' exists already; pass --overwrite to replace it")
        for same in (source, source.parent / ".." / "source" / source.name):
            message = fails(capsys, "translate", "--model", trained, source, same, "--overwrite")
            assert "must not be the input" in message
    assert (tmp_path / "out.mp4").read_text() == "precious"
    assert run(*command, "--overwrite") == 0
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 6


def test_translate_takes_a_rate_and_tells_what_it_changes(trained, videos, tmp_path, capsys):
    source = next((videos / "source").iterdir())
    out = ["--model", trained, source, tmp_path / "out.avi", "--quiet"]
    assert run("translate", *out, "--fps", "29.97") == 0
    assert probe(tmp_path / "out.avi").fps == Fraction(30000, 1001)
    for bad in ("0", "-1", "nan", "1e9"):
        assert "fps must be above 0" in fails(capsys, "translate", *out, "--overwrite", f"--fps={bad}")
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "s.webp")
    capsys.readouterr()
    assert run("translate", "--model", trained, tmp_path / "s.webp", tmp_path / "out.gif", "--quiet") == 0
    assert capsys.readouterr().err == f"rlv2v: {tmp_path / 's.webp'}: it is transparent in part: it is put on black\n"


def test_look_replaces_its_table_only_where_asked(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.train.look.look_of", lambda *_: pytest.fail("it looked"))
    look = ["look", "--source", videos / "source", "--target", videos / "target", "--out"]
    (tmp_path / "a.cube").write_text("precious")
    assert "exists already; pass --overwrite" in fails(capsys, *look, tmp_path / "a.cube")
    assert "cannot be written" in fails(capsys, *look, tmp_path / "a.cube" / "b.cube")
    assert (tmp_path / "a.cube").read_text() == "precious"


def test_train_checks_its_place_before_it_reads_any_video(trained, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.data.clips.Domain.open", lambda *_, **__: pytest.fail("it read videos"))
    good = ["train", "--source", videos / "source", "--target", videos / "target", *TINY, "--out"]
    assert "already holds a run" in fails(capsys, *good, trained)
    assert "holds no checkpoint to resume from" in fails(capsys, *good, tmp_path / "run", "--resume")
    assert "name" in fails(capsys, *good, tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    assert "is not a folder" in fails(capsys, *good, tmp_path / "file" / "run")
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_system_is_one_sentence(videos, tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise OSError(24, "Too many open files", "runs/x")

    monkeypatch.setattr("rlv2v_fast.train.look.look_of", broken)
    look = ["look", "--source", videos / "source", "--target", videos / "target", "--out", tmp_path / "a.cube"]
    assert fails(capsys, *look) == "rlv2v: runs/x: Too many open files"
    monkeypatch.undo()
    capsys.readouterr()
    assert run("translate", "--model", tmp_path, tmp_path / "a\nb.mp4", tmp_path / "c.mp4") == 2
    assert capsys.readouterr().err == f"rlv2v: video '{tmp_path / 'a b.mp4'}' does not exist\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a name be no text")
def test_names_that_are_no_text_train_resume_and_translate(videos, tmp_path, capfdbinary):
    name = os.fsdecode(b"n\xe9")
    shutil.copytree(videos / "source", tmp_path / name)
    for path in (tmp_path / name).iterdir():
        path.rename(path.with_name(f"{name}{path.name}"))
    places = ["--source", tmp_path / name, "--target", videos / "target", "--out", tmp_path / f"{name}.run"]
    assert run("train", *places, *TINY, "--steps", 2, "--checkpoint-every", 1) == 0
    assert run("train", "--out", tmp_path / f"{name}.run", "--resume", "--steps", 3) == 0
    source = next((tmp_path / name).iterdir())
    capfdbinary.readouterr()
    assert run("translate", "--model", tmp_path / f"{name}.run", source, tmp_path / f"{name}.mp4", "--quiet") == 0
    told = capfdbinary.readouterr()
    assert (told.out, told.err) == (os.fsencode(tmp_path) + b"/n\xe9.mp4: 6 frames\n", b"")


def test_a_disk_that_fills_up_ends_training_with_a_sentence(videos, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--source", videos / "source", "--target", videos / "target", "--out", out, *TINY]
    assert run(*train, "--steps", 2) == 0
    before = (out / "metrics.jsonl").read_text()
    resume = ["train", "--out", out, "--resume", "--steps", 4]
    for limit, what in ((10, "configuration|log"), (20_000, "checkpoint")):
        with no_more_than(limit):
            assert re.search(f"({what}) .* cannot be written: ", fails(capsys, *resume))
    assert (out / "metrics.jsonl").read_text().startswith(before)
    assert run(*resume) == 0


def test_evaluate_prints_and_writes_scores(trained, videos, tmp_path, capsys):
    arguments = ["--source", videos / "source", "--reference", videos / "source", "--json", tmp_path / "s.json"]
    assert run("evaluate", "--model", trained, *arguments) == 0
    assert "identity_psnr" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "s.json").read_text())["videos"]) == 2


@pytest.fixture
def frame_folders(tmp_path, videos):
    """Two videos as folders of frames, whose names have a dot."""
    for name, path in zip(("take.1", "take.2"), sorted((videos / "source").iterdir()), strict=True):
        (tmp_path / "takes" / name).mkdir(parents=True)
        for index, frame in enumerate(read_frames(path)):
            Image.fromarray(frame).save(tmp_path / "takes" / name / f"{index}.png")
    return tmp_path / "takes"


def test_evaluate_scores_every_video_by_its_name_alone(trained, videos, frame_folders, tmp_path, capsys):
    assert run("evaluate", "--model", trained, "--source", frame_folders, "--json", tmp_path / "s.json") == 0
    assert [v["video"] for v in json.loads((tmp_path / "s.json").read_text())["videos"]] == ["take.1", "take.2"]
    one = next(iter(sorted((videos / "source").iterdir())))
    assert run("evaluate", "--model", trained, "--source", one, "--reference", frame_folders / "take.1") == 0
    for source, reference in ((frame_folders, one), (one, frame_folders)):
        message = fails(capsys, "evaluate", "--model", trained, "--source", source, "--reference", reference)
        assert "reference has no video named" in message
    shutil.copy(one, tmp_path / "takes" / "walk.mp4")
    shutil.copy(one, tmp_path / "takes" / "walk.mov")
    message = fails(capsys, "evaluate", "--model", trained, "--source", frame_folders)
    assert "source must have one video of a name; got" in message


def test_evaluate_writes_valid_json(trained, videos, tmp_path, capsys):
    both = ["--source", videos / "source", "--reference", videos / "source"]
    assert run("evaluate", "--model", trained, *both, "--json", tmp_path / "s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)["mean"]["identity_psnr"] is None


def test_evaluate_checks_the_place_of_its_json_before_scoring(trained, videos, tmp_path, capsys, monkeypatch):
    arguments = ["evaluate", "--model", trained, "--source", videos / "source", "--json"]
    monkeypatch.setattr("rlv2v_fast.train.evaluate.evaluate", lambda *_, **__: pytest.fail("it scored"))
    assert "cannot be written" in fails(capsys, *arguments, tmp_path / "none" / "s.json")
    (tmp_path / "s.json").write_text("precious")
    assert "exists already; pass --overwrite" in fails(capsys, *arguments, tmp_path / "s.json")
    assert (tmp_path / "s.json").read_text() == "precious"


def test_evaluate_prints_scores_that_it_cannot_write(trained, videos, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise InputError("json cannot be written: No space left on device")

    monkeypatch.setattr("rlv2v_fast.cli.write_text", full)
    assert run("evaluate", "--model", trained, "--source", videos / "source", "--json", tmp_path / "s.json") == 2
    told = capsys.readouterr()
    assert "temporal_difference" in told.out
    assert "No space left" in told.err


def test_info_says_what_is_there_and_why_something_is_not(capsys):
    assert run("info") == 0
    out = capsys.readouterr().out
    for word in ("rlv2v_fast", "torch", "reference", "cpp (CPU)", "cpp (CUDA)", "triton"):
        assert word in out


def test_a_build_that_fell_short_is_told_at_use(trained, videos, tmp_path, capsys, monkeypatch):
    source = next((videos / "source").iterdir())
    told = {}
    for reason in ("no C++ compiler: 'c++' was not found on PATH", "left out by RLV2V_FAST_BUILD=none", None):
        monkeypatch.setattr("rlv2v_fast.ops.report.cpp_refusal", lambda _, reason=reason: reason)
        output = [tmp_path / "out.mp4", "--overwrite", "--quiet", "--device", "cpu"]
        assert run("translate", "--model", trained, source, *output) == 0
        told[reason] = capsys.readouterr().err
    first, *rest = told.values()
    assert first.startswith("rlv2v: the C++ operators are not there, and PyTorch does their work, more slowly: no C++ ")
    assert not any("operators" in text for text in rest)


def test_importing_the_command_needs_no_gpu_and_help_works():
    done = subprocess.run([sys.executable, "-m", "rlv2v_fast.cli", "train", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--few-shot" in done.stdout


def test_unknown_flags_and_commands_end_with_status_2(capsys):
    assert fails(capsys, "train", "--nonsense", "1").startswith("rlv2v: train has no flag --nonsense; ")
    assert fails(capsys, "translate", "--modle", "m", "a", "b").endswith("did you mean --model?")
    assert run("fly") == 2


def test_the_plain_command_trains_what_works_and_says_so(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.train.recipe.estimated_minutes", lambda *_: 14.2)
    monkeypatch.setattr("rlv2v_fast.train.run.settle", lambda *_: (False, ""))
    monkeypatch.setattr("rlv2v_fast.train.verdict.translation_distance", lambda *_: 9.0)
    places = ["--source", videos / "source", "--target", videos / "target", "--out", tmp_path / "run"]
    short = ["--frames", 4, "--size", 16, "--starts", 1, "--steps", 1, "--network.width", 4, "--quiet"]
    assert run("train", *places, "--device", "cpu", *short) == 0
    told = capsys.readouterr().err
    assert "training few-shot-cpu for about 14 minutes, because this runs on a CPU and the target has 3 videos" in told
    assert load_config(tmp_path / "run" / "config.yaml") == dataclasses.replace(
        resolve(load_config("few-shot-cpu")),
        **{name: getattr(load_config(tmp_path / "run" / "config.yaml"), name) for name in ("source", "target", "out")},
        frames=4, size=16, starts=1, steps=1, quiet=True, device="cpu",
        network=dataclasses.replace(load_config("few-shot-cpu").network, width=4),
    )  # fmt: skip


def test_help_shows_the_values_of_the_recipe(capsys, monkeypatch):
    _, text = flags_in_help(capsys, monkeypatch, "--device", "cpu", "-h")
    assert re.search(r"--starts INT .*\(default: 12\)", text, re.DOTALL)


def test_a_run_that_failed_says_so_at_its_end(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.train.selection.translation_distance", lambda *_: 9.0)
    places = ["--source", videos / "source", "--target", videos / "target", "--out", tmp_path / "run"]
    assert run("train", *places, *TINY, "--steps", 1, "--select-every", 1) == 0
    assert "this run has probably failed: its translations are at a distance of 9.000" in capsys.readouterr().err


def test_bad_training_input_is_one_sentence(videos, tmp_path, capsys):
    good = ["--source", videos / "source", "--target", videos / "target"]
    out = ["--out", tmp_path / "run", *TINY]
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "a.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "file").write_text("")
    assert "source must be given" in fails(capsys, "train", *out)
    assert "missing" in fails(capsys, "train", "--source", tmp_path / "missing", *good[2:], *out)
    assert "empty" in fails(capsys, "train", "--source", tmp_path / "empty", *good[2:], *out)
    assert "a.mp4" in fails(capsys, "train", "--source", tmp_path / "noise", *good[2:], *out)
    assert "frames" in fails(capsys, "train", *good, *out, "--frames", 50)
    assert "few_shot" in fails(capsys, "train", *good, *out, "--few-shot", 9)
    assert "size must be a positive multiple of 8; got 60" in fails(capsys, "train", *good, *out, "--size", 60)
    assert "device 'cuda:99'" in fails(capsys, "train", *good, *out, "--device", "cuda:99")
    assert "cannot be written" in fails(capsys, "train", *good, *TINY, "--out", tmp_path / "file" / "run")
    assert "presets" in fails(capsys, "train", *good, *out, "--config", "nonsense")
    assert not (tmp_path / "run").exists()


def test_a_skipped_video_is_named_with_its_reason(videos, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for path in (videos / "source").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "broken.mp4").write_bytes(b"not a video at all")
    arguments = ["--source", source, "--target", videos / "target", "--out", tmp_path / "run", "--steps", 1, *TINY]
    assert run("train", *arguments) == 0
    assert "skipped" in (err := capsys.readouterr().err)
    assert "broken.mp4" in err


def test_bad_translation_input_is_one_sentence(trained, videos, tmp_path, capsys):
    source = next((videos / "source").iterdir())
    model = ["--model", trained]
    assert "missing.mp4" in fails(capsys, "translate", *model, tmp_path / "missing.mp4", tmp_path / "o.mp4")
    assert ".xyz" in fails(capsys, "translate", *model, source, tmp_path / "o.xyz")
    assert "o.mp4" in fails(capsys, "translate", *model, source, tmp_path / "nowhere" / "o.mp4")
    assert "is not a folder" in fails(capsys, "translate", "--model", tmp_path / "no", source, tmp_path / "o.mp4")
    assert "chunk" in fails(capsys, "translate", *model, source, tmp_path / "o.mp4", "--chunk", 0)
    for memory in (0, "nan"):
        assert "memory must be above 0 MiB" in fails(
            capsys, "translate", *model, source, tmp_path / "o.mp4", "--memory", memory
        )
    assert not (tmp_path / "o.mp4").exists()


def test_a_checkpoint_of_another_network_or_version_is_named(videos, tmp_path, capsys):
    source = next((videos / "source").iterdir())
    RLV2VGAN(ModelConfig(width=1, critics=False)).save_pretrained(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"width": 1', '"width": 2'))
    assert "another architecture" in fails(capsys, "translate", "--model", tmp_path / "m", source, tmp_path / "o.mp4")
    config.write_text(text.replace('"format": 1', '"format": 7'))
    assert "format 7" in fails(capsys, "translate", "--model", tmp_path / "m", source, tmp_path / "o.mp4")


def test_demo_trains_scores_and_shows(tmp_path, capsys, monkeypatch):
    (tmp_path / "demo").mkdir()
    save_config(TrainConfig(source=NO_FILES, target=NO_FILES), tmp_path / "demo" / "config.yaml")  # an earlier demo
    scores = run_demo(tmp_path / "demo", minutes=0.01, quiet=True)
    assert set(scores) == {"identity", "colour transfer", "RL-V2V-GAN"}
    assert scores["identity"]["digit IoU"] > 0.9  # the source shows the true digits
    assert scores["identity"]["background"] == 0  # and a black background
    assert (tmp_path / "demo" / "preview.png").is_file()
    frames = list(read_frames(tmp_path / "demo" / "translation.gif"))
    assert len(frames) == load_config("figure1-cpu").frames
    assert "RL-V2V-GAN" in capsys.readouterr().out


@pytest.mark.parametrize("config", [None, "source: day\ntarget: night\n", "services: [db]\n", "{"])
def test_demo_replaces_no_other_folder(tmp_path, config):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"precious")
    if config is not None:
        (tmp_path / "photos" / "config.yaml").write_text(config)
    with pytest.raises(InputError, match="holds something that is not a demo"):
        run_demo(tmp_path / "photos", minutes=0.01)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"precious"
    with pytest.raises(InputError, match="holds something that is not a demo"):
        run_demo(tmp_path / "photos" / "a.jpg", minutes=0.01)
    with pytest.raises(InputError, match="minutes must be above 0; got 0"):
        run_demo(tmp_path / "new", minutes=0)


def test_audio_survives_translation(trained, tmp_path):
    av = pytest.importorskip("av")
    import numpy as np

    with VideoWriter(tmp_path / "silent.mp4", 16, 16, 8) as writer:
        for _ in range(8):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    source = tmp_path / "sound.mp4"
    with av.open(str(tmp_path / "silent.mp4")) as silent, av.open(str(source), "w") as container:
        video = container.add_stream_from_template(silent.streams.video[0])
        audio = container.add_stream("aac", rate=48000)
        for packet in silent.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        wave = (0.1 * np.sin(np.arange(48000) * 0.05)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 48000
        for packet in [*audio.encode(frame), *audio.encode(None)]:
            container.mux(packet)
    assert run("translate", "--model", trained, source, tmp_path / "out.mp4", "--quiet") == 0
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert len(out.streams.audio) == 1
        assert sum(f.samples for f in out.decode(audio=0)) >= 40000


def test_auto_is_a_device_that_exists():
    assert resolve_device("auto").type in ("cpu", "cuda")
