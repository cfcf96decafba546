import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import frechet_distance, kernel_distance


def test_frechet_distance_of_gaussians_is_the_closed_form():
    # Diagonal covariances 1 and 4: sum of (s_a - s_b)^2 and of the squared shift.
    signs = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    assert frechet_distance(signs, 2 * signs + 3).item() == pytest.approx(2 * 9 + 2 * 1)


def test_frechet_distance_takes_fewer_vectors_than_features():
    a = torch.randn(5, 12)
    assert frechet_distance(a, a).item() == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 1).item() == pytest.approx(12, rel=1e-6)


def test_kernel_distance_is_unbiased_and_grows_with_a_shift():
    values = [kernel_distance(torch.randn(40, 3), torch.randn(40, 3)).item() for _ in range(200)]
    mean = torch.tensor(values).mean().item()
    assert abs(mean) < 4 * torch.tensor(values).std().item() / 200**0.5
    assert kernel_distance(torch.randn(40, 3), torch.randn(40, 3) + 1).item() > 10 * abs(mean)


@pytest.mark.parametrize("score", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shapes", [((4, 2), (4, 3)), ((4,), (4,)), ((1, 2), (4, 2))])
def test_sets_that_cannot_be_compared_are_refused(score, shapes):
    with pytest.raises(InputError):
        score(*(torch.zeros(shape) for shape in shapes))
