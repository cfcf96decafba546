import json
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlv2v_fast.errors import InputError
from rlv2v_fast.models.discriminator import Discriminator
from rlv2v_fast.models.generator import Generator
from rlv2v_fast.models.predictor import Predictor
from rlv2v_fast.models.q_network import QNetwork
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig

SMALL = ModelConfig(width=2)
# Pieces are summed in another order: about a hundred float32 sums between input and tanh, 100 * 2^-24 = 6e-6. A lost
# history or another weight changes 1e-3 and more.
STREAMING = {"rtol": 0, "atol": 2e-5}


def video(*shape):
    return torch.rand(*(shape or (1, 3, 3, 16, 16))) * 2 - 1


@pytest.fixture(scope="module")
def trained(settled):
    """A model whose weights and running statistics all differ, of the averaged generators too. Not to be changed."""
    return settled(RLV2VGAN(SMALL))


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    RLV2VGAN(SMALL).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """A folder with a saved model of SMALL, each test's own."""
    return shutil.copytree(saved_once, tmp_path / "model")


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def modes(model):
    return [module.training for module in model.modules()]


# Construction


def test_every_network_exists_for_both_domains():
    model = RLV2VGAN(SMALL)
    groups = {
        "generators": Generator,
        "generators_ema": Generator,
        "predictors": Predictor,
        "discriminators": Discriminator,
        "critics": QNetwork,
    }
    for name, network in groups.items():
        group = getattr(model, name)
        assert list(group) == ["x", "y"]
        assert all(type(member) is network for member in group.values())


def test_config_reaches_the_networks():
    model = RLV2VGAN(ModelConfig(width=3, channels=1, norm="instance"))
    expected = {name: tensor.shape for name, tensor in Generator(3, 1, norm="instance").state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.generators["x"].state_dict().items()} == expected


def test_default_config_is_the_cpu_default_of_the_specification():
    assert ModelConfig() == ModelConfig(width=16, channels=3, norm="batch", critics=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width must be a positive integer; got 0"),
        ({"width": True}, "width must be a positive integer; got True"),
        ({"channels": 1.5}, "channels must be a positive integer; got 1.5"),
        ({"norm": "group"}, "norm must be one of batch, instance; got 'group'"),
    ],
)
def test_a_config_that_fixes_no_shape_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**values)


def test_the_seed_fixes_weights_and_another_changes_convolutions():
    first, again, other = (RLV2VGAN(SMALL, seed=seed).state_dict() for seed in (5, 5, 6))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        if tensor.dim() > 1:
            assert not torch.equal(tensor, other[name]), name


def test_construction_leaves_the_global_random_stream_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = RLV2VGAN(SMALL).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(tensor, first[name]) for name, tensor in RLV2VGAN(SMALL).state_dict().items())


def test_no_two_networks_start_alike():
    model = RLV2VGAN(SMALL)
    stems = [group[d].stem.weight for group in (model.generators, model.predictors) for d in "xy"]
    trunks = [group[d].trunk.blocks[1].conv1.weight for group in (model.discriminators, model.critics) for d in "xy"]
    for weights in (stems, trunks):
        assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_leaving_the_critics_out_changes_no_other_weight():
    full, without = RLV2VGAN(SMALL, seed=3), RLV2VGAN(ModelConfig(width=2, critics=False), seed=3)
    assert len(without.critics) == 0
    weights = {name: t for name, t in full.state_dict().items() if not name.startswith("critics.")}
    assert weights.keys() == without.state_dict().keys() != full.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in without.state_dict().items())


# Averaged generators


def test_averaged_generators_start_as_frozen_copies():
    model = RLV2VGAN(SMALL)
    own, averaged = model.generators.state_dict(), model.generators_ema.state_dict()
    assert all(torch.equal(own[name], averaged[name]) for name in own)
    assert all(own[name].data_ptr() != averaged[name].data_ptr() for name in own)
    assert not any(p.requires_grad for p in model.generators_ema.parameters())
    assert all(p.requires_grad for p in model.generators.parameters())


@pytest.mark.parametrize("decay", [0.0, 0.75, 1.0])
def test_update_ema_averages_parameters_and_copies_buffers(decay):
    model = RLV2VGAN(SMALL)
    with torch.no_grad():
        for tensor in model.generators.state_dict().values():
            tensor.fill_(3)
        for tensor in model.generators_ema.state_dict().values():
            tensor.fill_(1)
    model.update_ema(decay)
    parameters = {name for name, _ in model.generators.named_parameters()}
    for name, tensor in model.generators_ema.state_dict().items():
        assert (tensor == (decay * 1 + (1 - decay) * 3 if name in parameters else 3)).all(), name
    assert all((tensor == 3).all() for tensor in model.generators.state_dict().values())


# Translation


@pytest.mark.parametrize(("direction", "domain"), [("x2y", "y"), ("y2x", "x")])
def test_translation_uses_the_averaged_generator_of_its_domain(trained, direction, domain):
    clip = video()
    output = trained.translate(clip, direction)
    with torch.no_grad():
        # Folding normalizations into convolutions rounds differently.
        torch.testing.assert_close(output, trained.generators_ema[domain](clip), rtol=0, atol=1e-5)
        for other in (trained.generators[domain], trained.generators_ema["x" if domain == "y" else "y"]):
            assert (output - other(clip)).abs().max() > 1e-2


def test_translation_leaves_the_averaged_generator_as_it_was(trained):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    trained.translate(video())
    assert trained.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_the_default_direction_is_x_to_y(trained):
    clip = video()
    assert torch.equal(trained.translate(clip), trained.translate(clip, "x2y"))


@given(frames=st.integers(1, 6), chunk=st.integers(1, 7), batch=st.integers(1, 2))
@settings(max_examples=10, deadline=None)
def test_the_chunk_does_not_change_the_result(trained, frames, chunk, batch):
    clip = video(batch, frames, 3, 8, 16)
    whole = trained.translate(clip, chunk=frames)
    torch.testing.assert_close(trained.translate(clip, chunk=chunk), whole, **STREAMING)


def test_no_more_than_a_chunk_of_frames_enters_the_network(settled):
    model, lengths = settled(RLV2VGAN(SMALL)), []
    stream = model.generators_ema["y"].stream
    model.generators_ema["y"].stream = lambda piece, state: (lengths.append(piece.shape[1]), stream(piece, state))[1]
    model.translate(video(1, 7, 3, 8, 8), chunk=3)
    assert lengths == [3, 3, 1]


@given(height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_any_size_is_padded_by_its_last_row_and_column_then_cut(trained, height, width):
    clip = video(1, 2, 3, height, width)
    output = trained.translate(clip)
    assert output.shape == clip.shape
    grown = np.pad(clip.numpy(), [(0, 0)] * 3 + [(0, -height % 8), (0, -width % 8)], mode="edge")
    with torch.no_grad():
        expected = trained.generators_ema["y"](torch.from_numpy(grown))[..., :height, :width]
    torch.testing.assert_close(output, expected, **STREAMING)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 12)])
def test_any_size_is_translated_with_instance_normalization_too(size):
    clip = video(1, 2, 3, *size)
    assert RLV2VGAN(ModelConfig(width=2, norm="instance")).translate(clip).shape == clip.shape


def test_a_video_without_batch_dimension_is_a_batch_of_one(trained):
    clip = video(3, 3, 16, 16)
    output = trained.translate(clip)
    assert output.shape == clip.shape
    assert torch.equal(output, trained.translate(clip[None])[0])


def test_streaming_pieces_equals_the_whole_video(trained):
    clip = video(1, 6, 3, 12, 12)
    parts = list(trained.translate_stream(iter(clip.split([2, 1, 3], dim=1)), "y2x"))
    assert [part.shape[1] for part in parts] == [2, 1, 3]
    torch.testing.assert_close(torch.cat(parts, 1), trained.translate(clip, "y2x"), **STREAMING)


def test_a_stream_is_translated_as_it_comes(trained):
    asked = []

    def camera():
        for index in range(3):
            asked.append(index)
            yield video(1, 1, 3, 8, 8)

    stream = trained.translate_stream(camera())
    next(stream)
    assert asked == [0]


def test_translation_runs_in_eval_mode_and_restores_the_mode(settled):
    model, clip = settled(RLV2VGAN(SMALL)), video()
    expected = model.translate(clip)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for part in model.translate_stream(iter([clip])):
        assert torch.equal(part, expected)
        assert all(modes(model))
    assert all(modes(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    model.translate(clip)
    assert not any(modes(model))


def test_the_mode_is_restored_after_an_error():
    model = RLV2VGAN(SMALL).train()
    with pytest.raises(ValueError, match=r"video must have shape \(B, T, 3, H, W\)"):
        model.translate(video(1, 2, 4, 8, 8))
    assert all(modes(model))


def test_translation_has_no_gradient_and_leaves_them_enabled(trained):
    assert not trained.translate(video().requires_grad_()).requires_grad
    stream = trained.translate_stream(iter([video(), video()]))
    next(stream)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("direction", ["y", "X2Y", ""])
def test_an_unknown_direction_is_named(trained, direction):
    with pytest.raises(InputError, match=f"direction must be one of x2y, y2x; got {direction!r}"):
        trained.translate(video(), direction)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 3, 3, 16, 16)])
def test_a_video_of_another_rank_is_refused(trained, shape):
    with pytest.raises(ValueError, match=r"video must have shape \(T, C, H, W\) or \(B, T, C, H, W\); got \("):
        trained.translate(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (1, 0, 3, 16, 16)])
def test_a_video_without_frames_is_refused(trained, shape):
    with pytest.raises(ValueError, match="video must hold at least one frame; got T=0"):
        trained.translate(torch.zeros(shape))


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_no_frames_is_refused_by_name(trained, chunk):
    with pytest.raises(ValueError, match=rf"chunk must .*; got {chunk}"):
        trained.translate(video(), chunk=chunk)


# Files


@pytest.mark.parametrize(
    "config", [SMALL, ModelConfig(width=3, channels=1, norm="instance"), ModelConfig(width=2, critics=False)]
)
def test_a_saved_model_is_loaded_bit_for_bit_in_eval_mode(tmp_path, settled, config):
    model = settled(RLV2VGAN(config, seed=9)).train()
    for buffer in model.buffers():
        if not buffer.is_floating_point():
            buffer.fill_(77)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = RLV2VGAN.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == config
    assert not any(modes(loaded))
    assert all(modes(model))
    own, read = model.state_dict(), loaded.state_dict()
    assert own.keys() == read.keys()
    for name, tensor in own.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    clip = video(1, 2, config.channels, 16, 16)
    assert torch.equal(loaded.translate(clip), model.translate(clip))


def test_a_saved_model_has_a_card_with_its_facts(tmp_path):
    RLV2VGAN(SMALL).save_pretrained(tmp_path, {"step": 7}, settings="seed: 3\n")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: rlv2v_fast\n")
    assert "- step: 7" in card
    assert "```yaml\nseed: 3\n```" in card
    assert "- width: " in card


def test_saving_over_a_model_replaces_it(saved):
    RLV2VGAN(ModelConfig(width=3, critics=False), seed=4).save_pretrained(saved)
    assert RLV2VGAN.from_pretrained(str(saved)).config == ModelConfig(width=3, critics=False)


def test_the_files_are_json_and_safetensors(saved):
    assert json.loads((saved / "config.json").read_text()) == {
        "format": 1,
        "model": {
            "width": 2,
            "channels": 3,
            "norm": "batch",
            "critics": True,
            "generator": "unet",
            "discriminator": "pooling",
            "output": "tanh",
        },
    }
    assert load_file(saved / "model.safetensors").keys() == RLV2VGAN(SMALL).state_dict().keys()


def test_a_model_saved_before_small_networks_is_the_papers(saved):
    record = json.loads((saved / "config.json").read_text())
    del record["model"]["generator"], record["model"]["discriminator"]
    (saved / "config.json").write_text(json.dumps(record))
    assert RLV2VGAN.from_pretrained(saved).config == SMALL


def test_small_networks_stream_like_the_clip_and_load_as_saved(tmp_path):
    model = RLV2VGAN(ModelConfig(width=4, generator="local", discriminator="patch"))
    model.save_pretrained(tmp_path)
    clip = torch.rand(5, 3, 13, 10) * 2 - 1
    whole = model.translate(clip, chunk=5)
    assert torch.equal(RLV2VGAN.from_pretrained(tmp_path).translate(clip, chunk=5), whole)
    torch.testing.assert_close(model.translate(clip, chunk=2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ModelConfig(width=3), "critics.x.head.weight"),
        (ModelConfig(width=2, channels=1), r"critics.x.trunk.blocks.0.conv1.weight"),
        (ModelConfig(width=2, critics=False), "critics.x.head.bias is .* expected None"),
        (ModelConfig(width=2, norm="instance"), r"num_batches_tracked is \(\), expected None"),
    ],
)
def test_weights_of_another_architecture_change_nothing(saved, config, name):
    model = RLV2VGAN(config, seed=1)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=f"holds another architecture: .*{name}"):
        model.load_weights(saved)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_file_without_one_tensor_is_refused(saved):
    tensors = load_file(saved / "model.safetensors")
    del tensors["generators.y.stem.weight"]
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(InputError, match=r"generators.y.stem.weight is None, expected \(2, 3, 3, 3, 3\)"):
        RLV2VGAN.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=re.escape(f"model {saved} has no {name}")):
        RLV2VGAN.from_pretrained(saved)


def test_a_missing_folder_and_a_file_instead_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        RLV2VGAN.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"has no config\.json"):
        RLV2VGAN.from_pretrained(tmp_path / "file")


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_format_is_refused(saved, version):
    rewrite(saved, format=version)
    with pytest.raises(InputError, match=f"has format {version}; this version of rlv2v_fast reads format 1"):
        RLV2VGAN.from_pretrained(saved)


def test_unknown_fields_are_named(saved):
    rewrite(saved, model={"width": 2, "depth": 4, "colour": 1})
    with pytest.raises(InputError, match="has unknown fields: colour, depth"):
        RLV2VGAN.from_pretrained(saved)


def test_values_no_model_can_have_are_refused(saved):
    rewrite(saved, model={"width": -2})
    with pytest.raises(InputError, match="width must be a positive integer; got -2"):
        RLV2VGAN.from_pretrained(saved)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "{}", '{"format": 1}', '{"format": 1, "model": null}', '{"format": 1, "model": []}']
)
def test_a_config_that_is_no_models_config_is_an_input_error(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        RLV2VGAN.from_pretrained(saved)


def test_a_config_that_is_no_text_is_an_input_error(saved):
    (saved / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"config\.json"):
        RLV2VGAN.from_pretrained(saved)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"\x00" * len(data)])
def test_corrupt_weights_are_an_input_error(saved, damage):
    path = saved / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read: "):
        RLV2VGAN.from_pretrained(saved)


@pytest.mark.parametrize("generator", ["unet", "local"])
def test_bytes_are_translated_as_bytes(generator):
    torch.manual_seed(0)
    model = RLV2VGAN(ModelConfig(width=2, generator=generator))
    clip = torch.randint(0, 256, (1, 3, 3, 8, 8), dtype=torch.uint8)
    output, wanted = model.translate(clip), model.translate(clip.float() / 127.5 - 1)
    assert output.dtype == torch.uint8
    torch.testing.assert_close(output.float(), (wanted + 1) * 127.5, rtol=0, atol=0.5001)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.full((1, 2, 3, 8, 8), 255.0), r"floats in \[-1, 1\] or uint8; got floats from 255 to 255"),
        (torch.full((1, 2, 3, 8, 8), -1.1), r"floats in \[-1, 1\] or uint8; got floats from -1.1 to -1.1"),
        (torch.zeros((1, 2, 3, 8, 8), dtype=torch.int32), r"floats in \[-1, 1\] or uint8; got torch.int32"),
    ],
)
@pytest.mark.parametrize("generator", ["unet", "local"])
def test_videos_of_another_range_are_refused(generator, clip, message):
    model = RLV2VGAN(ModelConfig(width=2, generator=generator))
    with pytest.raises(ValueError, match=message):
        model.translate(clip)


def test_rounding_beyond_the_range_is_taken():
    clip = torch.full((1, 2, 3, 8, 8), 1 + 1e-5)
    assert RLV2VGAN(ModelConfig(width=2)).translate(clip).isfinite().all()
