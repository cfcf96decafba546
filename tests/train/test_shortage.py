import pytest
import torch

from rlv2v_fast import cli
from rlv2v_fast.train.config import NetworkConfig, OptimConfig, RLConfig, TrainConfig
from rlv2v_fast.train.shortage import is_out_of_memory, training_advice, translation_advice


def test_real_shortages_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(FileNotFoundError(2, "No such file or directory"))


@pytest.mark.parametrize(("batch", "part", "parts"), [(6, 3, 2), (5, 1, 5), (9, 3, 3)])
def test_three_settings_are_lowered(batch, part, parts):
    config = TrainConfig(device="cuda:0", network=NetworkConfig(width=64), optim=OptimConfig(batch_size=batch))
    assert training_advice(config) == (
        f"out of memory on cuda:0: lower --optim.batch-size from {batch} to {part} (with --optim.accumulate {parts}, "
        "which trains alike), --window from 16 to 8 or --size from 64 to 48"
    )


def test_what_is_small_already_is_left_out():
    small = TrainConfig(device="cpu", size=24, frames=2, network=NetworkConfig(width=8), rl=RLConfig(weight=0.1))
    assert training_advice(small) == (
        "out of memory on cpu: lower --size from 24 to 16, --network.width from 8 to 4 or --rl.buffer-gib from 1 to 0.5"
    )


def test_a_translation_takes_fewer_or_lower_frames():
    assert translation_advice("cuda:0", 8, 2160).endswith(
        "lower --chunk from 8 to 4, --max-height from 2160 to 1080 or --device from cuda:0 to cpu"
    )
    assert translation_advice("cpu", 1, None).endswith("lower --max-height to half of the height of the frames")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--device", "cpu"], "out of memory on cpu: lower --optim.batch-size from 2 to 1 (with"),
        (
            ["translate", "--model", "m", "--device", "cpu", "a", "b"],
            "out of memory on cpu: lower --chunk from 8 to 4 or --max-height to half",
        ),
        (["info"], "out of memory: end other programs"),
    ],
)
def test_a_command_that_runs_out_says_one_sentence(monkeypatch, capsys, arguments, told):
    def allocate(command):
        torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(cli, "COMMANDS", dict.fromkeys(cli.COMMANDS, allocate))
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"rlv2v: {told}")
