"""The streaming step of a generator, exported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlv2v_fast.data.video import read_frames, to_tensor, to_uint8
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.models.step import StreamingStep, export_step

ROOT = Path(__file__).resolve().parents[2]


def model(kind):
    torch.manual_seed(0)
    return RLV2VGAN(ModelConfig(width=4, critics=0, generator=kind)).eval()


@pytest.mark.parametrize("kind", ["unet", "local", "look"])
def test_steps_one_after_the_other_are_the_clip(kind):
    made = model(kind)
    step = StreamingStep(made.generators_ema["y"].eval())
    video = torch.rand(1, 4, 3, 64, 64) * 2 - 1
    state = [torch.zeros(shape) for shape in step.shapes]
    frames = []
    with torch.no_grad():
        for frame in video.split(1, 1):
            translated, *state = step(frame, *state)
            frames.append(translated)
    torch.testing.assert_close(torch.cat(frames, 1), made.translate(video), rtol=0, atol=1e-5)


def test_wrong_sizes_and_directions_are_refused(tmp_path):
    with pytest.raises(InputError, match="size must be multiples of 8, at least 8; got 30x64"):
        export_step(model("unet"), tmp_path, size=(30, 64))
    with pytest.raises(InputError, match="direction must be one of"):
        export_step(model("unet"), tmp_path, "north")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "local"])
def test_exported_steps_translate_as_the_model_does(kind, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the packages of rlv2v_fast[onnx]")
    pytest.importorskip("onnxruntime")
    made = model(kind)
    export_step(made, tmp_path / "step")
    # Neither side is one that the export has seen, and both have to be padded.
    frames = np.random.default_rng(0).integers(0, 256, (3, 34, 50, 3), dtype=np.uint8)
    source, output = tmp_path / "source.mp4", tmp_path / "output.mp4"
    with VideoWriter(source, 50, 34, 8) as writer:
        for frame in frames:
            writer.write(frame)
    read = np.stack(list(read_frames(source)))
    expected = made.translate(to_tensor(read))

    program = torch.export.load(tmp_path / "step" / "step.pt2").module()
    padded = torch.nn.functional.pad(to_tensor(read), (0, 6, 0, 6), mode="replicate")[None]
    needs = json.loads((tmp_path / "step" / "step.json").read_text())["state"]
    state = [torch.zeros(*each["lead"], *(side // each["divide"] for side in (40, 56))) for each in needs]
    for frame, truth in zip(padded.split(1, 1), expected, strict=True):
        translated, *state = program(frame, *state)
        torch.testing.assert_close(translated[0, 0, :, :34, :50], truth, rtol=0, atol=1e-4)

    script = re.search(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)[1]
    command = [sys.executable, "-c", script, tmp_path / "step", source, output]
    subprocess.run(command, check=True)
    found = np.stack(list(read_frames(output)))
    assert found.shape == read.shape
    # H.264 costs some levels; noise costs it most.
    assert np.abs(found.astype(int) - to_uint8(expected)).mean() < 25
