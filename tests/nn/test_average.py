import pytest
import torch
from torch import nn

from rlv2v_fast.nn.average import soft_update


def test_soft_update_moves_parameters_by_tau_and_copies_buffers():
    target, source = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        target.weight.copy_(torch.tensor([1.0, -2.0]))
        source.weight.copy_(torch.tensor([3.0, 2.0]))
        source.running_mean.copy_(torch.tensor([5.0, 6.0]))
        source.num_batches_tracked.fill_(9)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    soft_update(target, source, 0.25)
    assert target.weight.tolist() == [0.75 * 1 + 0.25 * 3, 0.75 * -2 + 0.25 * 2]
    assert target.running_mean.tolist() == [5, 6]
    assert target.num_batches_tracked.item() == 9
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize(("tau", "expected"), [(0.0, 1.0), (1.0, 3.0)])
def test_soft_update_at_its_ends_keeps_or_copies(tau, expected):
    target, source = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(target.weight, 1.0)
    nn.init.constant_(source.weight, 3.0)
    soft_update(target, source, tau)
    assert target.weight.item() == expected
    assert target.weight is not source.weight


def test_soft_update_of_another_architecture_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        soft_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)
