import dataclasses
from contextlib import nullcontext

import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.train.config import (
    LossConfig,
    NetworkConfig,
    OptimConfig,
    RLConfig,
    TrainConfig,
    changed_fields,
    from_dict,
    load_config,
    presets,
    resolve,
    resolve_device,
    save_config,
    to_dict,
)


def test_yaml_round_trip(tmp_path):
    config = TrainConfig(
        source=tmp_path,
        few_shot=3,
        max_minutes=1.5,
        loss=LossConfig(augment=("cutout", "translation")),
        rl=RLConfig(weight=0.0),
        network=NetworkConfig(width=8, norm="instance"),
    )
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
    assert from_dict(to_dict(config), "here") == config


@pytest.mark.parametrize("name", presets())
def test_presets_load(name):
    assert isinstance(load_config(name), TrainConfig)


def test_there_is_a_preset():
    assert "figure1-cpu" in presets()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise: 3", "unknown field sise; known are source"),
        ("rl: {wieght: 1}", "unknown field rl.wieght"),
        ("size: big", "size must be int; got 'big'"),
        ("size: true", "size must be int; got True"),
        ("rl: {weight: x}", "rl.weight must be float; got 'x'"),
        ("rl: {weight: 1.0, buffer_gib: 1.0e-5}", "rl.buffer_gib must be at least 5.7e-05, the size of one transition"),
        ("rl: 3", "rl must be a mapping; got 3"),
        ("[1, 2]", "the file must be a mapping"),
        ("loss: {adversarial: wgan}", "loss.adversarial must be one of bce, hinge, least_squares; got 'wgan'"),
        ("a: [", "is not YAML"),
        ("size: 60", "size must be a positive multiple of 8; got 60"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(path)


def test_a_saved_run_with_a_setting_that_is_constant_now_is_read():
    assert from_dict({"optim": {"beta1": 0.5, "clip_norm": 10.0, "lr": 0.1}}, "here") == TrainConfig(
        optim=OptimConfig(lr=0.1)
    )
    with pytest.raises(InputError, match=r"config here: optim.beta1 is always 0.5 now; got 0.9"):
        from_dict({"optim": {"beta1": 0.9}}, "here")


def test_a_preset_is_described_in_one_line():
    assert all(20 < len(summary) < 100 for summary in presets().values())


def test_an_unknown_config_lists_the_presets():
    with pytest.raises(InputError, match=r"presets .*figure1-cpu.*; got 'nonsense'"):
        load_config("nonsense")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(frames=1), "frames must be at least 2; got 1"),
        (lambda: TrainConfig(steps=0), "steps must be at least 1; got 0"),
        (lambda: TrainConfig(few_shot=0), "few_shot must be at least 1; got 0"),
        (lambda: RLConfig(sigma1=1.5), r"rl.sigma1 must be in \[0, 1\]; got 1.5"),
        (lambda: TrainConfig(window=17), "window must be from 1 to frames=16; got 17"),
        (lambda: TrainConfig(start_window=0), "start_window must be from 1 to frames=16; got 0"),
        (lambda: TrainConfig(window=1), "window must be at least 2 where frames are forecast; got 1"),
        (lambda: LossConfig(cycle_from=2), r"loss.cycle_from must be in \[0, 1\]; got 2"),
        (lambda: OptimConfig(lr_discriminator=0.0), r"optim.lr_discriminator must be above 0; got 0.0"),
        (lambda: LossConfig(recycle=-1), "loss.recycle must be at least 0; got -1"),
        (lambda: NetworkConfig(width=0), "network.width must be at least 1; got 0"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_number_that_yaml_reads_as_text_is_still_a_number(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("optim: {lr: 2e-4, lr_discriminator: 1e-3}")
    assert (load_config(path).optim.lr, load_config(path).optim.lr_discriminator) == (2e-4, 1e-3)


def test_resolve_leaves_no_auto_and_keeps_what_was_asked():
    resolved = resolve(TrainConfig(device="cpu"))
    assert (resolved.device, resolved.precision, resolved.network.width) == ("cpu", "fp32", 16)
    assert resolve(TrainConfig(device="cpu", network=NetworkConfig(width=5))).network.width == 5
    assert resolve(resolved) == resolved


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "mps", "cuda:99"])
def test_a_device_that_does_not_exist_is_named(name):
    with pytest.raises(InputError, match=name):
        resolve_device(name)


def test_changed_fields_ignores_what_a_resumed_run_may_change():
    base = TrainConfig()
    free = dataclasses.replace(
        base, steps=7, device="cpu", keep=9, checkpoint_every=3, preview_every=2, quiet=True, select_every=4
    )
    assert changed_fields(base, free) == []
    assert changed_fields(base, dataclasses.replace(base, rl=RLConfig(gamma=0.5))) == [("rl.gamma", 0.99, 0.5)]


@pytest.mark.parametrize(
    "scheduled", [{"optim": OptimConfig(decay=True)}, {"loss": LossConfig(cycle=1, cycle_from=0.5)}]
)
def test_schedules_in_shares_of_the_steps_fix_their_number(scheduled):
    base = TrainConfig(steps=10, **scheduled)
    assert changed_fields(base, dataclasses.replace(base, steps=7)) == [("steps", 10, 7)]


@pytest.mark.parametrize(("capability", "precision"), [("AVX512", "bf16"), ("AVX2", "fp32"), ("DEFAULT", "fp32")])
def test_bf16_gives_way_to_fp32_on_a_cpu_that_is_slow_at_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    config = TrainConfig(device="cpu", precision="bf16")
    expected = pytest.warns(UserWarning, match="precision: this CPU") if precision == "fp32" else nullcontext()
    with expected:
        assert resolve(config).precision == precision
