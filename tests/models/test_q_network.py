import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.models.q_network import QEnsemble, QNetwork, q_members


def inputs(batch=2, state_frames=3, channels=3, size=16, dtype=torch.float64):
    state = torch.rand(batch, state_frames, channels, size, size, dtype=dtype) * 2 - 1
    action = torch.rand(batch, channels, size, size, dtype=dtype) * 2 - 1
    return state, action, torch.linspace(0.25, 0.75, batch, dtype=dtype)


@pytest.fixture
def critic(settled):
    return settled(QNetwork(2).double())


@given(
    batch=st.integers(1, 3),
    state_frames=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    size=st.sampled_from([8, 16, 20]),
)
@settings(max_examples=10, deadline=None)
def test_one_value_per_item(batch, state_frames, channels, size):
    values = QNetwork(2, channels).eval()(*inputs(batch, state_frames, channels, size, torch.float32))
    assert values.shape == (batch,)


# Rounding alone changes a value by 1e-16.
CHANGED = 1e-6


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_value_depends_on_every_frame_of_the_state(settled, norm):
    critic, (state, action, position) = settled(QNetwork(2, norm=norm).double()), inputs()
    value = critic(state, action, position)
    for t in range(3):
        changed = state.clone()
        changed[:, t] *= -1
        assert (critic(changed, action, position) - value).abs().min().item() > CHANGED


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_value_depends_on_the_action(settled, norm):
    critic, (state, action, position) = settled(QNetwork(2, norm=norm).double()), inputs()
    difference = critic(state, -action, position) - critic(state, action, position)
    assert difference.abs().min().item() > CHANGED


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_value_depends_on_the_position(settled, norm):
    critic, (state, action, position) = settled(QNetwork(2, norm=norm).double()), inputs()
    difference = critic(state, action, position + 0.25) - critic(state, action, position)
    assert difference.abs().min().item() > CHANGED


def test_the_trunk_sees_state_then_action_and_a_position_channel(critic):
    (state, action, position), seen = inputs(), []
    critic.trunk.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    critic(state, action, position)
    (entered,) = seen
    assert entered.shape == (2, 3 + 1, 3 + 1, 16, 16)
    assert torch.equal(entered[:, :3, :3], state.transpose(1, 2))
    assert torch.equal(entered[:, :3, 3], action)
    assert all((entered[item, 3] == position[item]).all() for item in range(2))


def test_value_depends_on_the_order_of_state_and_action(critic):
    state, action, position = inputs()
    shifted = torch.cat([action.unsqueeze(1), state], dim=1)
    value = critic(state, action, position)
    assert (critic(shifted[:, :-1], shifted[:, -1], position) - value).abs().min().item() > CHANGED


def test_each_item_has_its_own_state_action_and_position(critic):
    state, action, position = inputs(3)
    values = critic(state, action, position)
    for item in range(3):
        alone = critic(state[item : item + 1], action[item : item + 1], position[item : item + 1])
        # Sums in another order.
        torch.testing.assert_close(values[item : item + 1], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [-3.0, 3.0])
def test_values_of_either_sign_can_be_said(critic, bias):
    with torch.no_grad():
        critic.head.weight.zero_()
        critic.head.bias.fill_(bias)
    assert critic(*inputs()).tolist() == [bias, bias]


def test_the_head_is_linear(critic):
    with torch.no_grad():
        before = critic(*inputs_of_seed())
        for parameter in critic.head.parameters():
            parameter.mul_(-2)
        after = critic(*inputs_of_seed())
    torch.testing.assert_close(after, -2 * before, rtol=0, atol=1e-10)


def inputs_of_seed():
    torch.manual_seed(1)
    return inputs()


def test_gradient_reaches_the_action_through_frozen_weights(critic):
    state, action, position = inputs()
    action.requires_grad_()
    critic.requires_grad_(False)(state, action, position).sum().backward()
    assert (action.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_position_may_have_another_float_type(settled):
    critic = settled(QNetwork(2))
    state, action, position = inputs(dtype=torch.float32)
    assert torch.equal(critic(state, action, position.double()), critic(state, action, position))


def test_an_ensemble_gives_the_lowest_of_its_members_values():
    critic, given_inputs = QEnsemble(3, 2).double().eval(), inputs(batch=4)
    every = torch.stack([member(*given_inputs) for member in q_members(critic)])
    assert len(every) == 3
    assert every.std(dim=0).min() > 0
    assert torch.equal(critic(*given_inputs), every.amin(0))


def test_a_single_network_is_its_only_member(critic):
    assert q_members(critic) == [critic]
