"""What several test files of training need."""

import dataclasses

import torch

from rlv2v_fast.train.config import LossConfig, NetworkConfig


def without_rl(config):
    return dataclasses.replace(config, rl=dataclasses.replace(config.rl, weight=0.0))


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def small(config):
    """A run with the networks, losses and schedules for few videos."""
    return dataclasses.replace(
        without_rl(config),
        window=2,
        network=NetworkConfig(width=4, generator="local", discriminator="patch"),
        loss=LossConfig(recurrent=0, recycle=0, video=0, cycle=1, cycle_from=0.5),
        optim=dataclasses.replace(config.optim, decay=True, lr_discriminator=1e-3),
    )
