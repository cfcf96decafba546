"""The settings of a training run, as frozen dataclasses; the command line is generated from them."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.files import write_text

PRESETS = Path(__file__).parent / "presets"
# What a resumed run may change: nothing here alters a tensor or the data it sees.
RESUMABLE = frozenset(
    {
        "out",
        "steps",
        "max_minutes",
        "checkpoint_every",
        "keep",
        "preview_every",
        "select_every",
        "device",
        "compile",
        "tensorboard",
        "quiet",
        "cache",
        "cache_gib",
    }
)
# What `rlv2v train --help` lists: the settings of everyday use. `--help-all` lists every one.
COMMON = frozenset(
    {
        *("source", "target", "out", "few_shot", "size", "frames", "flip", "look", "pairs", "cache"),
        *("steps", "max_minutes", "starts", "select_every", "checkpoint_every", "preview_every"),
        *("seed", "device", "precision", "compile", "tensorboard", "quiet"),
        *("network.width", "network.generator", "network.discriminator"),
        *("loss.recurrent", "loss.recycle", "loss.video", "loss.cycle", "loss.contrast", "loss.augment"),
        *("rl.weight", "optim.lr", "optim.batch_size"),
    }
)
# Settings that are constants now. A file that still holds one, as saved runs do, is read if it holds this value.
RETIRED = {"optim.beta1": 0.5, "optim.clip_norm": 10.0}


def _require(name: str, value: Any, rule: str, holds: bool) -> None:
    if not holds:
        raise InputError(f"{name} must be {rule}; got {value!r}")


@dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the losses."""

    adversarial: Literal["bce", "hinge", "least_squares"] = "bce"
    """Form of the adversarial losses."""
    distance: Literal["l1", "l2"] = "l1"
    """Form of the recurrent, ReCycle and cycle losses."""
    style: float = 1.0
    """Weight of the style term: discriminators tell real clips of their domain from real clips of the other."""
    recurrent: float = 0.1
    """Weight of the recurrent loss, lambda_rr."""
    recycle: float = 0.1
    """Weight of the ReCycle loss, lambda_rc."""
    video: float = 1.0
    """Weight of the adversarial loss on whole clips, lambda_v."""
    cycle: float = 0.0
    """Weight of the cycle loss |x - G_x(G_y(x))|, which the paper does not have."""
    cycle_from: float = 0.0
    """Share of the run's steps before the cycle loss starts. Started at once, it keeps wrong pairs of colours."""
    contrast: float = 0.0
    """Weight of a loss against translations that swap light and dark, which the paper does not have."""
    pairs: float = 10.0
    """Weight of the distance to the truth on true pairs, where a run has them (pairs)."""
    r1: float = 0.0
    """Weight of the R1 gradient penalty on real clips; 0 leaves it out."""
    augment: tuple[Literal["translation", "cutout", "brightness"], ...] = ()
    """Random changes (DiffAugment) to everything that a discriminator sees in training."""

    def __post_init__(self) -> None:
        for name in ("style", "recurrent", "recycle", "video", "cycle", "contrast", "pairs", "r1"):
            _require(f"loss.{name}", getattr(self, name), "at least 0", getattr(self, name) >= 0)
        _require("loss.cycle_from", self.cycle_from, "in [0, 1]", 0 <= self.cycle_from <= 1)


@dataclass(frozen=True)
class RLConfig:
    """Reinforcement learning (Figure 3), off by default: see docs/results.md."""

    # It was measured to cost steps and to bring nothing back. The preset "paper" has it on. The fields from target to
    # first_step are known remedies, off in the paper's algorithm; docs/results.md says what each does here.
    weight: float = 0.0
    """Weight of the policy gradient: 0.1 in the paper's system; 0 builds no critic, target network or buffer."""
    state_frames: int = 3
    """Frames in a state, p."""
    sigma1: float = 0.5
    """Probability that a minibatch comes from the replay buffer; otherwise it comes from the newest rollout."""
    sigma2: float = 0.5
    """Probability that a rollout takes the translated candidate G(P(G(s))); otherwise it takes P(s)."""
    epsilon: float = 1.0
    """Probability that a rollout draws its candidate by sigma2; otherwise it takes the one the critic prefers."""
    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.001
    """Share of the way that target networks move towards the trained ones in an iteration."""
    target: Literal["td", "monte_carlo"] = "td"
    """What critics are fitted to: td is reward plus the target networks' next value; monte_carlo is the return."""
    normalize: bool = False
    """Divide all rewards by a running standard deviation of the clips' returns."""
    baseline: bool = False
    """Subtract from returns their running mean at each position of a clip, so that critics need not learn the time."""
    critics: int = 1
    """Q-networks of each domain; of several, the lowest value counts (TD3)."""
    smoothing: float = 0.0
    """Standard deviation of the noise on frames that targets value (TD3), in units of [-1, 1]; cut off at twice it."""
    critic_steps: int = 1
    """Critic updates after each rollout, each on a minibatch of its own."""
    first_step: int = 0
    """Iterations before the first rollout, which have no reinforcement learning and none of its cost."""
    rollout_every: int = 4
    """Iterations from one rollout, critic step and policy-gradient step to the next."""
    critic_warmup: int = 50
    """Iterations from the first rollout to the first policy-gradient step."""
    batch_size: int = 8
    """Transitions in a minibatch."""
    capacity: int = 10_000
    """Most transitions in the replay buffer."""
    buffer_gib: float = 1.0
    """Most memory of the replay buffer, in GiB."""

    def __post_init__(self) -> None:
        _require("rl.weight", self.weight, "at least 0", self.weight >= 0)
        for name in ("sigma1", "sigma2", "epsilon", "gamma", "tau"):
            _require(f"rl.{name}", getattr(self, name), "in [0, 1]", 0 <= getattr(self, name) <= 1)
        for name in ("state_frames", "rollout_every", "batch_size", "capacity", "critics", "critic_steps"):
            _require(f"rl.{name}", getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("critic_warmup", "first_step", "smoothing"):
            _require(f"rl.{name}", getattr(self, name), "at least 0", getattr(self, name) >= 0)
        _require("rl.buffer_gib", self.buffer_gib, "above 0", self.buffer_gib > 0)


@dataclass(frozen=True)
class OptimConfig:
    """Optimization."""

    lr: float = 2e-4
    """Adam's step for generators, predictors and discriminators."""
    lr_critic: float = 1e-4
    """Adam's step for the critics."""
    lr_discriminator: float | None = None
    """Adam's step for the discriminators, if not lr."""
    decay: bool = False
    """Lower every Adam step evenly to zero over the second half of the run's steps."""
    beta2: float = 0.999
    """Decay of Adam's second moment."""
    batch_size: int = 1
    """Clips of each domain in an iteration, in each process."""
    accumulate: int = 1
    """Batches of an iteration, whose gradients are averaged: as if batch_size were that many times as large, with the
    memory of one. Only batch normalization and the random changes of loss.augment see each batch alone."""
    ema: float = 0.999
    """Decay of the averaged generators, which inference uses; it is shorter at the start of a run."""

    def __post_init__(self) -> None:
        slower = self.lr_discriminator
        _require("optim.lr_discriminator", slower, "above 0", slower is None or slower > 0)
        for name in ("lr", "lr_critic"):
            _require(f"optim.{name}", getattr(self, name), "above 0", getattr(self, name) > 0)
        for name in ("beta2", "ema"):
            _require(f"optim.{name}", getattr(self, name), "in [0, 1)", 0 <= getattr(self, name) < 1)
        for name in ("batch_size", "accumulate"):
            _require(f"optim.{name}", getattr(self, name), "at least 1", getattr(self, name) >= 1)


@dataclass(frozen=True)
class NetworkConfig:
    """Networks."""

    width: int | None = None
    """Channels of the first level; by default 64 on a GPU and 16 on a CPU."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalization: the paper's BatchNorm, or instance normalization of each frame."""
    sync_norm: bool = True
    """In a run of several processes, take batch statistics of G, P and D over the batches of all of them."""
    generator: Literal["unet", "local"] = "unet"
    """Generators: the paper's encoder-decoder, or, for few videos, a map from each pixel's colour and place."""
    discriminator: Literal["pooling", "patch"] = "pooling"
    """Discriminators: the paper's three pooled blocks, or, for few videos, one that sees patches of 26 pixels."""
    output: Literal["tanh", "gain"] = "tanh"
    """Last step of generators and predictors: the paper's tanh, or the input times a gain plus an emission, clamped."""

    def __post_init__(self) -> None:
        _require("network.width", self.width, "at least 1", self.width is None or self.width >= 1)


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    source: Path | None = None
    """Folder of source videos, searched recursively, or one video."""
    target: Path | None = None
    """Folder of target videos, or one video. They need not be paired with the source."""
    out: Path | None = None
    """Folder of the run: checkpoints, previews, metrics.jsonl, config.yaml."""
    pairs: Path | None = None
    """Folder of true pairs, source/ and target/: videos or pictures of the same names. The look is fitted to them, and
    a game learns from them too (loss.pairs)."""
    few_shot: int | None = None
    """Use only the first K target videos by name."""
    size: int = 64
    """Side of the training frames in pixels, a multiple of 8."""
    frames: int = 16
    """Frames in a training clip, T."""
    look: Literal["auto", "never"] = "never"
    """auto: estimate the target's look first. Where it explains the target, the run is over, with nothing trained."""
    window: int | None = None
    """Consecutive frames of a clip that an iteration sees, from a random place in it; by default all T."""
    flip: bool = False
    """Mirror clips at random."""
    cache: Path | None = None
    """Folder of decoded videos, for all runs; by default rlv2v_fast in the user's cache folder."""
    cache_gib: float = 20.0
    """Decoded videos that the cache keeps, in GiB, those used last; 0 keeps none, and every start decodes all."""
    steps: int = 20_000
    """Iterations of the whole run."""
    starts: int = 1
    """Short runs from different seeds before the first step. The run goes on from the best of them."""
    start_steps: int = 400
    """Iterations of each start, if there are several; steps does not count them."""
    start_failed: float | None = None
    """Unpaired distance of x2y above which the best start has failed: starts go on, up to twice as many, until one has
    not. None takes the best of `starts`."""
    start_window: int | None = None
    """Consecutive frames of a clip that an iteration of a start sees; by default as window."""
    select_every: int | None = None
    """From 60 % of steps on, iterations between comparisons of models; best/ keeps the best, which translation uses."""
    max_minutes: float | None = None
    """Minutes of training after which the run saves and stops, even if steps remain."""
    checkpoint_every: int = 500
    """Iterations between checkpoints."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""
    preview_every: int = 250
    """Iterations between preview sheets."""
    seed: int = 0
    """Seed of initialization, data, augmentation and reinforcement learning, each with a stream of its own."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast type: auto is bf16 on a GPU that has it, else fp32. A CPU that is slow in bf16 takes fp32 instead."""
    compile: bool = False
    """Use torch.compile, except in reinforcement learning. The first iterations then take minutes."""
    backend: Literal["auto", "cpp", "reference"] = "auto"
    """Backend of the fused operators."""
    tensorboard: bool = False
    """Also write TensorBoard events; needs the extra [tb]."""
    quiet: bool = False
    """No progress bar."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        _require("size", self.size, "a positive multiple of 8", self.size >= 8 and self.size % 8 == 0)
        _require("frames", self.frames, "at least 2", self.frames >= 2)
        for name in ("window", "start_window"):
            in_clip = getattr(self, name) is None or 1 <= getattr(self, name) <= self.frames
            _require(name, getattr(self, name), f"from 1 to frames={self.frames}", in_clip)
        forecasts = self.loss.recurrent or self.loss.recycle or self.rl.weight
        _require("window", self.window, "at least 2 where frames are forecast", self.window != 1 or not forecasts)
        for name in ("steps", "starts", "start_steps", "checkpoint_every", "keep", "preview_every"):
            _require(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        every = self.select_every
        _require("select_every", every, "at least 1", every is None or every >= 1)
        fits = self.size > 8 or (self.starts == 1 and every is None)
        _require("size", self.size, "at least 16 where starts or select_every compare patches", fits)
        each = 3 * (self.rl.state_frames + 2) * self.size**2 / 2**30
        holds_one = self.rl.weight == 0 or self.rl.buffer_gib >= each
        _require("rl.buffer_gib", self.rl.buffer_gib, f"at least {each:.2g}, the size of one transition", holds_one)
        _require("start_failed", self.start_failed, "above 0", self.start_failed is None or self.start_failed > 0)
        _require("max_minutes", self.max_minutes, "above 0", self.max_minutes is None or self.max_minutes > 0)
        _require("cache_gib", self.cache_gib, "at least 0", self.cache_gib >= 0)
        _require("few_shot", self.few_shot, "at least 1", self.few_shot is None or self.few_shot >= 1)


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with every "auto" replaced by what it means on this machine.

    Warns where it replaces bf16 by fp32, because this CPU would be many times slower in bf16.

    Raises:
        InputError: the device does not exist.
    """
    device = resolve_device(config.device)
    width = config.network.width or (64 if device.type == "cuda" else 16)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "bf16" and device.type == "cpu" and not _has_fast_bf16():
        warnings.warn("precision: this CPU would run bf16 many times slower than fp32; training in fp32", stacklevel=2)
        precision = "fp32"
    network = dataclasses.replace(config.network, width=width)
    return dataclasses.replace(config, device=str(device), precision=precision, network=network)


def _has_fast_bf16() -> bool:
    """Whether PyTorch's convolutions have bfloat16 kernels here. With AVX2 alone they took 8 times as long as fp32."""
    return torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "SVE"))


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one. InputError where it does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be cpu, cuda, cuda:N or auto; got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu, cuda, cuda:N or auto; got {name!r}")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r} does not exist here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def presets() -> dict[str, str]:
    """What each built-in preset is for, by name: the first line of its file, a comment."""
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in sorted(PRESETS.glob("*.yaml"))}


def load_config(name: str | Path) -> TrainConfig:
    """TrainConfig from a YAML file or a built-in preset; InputError names the field that does not fit."""
    path = Path(name)
    if not path.is_file():
        path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"config must be a YAML file or one of the presets {', '.join(presets())}; got {str(name)!r}")
    import yaml  # only files need it: a run configured in Python trains without

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"config {path} cannot be read: {error.strerror}") from error
    # Of a date that does not exist, YAML raises ValueError, and of a deep nest RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    return from_dict(values if values is not None else {}, str(path))


def from_dict(values: Any, where: str) -> TrainConfig:
    """TrainConfig from nested mappings. InputError names `where` and the field for an unknown name or a wrong type."""
    return _build(TrainConfig, values, where, "")


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Nested mappings of plain YAML values; from_dict inverts it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def save_config(config: TrainConfig, path: Path) -> None:
    """Write config as YAML that load_config reads back."""
    import yaml

    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False), f"configuration {str(path)!r}")


def changed_fields(old: TrainConfig, new: TrainConfig) -> list[tuple[str, Any, Any]]:
    """(field, old, new) for each field that differs and that a resumed run may not change."""
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    # A schedule counts in shares of all steps: with one, a change of steps changes every iteration.
    scheduled = new.optim.decay or (new.loss.cycle > 0 and new.loss.cycle_from > 0)
    free = RESUMABLE - {"steps"} if scheduled else RESUMABLE
    return [(name, before[name], after[name]) for name in before if before[name] != after[name] and name not in free]


def check_unchanged(old: TrainConfig, new: TrainConfig) -> None:
    """Raise InputError, which names the field, where a resumed run may not change as from old to new."""
    for name, before, after in changed_fields(old, new):
        raise InputError(f"{name} cannot change when resuming: the run has {before!r}; got {after!r}")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _build(cls: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"config {where}: {prefix.rstrip('.') or 'the file'} must be a mapping; got {values!r}")
    for name, constant in ((name, RETIRED[prefix + name]) for name in values if f"{prefix}{name}" in RETIRED):
        if values[name] != constant:
            raise InputError(f"config {where}: {prefix}{name} is always {constant} now; got {values[name]!r}")
    values = {name: value for name, value in values.items() if f"{prefix}{name}" not in RETIRED}
    hints = typing.get_type_hints(cls)
    unknown = [str(name) for name in values if name not in hints]
    if unknown:
        raise InputError(f"config {where}: unknown field {prefix}{unknown[0]}; known are {', '.join(hints)}")
    return cls(**{name: _convert(hints[name], value, where, prefix + name) for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    """value converted to the type hint, for the kinds of field that the dataclasses above have."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where, f"{name}.")
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(args[0], value, where, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], item, where, name) for item in value)
    if origin is Literal:
        if value in args:
            return value
        raise InputError(f"config {where}: {name} must be one of {', '.join(args)}; got {value!r}")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 takes 2e-4 for text: it wants 2.0e-4.
        with contextlib.suppress(ValueError):
            return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise InputError(f"config {where}: {name} must be {getattr(hint, '__name__', hint)}; got {value!r}")
