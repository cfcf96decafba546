"""RLV2VGAN: all networks of the system, which are saved and loaded together."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load, save_file
from torch import Tensor, nn

from rlv2v_fast.domains import DIRECTIONS, DOMAINS
from rlv2v_fast.errors import InputError
from rlv2v_fast.hashes import check_hash
from rlv2v_fast.models.budget import MIB, Portion, default_budget, portion
from rlv2v_fast.models.card import CARD_FILE, model_card
from rlv2v_fast.models.discriminator import Discriminator
from rlv2v_fast.models.generator import OUTPUTS, START, STRIDE, Generator
from rlv2v_fast.models.local import LocalGenerator, PatchDiscriminator
from rlv2v_fast.models.look import LookGenerator
from rlv2v_fast.models.predictor import Predictor
from rlv2v_fast.models.q_network import QEnsemble, QNetwork
from rlv2v_fast.models.stream import Frame, stream_frames
from rlv2v_fast.nn.average import soft_update
from rlv2v_fast.nn.norm import NORMS

# The networks of Figure 5, the small ones for few videos, and a look that was estimated.
GENERATORS: dict[str, type[nn.Module]] = {"unet": Generator, "local": LocalGenerator, "look": LookGenerator}
DISCRIMINATORS: dict[str, type[nn.Module]] = {"pooling": Discriminator, "patch": PatchDiscriminator}
FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
# Frames that translating takes at once, at most, where nothing else is asked for.
CHUNK = 8


@dataclass(frozen=True)
class ModelConfig:
    """The settings that fix the shape of every tensor of the model.

    width: channels of the first level. channels: of a frame. norm: "batch" (the paper's) or "instance" (per frame).
    critics: Q-networks of each domain, 0 for none; of several the lowest value counts. generator: "unet" (the paper's),
    "local", or "look" (not trained). discriminator: "pooling" (the paper's) or "patch". output: of generators and
    predictors, "tanh" (the paper's) or "gain".
    """

    width: int = 16
    channels: int = 3
    norm: str = "batch"
    critics: int = 1
    generator: str = "unet"
    discriminator: str = "pooling"
    output: str = "tanh"

    def __post_init__(self) -> None:
        for name in ("width", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive integer; got {value!r}")
        # Older saved models have true or false here.
        if not isinstance(self.critics, int) or self.critics < 0:
            raise InputError(f"critics must be an integer, at least 0; got {self.critics!r}")
        if self.norm not in NORMS:
            raise InputError(f"norm must be one of {', '.join(NORMS)}; got {self.norm!r}")
        for name, known in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS), ("output", OUTPUTS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")


def _signed(video: Tensor) -> Tensor:
    """video, uint8 or floats in [-1, 1], as floats in [-1, 1]; ValueError for anything else."""
    if video.dtype == torch.uint8:
        return video.float().div_(127.5).sub_(1)
    if not video.is_floating_point():
        raise ValueError(f"video must be floats in [-1, 1] or uint8; got {video.dtype}")
    # Far below a step of 8 bits, far above what arithmetic leaves.
    rounding = max(1e-3, 4 * torch.finfo(video.dtype).eps)
    if video.numel():
        # In one pass and without a copy of the video.
        low, high = video.aminmax()
        if max(-low, high) > 1 + rounding:
            raise ValueError(f"video must be floats in [-1, 1] or uint8; got floats from {low:.4g} to {high:.4g}")
    return video


def _bytes(video: Tensor) -> Tensor:
    """Floats in [-1, 1] as uint8."""
    return (video + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class RLV2VGAN(nn.Module):
    """Generators, predictors, discriminators and critics of both domains, and averaged generators for inference.

    Each is a ModuleDict keyed by the domain it produces or judges: generators["y"] is G_y: X -> Y.

    Args:
        config: ModelConfig.
        seed: of the initialization. Each network draws from a stream of its own, so that a model without critics has
            the same other weights.
        backend: of the fused operators.

    Source: Figure 2.
    """

    def __init__(self, config: ModelConfig | None = None, *, seed: int = 0, backend: str = "auto") -> None:
        super().__init__()
        self.config = config or ModelConfig()
        c = self.config
        self.generators = nn.ModuleDict()
        self.predictors = nn.ModuleDict()
        self.discriminators = nn.ModuleDict()
        self.critics = nn.ModuleDict()
        groups: list[tuple[nn.ModuleDict, Callable[..., nn.Module]]] = [
            (self.generators, partial(GENERATORS[c.generator], output=c.output)),
            (self.predictors, partial(Predictor, output=c.output)),
            (self.discriminators, DISCRIMINATORS[c.discriminator]),
        ]
        if c.critics:
            groups.append((self.critics, QNetwork if c.critics == 1 else partial(QEnsemble, c.critics)))
        for group_index, (group, network) in enumerate(groups):
            for domain_index, domain in enumerate(DOMAINS):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed * 1009 + group_index * len(DOMAINS) + domain_index)
                    group[domain] = network(c.width, c.channels, norm=c.norm, backend=backend)
        self.generators_ema = copy.deepcopy(self.generators).requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def update_ema(self, decay: float) -> None:
        """generators_ema <- decay generators_ema + (1 - decay) generators; buffers are copied."""
        soft_update(self.generators_ema, self.generators, 1.0 - decay)

    def translate(
        self, video: Tensor, direction: str = "x2y", *, chunk: int = CHUNK, memory: float | None = None
    ) -> Tensor:
        """The translation of a video by the averaged generator, in eval mode.

        Args:
            video: (B, T, C, H, W) or (T, C, H, W), any H and W: floats in [-1, 1], or uint8, 0 to 255.
            direction: "x2y" or "y2x".
            chunk, memory: as of portion. The result is the same.

        Returns:
            A tensor of the same shape; of uint8 where video is.

        Raises:
            ValueError: video has another shape or dtype, or floats outside [-1, 1] by more than rounding.
        """
        if video.dim() not in (4, 5):
            raise ValueError(f"video must have shape (T, C, H, W) or (B, T, C, H, W); got {tuple(video.shape)}")
        batch = video if video.dim() == 5 else video.unsqueeze(0)
        if batch.shape[1] < 1:
            raise ValueError("video must hold at least one frame; got T=0")
        (output,) = self.translate_stream(iter([batch]), direction, chunk=chunk, memory=memory)
        return output if video.dim() == 5 else output.squeeze(0)

    @torch.no_grad()
    def translate_stream(
        self, pieces: Iterator[Tensor], direction: str = "x2y", *, chunk: int = CHUNK, memory: float | None = None
    ) -> Iterator[Tensor]:
        """The translations of consecutive pieces (B, t, C, H, W) of one video, each as translate takes and gives it.

        The state is carried from piece to piece. The generator is a copy of the averaged one, made at the first piece,
        with its normalizations folded into its convolutions. chunk, memory: as of portion.
        """
        generator = copy.deepcopy(self._averaged(direction)).eval().fuse()
        state = START
        for piece in pieces:
            if piece.dim() != 5:
                raise ValueError(f"video must have shape (B, T, C, H, W); got {tuple(piece.shape)}")
            batch, height, width = piece.shape[0], *piece.shape[-2:]
            at_once = self.portion(height, batch * width, direction, chunk=chunk, memory=memory)
            parts = []
            for part in piece.split(at_once.frames, dim=1):
                output, state = generator.stream(pad_to_stride(_signed(part)), state)
                output = output[..., :height, :width]
                parts.append(_bytes(output) if piece.dtype == torch.uint8 else output)
            yield parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def portion(
        self, height: int, width: int, direction: str = "x2y", *, chunk: int = CHUNK, memory: float | None = None
    ) -> Portion:
        """How many frames of height x width pixels are translated in one call of the network.

        Args:
            direction: "x2y" or "y2x".
            chunk: frames at once, at most.
            memory: MiB that a call may work with, beside the weights and the frames that come and go. None stands for
                a quarter of what is free, and at most 3072. A frame is the least.

        Raises:
            ValueError: chunk is less than 1, or memory is not above 0.
        """
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        if memory is not None and not memory > 0:
            raise ValueError(f"memory must be above 0 MiB; got {memory:g}")
        budget = default_budget(self.device) if memory is None else memory * MIB
        return portion(self._averaged(direction).cost(), height * width, budget, chunk)

    def _averaged(self, direction: str) -> Generator | LocalGenerator | LookGenerator:
        """The averaged generator of a direction."""
        if direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r}")
        averaged = self.generators_ema[DIRECTIONS[direction]]
        assert isinstance(averaged, (Generator, LocalGenerator, LookGenerator))
        return averaged

    def stream(self, frames: Iterable[Frame], direction: str = "x2y") -> Iterator[Frame]:
        """Translate frames as they come: `for frame in model.stream(camera)`. No frame waits for the next.

        Args:
            frames: those of one video, of one shape, dtype and kind: (C, H, W) tensors, floats in [-1, 1] or uint8, on
                any device; or (H, W, C) uint8 arrays in RGB.
            direction: "x2y" or "y2x".

        Returns:
            An iterator over the translations, each of the kind of its frame.

        Raises:
            ValueError: a frame is of another kind, or not like the first.
        """
        return stream_frames(frames, lambda pieces: self.translate_stream(pieces, direction), self.device)

    def save_pretrained(
        self, folder: str | Path, facts: Mapping[str, object] | None = None, *, settings: str = ""
    ) -> None:
        """Write config.json, model.safetensors and a model card (README.md) into folder, made if missing.

        Args:
            facts: what the card says of the training, by name. settings: of the run, as YAML, for the card.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        record = {"format": FORMAT, "model": asdict(self.config)}
        (folder / CONFIG_FILE).write_text(json.dumps(record, indent=1) + "\n")
        (folder / CARD_FILE).write_text(model_card(self.config, facts or {}, settings))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, backend: str = "auto") -> RLV2VGAN:
        """The model that save_pretrained wrote into folder, on the CPU in eval mode.

        Raises:
            InputError: a file is missing, of a newer format, or does not hold this architecture's tensors.
        """
        folder = Path(folder)
        config, tensors = read_model_config(folder), _read_tensors(folder / WEIGHTS_FILE)
        # A few bytes can ask for networks of any size: their shapes are compared before they are given memory.
        if config.critics > len(tensors):
            raise InputError(f"model file {folder / WEIGHTS_FILE} holds fewer than {config.critics} critics")
        with torch.device("meta"):
            _check_shapes(folder / WEIGHTS_FILE, tensors, cls(config, backend=backend).state_dict())
        model = cls(config, backend=backend)
        model.load_state_dict(tensors)
        return model.eval()

    def load_weights(self, folder: Path) -> None:
        """Load model.safetensors of folder; InputError names the first tensor that does not fit."""
        path = folder / WEIGHTS_FILE
        tensors = _read_tensors(path)
        _check_shapes(path, tensors, self.state_dict())
        self.load_state_dict(tensors)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a model file. InputError where it is missing or damaged."""
    check_hash(path)
    try:
        return load(path.read_bytes())  # load_file takes no name that is not UTF-8
    except FileNotFoundError:
        raise InputError(f"model {path.parent} has no {WEIGHTS_FILE}") from None
    except Exception as error:
        raise InputError(f"model file {path} cannot be read: {error}") from error


def _check_shapes(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise InputError where a model file is of another architecture; it names the first tensor that does not fit."""
    for name in sorted(own.keys() | tensors.keys()):
        saved = tuple(tensors[name].shape) if name in tensors else None
        wanted = tuple(own[name].shape) if name in own else None
        if saved != wanted:
            raise InputError(f"model file {path} holds another architecture: {name} is {saved}, expected {wanted}")


def read_model_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a saved model. InputError where there is none or it has another format."""
    path = folder / CONFIG_FILE
    check_hash(path)
    try:
        record = json.loads(path.read_text())
        version, values = record["format"], dict(record["model"].items())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"model {folder} has no {CONFIG_FILE}") from None
    except OSError as error:
        raise InputError(f"model file {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"model file {path} is not a model's {CONFIG_FILE}: {error!r}") from error
    if version != FORMAT:
        raise InputError(f"model file {path} has format {version}; this version of rlv2v_fast reads format {FORMAT}")
    unknown = set(values) - {field.name for field in fields(ModelConfig)}
    if unknown:
        raise InputError(f"model file {path} has unknown fields: {', '.join(sorted(unknown))}")
    try:
        return ModelConfig(**values)
    except (InputError, TypeError) as error:  # the latter where a name is a list
        raise InputError(f"model file {path} cannot be used: {error}") from error


def pad_to_stride(video: Tensor) -> Tensor:
    """video (B, T, C, H, W) with its last row and column repeated until H and W are multiples of 8."""
    height, width = video.shape[-2:]
    down, right = -height % STRIDE, -width % STRIDE
    if not down and not right:
        return video
    frames = F.pad(video.flatten(0, 1), (0, right, 0, down), mode="replicate")
    return frames.unflatten(0, video.shape[:2])
