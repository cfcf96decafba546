from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def settled() -> Callable[[nn.Module], nn.Module]:
    """Gives a network weights and running statistics like a trained one's, all different, and puts it in eval mode."""

    def settle(network: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5, generator=generator)
                elif tensor.is_floating_point():
                    # Normalization weights stay near 1, what is drawn small stays small.
                    tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype), alpha=0.1)
        return network.eval()

    return settle
