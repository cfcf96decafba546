"""PixelMap takes the fused operator exactly where its submodules' parameters say everything about a call."""

import pytest
import torch
from torch import nn

from rlv2v_fast import extension
from rlv2v_fast.nn.pixel_map import PixelMap
from tests.compatibility.harness import watching

needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))
FRAMES = (2, 3, 6, 7)


def wider_layer(module):
    module.hidden[2] = nn.Conv2d(4, 9, 1)
    module.hidden[4] = nn.Conv2d(9, 4, 1)


# By what a user did to a PixelMap: doing it.
CHANGES = {
    "another slope": lambda m: setattr(m.hidden[1], "negative_slope", 0.5),
    "one more layer": lambda m: m.hidden.append(nn.Tanh()),
    "another activation": lambda m: m.hidden.__setitem__(3, nn.ReLU()),
    "layers in another order": lambda m: m.hidden.insert(0, m.hidden.pop(1)),
    "a wider layer": wider_layer,
    "a layer without bias": lambda m: m.hidden.__setitem__(2, nn.Conv2d(4, 4, 1, bias=False)),
    "a layer that sees neighbours": lambda m: m.hidden.__setitem__(2, nn.Conv2d(4, 4, 3, padding=1)),
    "another head": lambda m: setattr(m, "head", nn.Sequential(nn.Conv2d(4, 6, 1), nn.Tanh())),
    "a hook on the features": lambda m: m.features.register_forward_hook(lambda *_: None),
    "a hook on the layers": lambda m: m.hidden.register_forward_hook(lambda *_: None),
}


def by_calls(module, frames):
    """What the submodules and the table of a module in training mode give, called one by one."""
    gain, emission = module.head(module.hidden(module.features(frames))).chunk(2, dim=1)
    looked_up = nn.functional.grid_sample(
        module.table.expand(len(frames), -1, -1, -1, -1),
        frames.permute(0, 2, 3, 1).unsqueeze(1),
        padding_mode="border",
        align_corners=True,
    )
    return (frames + 1) * (gain + 0.3) + emission - 1 + 3 * looked_up.squeeze(2)


def made(backend="auto"):
    module = PixelMap(4, backend=backend)
    nn.init.normal_(module.table)
    return module


@needs_cpp
def test_a_plain_module_is_fused():
    module, frames = made(), torch.rand(FRAMES) * 2 - 1
    with watching() as seen:
        found = module(frames)
    assert seen == {"rlv2v_fast::pixel_map_fwd"}
    torch.testing.assert_close(found, by_calls(module, frames), rtol=1e-5, atol=1e-5)


@needs_cpp
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_user_changed_is_called(change, recwarn):
    module, frames = made(), torch.rand(FRAMES) * 2 - 1
    CHANGES[change](module)
    with watching() as seen:
        found = module(frames)
    assert not seen
    torch.testing.assert_close(found, by_calls(module, frames))
    module.backend = "cpp"
    with pytest.raises(RuntimeError, match="backend='cpp' cannot run pixel_map: "):
        module(frames)


def test_names_of_parameters_are_those_of_saved_models():
    convolutions = ["features.project", "hidden.0", "hidden.2", "hidden.4", "head"]
    named = {f"{name}.{kind}" for name in convolutions for kind in ("weight", "bias")}
    assert set(made().state_dict()) == named | {"table"}


def test_only_in_eval_mode_the_result_is_clamped():
    module, frames = made(), torch.rand(FRAMES) * 2 - 1
    trained = module(frames)
    assert trained.abs().max() > 1
    assert torch.equal(module.eval()(frames), trained.clamp(-1, 1))


def test_another_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be one of"):
        PixelMap(4, backend="fastest")
