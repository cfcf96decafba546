from collections import deque
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.rl.replay import ReplayBuffer, Transitions, from_bytes, to_bytes

FIELDS = [field.name for field in fields(Transitions)]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def stored(buffer, draws=400):
    """The rewards found in the buffer, sorted; of at most 8 entries one is missed with probability below 1e-22."""
    return sorted(set(buffer.sample(draws, stream()).reward.tolist()))


def assert_same(a, b):
    for name in FIELDS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, msg=name)


def test_next_state_is_the_shifted_state_and_the_action(transitions):
    batch = transitions(2)
    assert batch.next_state.shape == batch.state.shape
    assert torch.equal(batch.next_state[:, 0], batch.state[:, 1])
    assert torch.equal(batch.next_state[:, 1], batch.state[:, 2])
    assert torch.equal(batch.next_state[:, 2], batch.action)


def test_next_state_of_a_single_frame_state_is_the_action(transitions):
    batch = transitions(2, state_frames=1)
    assert torch.equal(batch.next_state[:, 0], batch.action)


def test_indexing_and_concatenating_keep_every_field_together(transitions):
    batch = transitions(5)
    picked = batch[torch.tensor([3, 1])]
    assert len(picked) == 2
    assert_same(picked, Transitions.concatenate([transitions(1, 3), transitions(1, 1)]))
    assert_same(batch[batch.domain == 1], picked[torch.tensor([1, 0])])


def test_moving_to_a_device_keeps_every_field(transitions):
    batch = transitions(2)
    assert_same(batch.to(torch.device("cpu")), batch)
    assert all(getattr(batch.to(torch.device("meta")), name).device.type == "meta" for name in FIELDS)


def test_bytes_round_to_the_nearest_of_256_levels():
    values = torch.linspace(-1, 1, 10_001)
    # The levels lie 2/255 apart; 1e-6 is for float32 arithmetic.
    assert (from_bytes(to_bytes(values)) - values).abs().max().item() <= 1 / 255 + 1e-6


def test_every_byte_survives_and_the_ends_are_black_and_white():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(from_bytes(levels)), levels)
    assert from_bytes(levels[[0, 255]]).tolist() == [-1.0, 1.0]


def test_values_outside_the_range_are_clamped_not_wrapped():
    assert to_bytes(torch.tensor([-9.0, 9.0, 1.004])).tolist() == [0, 255, 255]


def test_a_sample_is_what_was_stored(transitions):
    buffer = ReplayBuffer(4, 3, (1, 2, 2))
    buffer.add(transitions(1, 5))
    sample = buffer.sample(1, stream())
    # The factory's frames are exact in a byte, up to the order of float32 operations.
    for name in FIELDS:
        torch.testing.assert_close(getattr(sample, name), getattr(transitions(1, 5), name), rtol=0, atol=1e-6)


def test_sampled_frames_are_within_half_a_level_of_those_stored():
    buffer = ReplayBuffer(2, 2, (3, 4, 4))
    frames = torch.rand(1, 4, 3, 4, 4) * 2 - 1
    scalar = torch.zeros(1)
    buffer.add(
        Transitions(
            frames[:, :2], frames[:, 2], frames[:, 3], scalar, scalar, scalar, scalar.long(), scalar.bool(), scalar
        )
    )
    sample = buffer.sample(1, stream())
    returned = torch.cat([sample.state, sample.action[:, None], sample.true_action[:, None]], dim=1)
    assert returned.dtype == torch.float32
    assert (returned - frames).abs().max().item() <= 1 / 255 + 1e-6


def test_the_ring_overwrites_the_oldest(transitions):
    buffer = ReplayBuffer(3, 3, (1, 2, 2))
    for reward, held in ((0, [0]), (1, [0, 1]), (2, [0, 1, 2]), (3, [1, 2, 3]), (4, [2, 3, 4])):
        buffer.add(transitions(1, reward))
        assert len(buffer) == len(held)
        assert stored(buffer) == held


@given(capacity=st.integers(1, 6), counts=st.lists(st.integers(1, 8), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_the_newest_are_held_with_their_own_frames(transitions, capacity, counts):
    buffer, expected, first = ReplayBuffer(capacity, 3, (1, 2, 2)), deque(maxlen=capacity), 0
    for count in counts:
        buffer.add(transitions(count, first))
        expected.extend(range(first, first + count))
        first += count
    assert len(buffer) == len(expected)
    assert stored(buffer) == sorted(expected)
    sample = buffer.sample(20, stream())
    for index, reward in enumerate(sample.reward.tolist()):
        original = transitions(1, int(reward))
        torch.testing.assert_close(sample.state[index], original.state[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(sample.true_action[index], original.true_action[0], rtol=0, atol=1e-6)


@given(capacity=st.integers(1, 50), state_frames=st.integers(1, 4), size=st.integers(1, 5), kib=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_capacity_is_what_was_asked_or_what_the_memory_holds(capacity, state_frames, size, kib):
    each = (state_frames + 2) * 3 * size * size
    buffer = ReplayBuffer(capacity, state_frames, (3, size, size), gib=kib * 2.0**-20)
    assert buffer.capacity == min(capacity, kib * 1024 // each)
    assert buffer.frames.numel() * buffer.frames.element_size() <= kib * 1024


def test_the_default_memory_is_one_gib():
    # 2^30 // (5 * 3 * 512 * 512) = 273; the frames are allocated but never touched.
    assert ReplayBuffer(10_000, 3, (3, 512, 512)).capacity == 273


@pytest.mark.parametrize(("capacity", "gib"), [(0, 1.0), (10, 19 * 2.0**-30)])
def test_a_buffer_that_cannot_hold_one_transition_is_refused(capacity, gib):
    with pytest.raises(ValueError, match=r"buffer_gib=.* and capacity=.* must hold one transition of 20 bytes"):
        ReplayBuffer(capacity, 3, (1, 2, 2), gib)


def test_sampling_follows_the_generator_alone(transitions):
    buffer = ReplayBuffer(8, 3, (1, 2, 2))
    buffer.add(transitions(8))
    before = torch.get_rng_state()
    generator = stream(1)
    first, second = buffer.sample(16, generator), buffer.sample(16, generator)
    assert_same(first, buffer.sample(16, stream(1)))
    assert first.reward.tolist() != second.reward.tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_is_uniform_over_the_filled_part(transitions):
    buffer = ReplayBuffer(100, 3, (1, 2, 2))
    buffer.add(transitions(4))
    counts = buffer.sample(4000, stream()).reward.long().bincount()
    assert len(counts) == 4
    # Five standard deviations of a binomial count: 5 sqrt(4000 / 4 * 3 / 4) = 137.
    assert (counts - 1000).abs().max().item() <= 137


def test_sampling_an_empty_buffer_is_an_error():
    with pytest.raises(ValueError, match="sample needs a transition in the buffer; got an empty one"):
        ReplayBuffer(2, 3, (1, 2, 2)).sample(1, stream())


def test_a_sample_does_not_change_when_its_place_is_overwritten(transitions):
    buffer = ReplayBuffer(1, 3, (1, 2, 2))
    buffer.add(transitions(1, 4))
    sample = buffer.sample(1, stream())
    kept = sample.state.clone()
    buffer.add(transitions(1, 9))
    assert sample.reward.item() == 4
    assert torch.equal(sample.state, kept)


def test_gradients_are_not_stored(transitions):
    batch = transitions(1)
    reward, state = batch.reward.clone().requires_grad_(), batch.state.clone().requires_grad_()
    with_gradients = {name: getattr(batch, name) for name in FIELDS} | {"reward": reward, "state": state}
    buffer = ReplayBuffer(2, 3, (1, 2, 2))
    buffer.add(Transitions(**with_gradients))
    sample = buffer.sample(1, stream())
    assert not sample.reward.requires_grad
    assert not sample.state.requires_grad


@pytest.mark.parametrize("count", [0, 3, 5, 8])
def test_a_restored_buffer_goes_on_as_the_saved_one(transitions, count):
    saved, restored = ReplayBuffer(5, 3, (1, 2, 2)), ReplayBuffer(5, 3, (1, 2, 2))
    for first in range(count):
        saved.add(transitions(1, first))
    restored.load_state_dict(saved.state_dict())
    assert len(restored) == len(saved)
    for first in (20, 22):
        for buffer in (saved, restored):
            buffer.add(transitions(2, first))
        assert_same(restored.sample(50, stream()), saved.sample(50, stream()))


def test_the_state_holds_the_filled_part_only(transitions):
    buffer = ReplayBuffer(1000, 3, (1, 2, 2))
    buffer.add(transitions(2))
    tensors = [value for value in buffer.state_dict().values() if isinstance(value, torch.Tensor)]
    assert tensors
    for tensor in tensors:
        assert tensor.shape[0] == 2
        # What torch.save writes is the storage, not the view.
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_the_state_is_a_copy(transitions):
    buffer = ReplayBuffer(1, 3, (1, 2, 2))
    buffer.add(transitions(1, 4))
    state = buffer.state_dict()
    buffer.add(transitions(1, 9))
    buffer.load_state_dict(state)
    buffer.add(transitions(1, 11))
    assert state["reward"].tolist() == [4]
    assert stored(buffer) == [11]


@pytest.mark.parametrize(
    "other", [ReplayBuffer(2, 3, (1, 2, 2)), ReplayBuffer(5, 2, (1, 2, 2)), ReplayBuffer(5, 3, (1, 2, 4))]
)
def test_a_state_that_does_not_fit_changes_nothing(transitions, other):
    saved = ReplayBuffer(5, 3, (1, 2, 2))
    saved.add(transitions(3))
    with pytest.raises(
        ValueError, match=r"the stored replay buffer has capacity 5 and frames \(5, 1, 2, 2\); this one has"
    ):
        other.load_state_dict(saved.state_dict())
    assert len(other) == 0
