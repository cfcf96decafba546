import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from rlv2v_fast.rl.rollout import Policy, RewardWeights, first_state, rollout, step_reward


class Verdict(NamedTuple):
    authenticity: torch.Tensor
    style: torch.Tensor
    video: torch.Tensor


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def softplus(z):
    return math.log1p(math.exp(z))


def recording(function):
    """function, with the inputs of every call in its attribute `seen`."""

    def call(*inputs):
        call.seen.append(tuple(x.clone() for x in inputs))
        return function(*inputs)

    call.seen = []
    return call


# Networks that do not commute, so that any other order of them gives another number:
# for x, P_x(s) = s - 3 and G_x(P_y(G_y(s))) = 5 * 2 s + 1; for y, P_y(s) = 5 s and G_y(P_x(G_x(s))) = 2 (s + 1 - 3).
AFFINE = Policy(
    {"x": lambda v: v + 1, "y": lambda v: 2 * v},
    {"x": lambda v: v - 3, "y": lambda v: 5 * v},
)
FIRST = {"x": lambda v: v - 3, "y": lambda v: 5 * v}
SECOND = {"x": lambda v: 10 * v + 1, "y": lambda v: 2 * (v - 2)}


def judge(video):
    """Two patches a frame; authenticity v and v + 1, style 2 v and 2 v + 4, of a frame of level v; clip: last frame."""
    level = video.mean(dim=(2, 3, 4))[..., None, None].expand(-1, -1, 1, 2)
    offset = torch.tensor([0.0, 1.0])
    weighted = video.mean(dim=(2, 3, 4)) * (1 + torch.arange(video.shape[1]))
    return Verdict(level + offset, 2 * level + 4 * offset, weighted.sum(1) / 10)


DISCRIMINATORS = {"x": judge, "y": judge}


def clips(batch=2, frames=4, seed=0):
    """Clips of constant frames with levels in (-1, 1), one pixel row: (B, T, 1, 1, 2) for x and y."""
    levels = torch.rand(2, batch, frames, 1, 1, 1, generator=stream(seed)) * 2 - 1
    return dict(zip("xy", levels.expand(-1, -1, -1, 1, 1, 2).unbind(0), strict=True))


def roll(given_clips=None, policy=AFFINE, discriminators=DISCRIMINATORS, sigma2=0.5, seed=0, **options):
    options = {"state_frames": 3, "weights": RewardWeights()} | options
    return rollout(
        clips() if given_clips is None else given_clips,
        policy,
        discriminators,
        sigma2=sigma2,
        generator=stream(seed),
        **options,
    )


def trajectory(found, domain, batch, item):
    """The transitions of one clip in order of time; rollouts list all items of a step after those of the one before."""
    part = found[found.domain == "xy".index(domain)]
    return part[torch.arange(item, len(part), batch)]


def level(frames):
    return frames[..., 0, 0, 0].tolist()


def test_first_state_is_black_but_for_its_last_frame():
    frame = torch.rand(2, 3, 2, 2)
    state = first_state(frame, 3)
    assert state.shape == (2, 3, 3, 2, 2)
    assert (state[:, :2] == -1).all()
    assert torch.equal(state[:, 2], frame)
    assert torch.equal(first_state(frame, 1)[:, 0], frame)


@pytest.mark.parametrize("domain", ["x", "y"])
def test_candidates_are_forecasts_direct_and_by_the_other_domain(domain):
    state = torch.rand(2, 3, 1, 2, 2)
    first, second = AFFINE.candidates(domain, state)
    torch.testing.assert_close(first, FIRST[domain](state[:, -1]))
    torch.testing.assert_close(second, SECOND[domain](state[:, -1]))


def test_candidates_networks_see_the_whole_state_in_order():
    names = []

    def noting(name):
        return lambda video: (names.append((name, tuple(video.shape))), video.cumsum(1))[1]

    policy = Policy({d: noting(f"G_{d}") for d in "xy"}, {d: noting(f"P_{d}") for d in "xy"})
    state = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1, 1)
    first, second = policy.candidates("x", state)
    shape = (1, 3, 1, 1, 1)
    assert names == [("P_x", shape), ("G_y", shape), ("P_y", shape), ("G_x", shape)]
    # Sums of sums: 1 2 4 -> 1 3 7 -> 1 4 11 -> 1 5 16.
    assert (first.item(), second.item()) == (7, 16)


@pytest.mark.parametrize(("sigma2", "taken"), [(0.0, FIRST), (1.0, SECOND)])
def test_states_start_black_with_a_frame_and_shift_by_the_action(sigma2, taken):
    found, given_clips = roll(sigma2=sigma2), clips()
    for domain in "xy":
        for item in range(2):
            steps = trajectory(found, domain, 2, item)
            window = [-1.0, -1.0, given_clips[domain][item, 0, 0, 0, 0].item()]
            for step in range(3):
                assert level(steps.state[step]) == pytest.approx(window)
                action = taken[domain](window[-1])
                assert level(steps.action[step]) == pytest.approx(action)
                window = [*window[1:], action]
                assert level(steps.next_state[step]) == pytest.approx(window)


def test_true_actions_are_the_clips_frames_after_the_first():
    found, given_clips = roll(), clips()
    for domain in "xy":
        for item in range(2):
            assert torch.equal(trajectory(found, domain, 2, item).true_action, given_clips[domain][item, 1:])


def test_a_clip_gives_t_minus_1_transitions_and_one_end():
    given_clips = clips() | {"y": clips(batch=3, frames=5)["y"]}
    found = roll(given_clips)
    assert found.domain.bincount().tolist() == [2 * 3, 3 * 4]
    for domain, batch, frames in (("x", 2, 4), ("y", 3, 5)):
        for item in range(batch):
            steps = trajectory(found, domain, batch, item)
            assert steps.position.tolist() == pytest.approx([t / frames for t in range(1, frames)])
            later = [t / frames for t in range(2, frames)]
            assert steps.next_position[:-1].tolist() == pytest.approx(later)
            assert steps.done.tolist() == [False] * (frames - 2) + [True]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_outcomes_are_discounted_rewards_to_the_end_of_the_clip(gamma):
    found = roll(gamma=gamma)
    for domain in "xy":
        for item in range(2):
            steps = trajectory(found, domain, 2, item)
            first, second, last = steps.reward.tolist()
            expected = [first + gamma * (second + gamma * last), second + gamma * last, last]
            assert steps.outcome.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_clip_of_two_frames_is_one_final_transition():
    found = roll(clips(frames=2))
    assert len(found) == 4
    assert found.done.all()


@pytest.mark.parametrize(("sigma2", "weight"), [(0.0, 0.25), (1.0, 0.75)])
def test_reward_is_minus_frame_loss_and_weighted_distance(sigma2, weight):
    weights = RewardWeights(recurrent=0.25, recycle=0.75, video=2.0)
    steps = trajectory(roll(sigma2=sigma2, weights=weights), "x", 2, 1)
    for step in range(2):
        a, truth = steps.action[step, 0, 0, 0].item(), steps.true_action[step, 0, 0, 0].item()
        authenticity = (softplus(-a) + softplus(-(a + 1))) / 2
        style = (softplus(-2 * a) + softplus(-(2 * a + 4))) / 2
        expected = -(authenticity + style + weight * abs(truth - a))
        # float32 softplus and means of numbers up to 100: relative error about 1e-6.
        assert steps.reward[step].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sigma2", [0.0, 1.0])
def test_final_reward_is_minus_the_weighted_loss_of_the_clip(sigma2):
    given_clips = clips()
    weights = RewardWeights(recurrent=9.0, recycle=9.0, video=2.0, kind="hinge")
    for domain in "xy":
        steps = trajectory(roll(sigma2=sigma2, weights=weights), domain, 2, 0)
        rolled_out = [given_clips[domain][0, 0, 0, 0, 0].item(), *level(steps.action)]
        logit = sum((t + 1) * value for t, value in enumerate(rolled_out)) / 10
        # The hinge's fooling loss is -z.
        assert steps.reward[-1].item() == pytest.approx(2.0 * logit, rel=1e-5)


def test_final_reward_is_by_default_non_saturating_cross_entropy():
    found = roll(sigma2=0.0, weights=RewardWeights(video=3.0), discriminators=DISCRIMINATORS)
    steps, start = trajectory(found, "x", 2, 0), clips()["x"][0, 0, 0, 0, 0].item()
    logit = sum((t + 1) * value for t, value in enumerate([start, *level(steps.action)])) / 10
    assert steps.reward[-1].item() == pytest.approx(-3.0 * softplus(-logit), rel=1e-5)


def test_the_default_weights_are_the_authors():
    assert RewardWeights() == RewardWeights(recurrent=0.1, recycle=0.1, video=1.0, kind="bce")


def test_each_domains_discriminator_judges_actions_then_the_clip():
    discriminators = {domain: recording(judge) for domain in "xy"}
    found, given_clips = roll(discriminators=discriminators), clips()
    for domain in "xy":
        steps = [found[(found.domain == "xy".index(domain)) & (found.position == t / 4)] for t in (1, 2, 3)]
        seen = [video for (video,) in discriminators[domain].seen]
        assert len(seen) == 3
        for video, step in zip(seen[:2], steps[:2], strict=True):
            assert torch.equal(video, torch.cat([step.state, step.action[:, None]], dim=1))
        rolled_out = torch.stack([given_clips[domain][:, 0], *(step.action for step in steps)], dim=1)
        assert torch.equal(seen[2], rolled_out)


def test_a_step_reward_is_per_item_and_reads_the_last_frame_only():
    state = torch.tensor([0.5, -0.5]).reshape(2, 1, 1, 1, 1).expand(-1, 3, 1, 1, 2)
    action = torch.tensor([0.25, 1.0]).reshape(2, 1, 1, 1).expand(-1, 1, 1, 2)
    truth = torch.tensor([[0.5, 0.0], [1.0, 0.0]]).reshape(2, 1, 1, 2)
    rewards = step_reward(judge, state, action, truth, torch.tensor([2.0, 4.0]), "least_squares")

    def expected(a, distance, weight):
        authenticity = ((a - 1) ** 2 + a**2) / 2
        style = ((2 * a - 1) ** 2 + (2 * a + 3) ** 2) / 2
        return -(authenticity + style + weight * distance)

    assert rewards.tolist() == pytest.approx([expected(0.25, 0.25, 2.0), expected(1.0, 0.5, 4.0)])


def test_the_style_term_of_a_reward_is_weighed():
    state, action = torch.zeros(1, 3, 1, 1, 2), torch.full((1, 1, 1, 2), 0.25)
    none, half, whole = (
        step_reward(judge, state, action, action, torch.ones(1), "least_squares", style) for style in (0.0, 0.5, 1.0)
    )
    assert none.item() > half.item() > whole.item()
    assert half.item() == pytest.approx((none.item() + whole.item()) / 2)


@pytest.mark.parametrize(("sigma2", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_the_second_candidate_is_taken_with_probability_sigma2(sigma2, share):
    given_clips = clips(batch=500, frames=3)
    found = roll(given_clips, sigma2=sigma2)
    x = found[found.domain == 0]
    second = (x.action - SECOND["x"](x.state[:, -1])).abs().amax(dim=(1, 2, 3)) < 1e-4
    first = (x.action - FIRST["x"](x.state[:, -1])).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (first ^ second).all()
    # 1000 draws: five standard deviations are 5 sqrt(0.3 * 0.7 / 1000) = 0.07, and none at 0 and 1.
    assert second.float().mean().item() == pytest.approx(share, abs=0.07 if 0 < share < 1 else 0)


@pytest.mark.parametrize("sigma2", [0.0, 1.0])
def test_greedy_behaviour_takes_each_items_better_candidate(sigma2):
    # Judges prefer a lower level for negative states and a higher one for others; the two candidates differ everywhere.
    def value(state, action, position):
        return action.mean(dim=(1, 2, 3)) * torch.where(state[:, -1].mean(dim=(1, 2, 3)) < 0, -1.0, 1.0)

    found = roll(clips(batch=20), sigma2=sigma2, critics={"x": value, "y": value}, epsilon=0.0)
    choices = set()
    for domain in "xy":
        part = found[found.domain == "xy".index(domain)]
        for state, action in zip(level(part.state[:, -1]), level(part.action), strict=True):
            pair = FIRST[domain](state), SECOND[domain](state)
            better = min(pair) if state < 0 else max(pair)
            assert action == pytest.approx(better, rel=1e-5)
            choices.add(pair.index(better))
    assert choices == {0, 1}


@pytest.mark.parametrize(("epsilon", "share"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)])
def test_greed_yields_to_the_mixture_with_probability_epsilon(epsilon, share):
    def second_is_better(state, action, position):
        return ((action - SECOND["x"](state[:, -1])).abs().amax(dim=(1, 2, 3)) < 1e-4).float()

    critics = {"x": second_is_better, "y": second_is_better}
    found = roll(clips(batch=500, frames=3), sigma2=0.0, critics=critics, epsilon=epsilon)
    x = found[found.domain == 0]
    # 1000 draws: five standard deviations are 5 sqrt(0.25 * 0.75 / 1000) = 0.07.
    tolerance = 0.07 if 0 < share < 1 else 0
    assert second_is_better(x.state, x.action, None).mean().item() == pytest.approx(share, abs=tolerance)


def test_without_critics_epsilon_has_no_effect():
    assert torch.equal(roll(epsilon=0.0).action, roll(epsilon=1.0).action)


def test_a_domains_critics_judge_both_candidates_at_a_position():
    critics = {domain: recording(lambda s, a, p: a.mean(dim=(1, 2, 3))) for domain in "xy"}
    found = roll(critics=critics, epsilon=0.0)
    for domain in "xy":
        part = found[found.domain == "xy".index(domain)]
        for t in (1, 2, 3):
            state = part.state[part.position == t / 4]
            asked = [call for call in critics[domain].seen if (call[2] == t / 4).all()]
            assert all(torch.equal(call[0], state) and call[2].shape == (2,) for call in asked)
            actions = sorted(call[1].sum().item() for call in asked)
            pair = FIRST[domain](state[:, -1]).sum().item(), SECOND[domain](state[:, -1]).sum().item()
            assert actions == pytest.approx(sorted(pair), rel=1e-5)


def test_behaviour_follows_the_generator_alone():
    before = torch.get_rng_state()
    given_clips = clips(batch=8)
    assert torch.equal(roll(given_clips, seed=1).action, roll(given_clips, seed=1).action)
    assert not torch.equal(roll(given_clips, seed=1).action, roll(given_clips, seed=2).action)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_gradient_flows_through_a_rollout():
    # Over the two columns of a frame.
    networks = {name: nn.Linear(2, 2) for name in ("G_x", "G_y", "P_x", "P_y", "D")}
    policy = Policy({d: networks[f"G_{d}"] for d in "xy"}, {d: networks[f"P_{d}"] for d in "xy"})

    def verdict(video):
        return judge(networks["D"](video))

    given_clips = {domain: clip.clone().requires_grad_() for domain, clip in clips().items()}
    found = roll(given_clips, policy, {"x": verdict, "y": verdict})
    for name in ("state", "action", "reward", "next_state"):
        assert not getattr(found, name).requires_grad, name
