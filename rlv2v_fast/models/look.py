"""A generator that is an estimated look, and nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from rlv2v_fast.looks.look import Look
from rlv2v_fast.models.budget import Cost
from rlv2v_fast.models.generator import START, GeneratorState


class LookGenerator(nn.Module):
    """Translates each frame by a look (rlv2v_fast.looks), which is estimated and not trained. It has no parameter.

    Args:
        width, norm, backend, output: accepted as by Generator, and not used.
        channels: channels of a frame, 3.

    Raises:
        ValueError: channels is not 3.
    """

    table: Tensor
    place: Tensor
    neighbourhood: Tensor

    def __init__(
        self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto", output: str = "gain"
    ) -> None:
        super().__init__()
        if channels != 3:
            raise ValueError(f"channels must be 3 for a look; got {channels}")
        self.set(Look.identity())

    @property
    def look(self) -> Look:
        return Look(self.table, self.place, self.neighbourhood)

    def set(self, look: Look) -> None:
        """Translate by this look from now on."""
        for name in ("table", "place", "neighbourhood"):
            self.register_buffer(name, getattr(look, name).detach().clone())

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) in [-1, 1] to the same shape and range."""
        return self.stream(video, START)[0]

    def stream(self, video: Tensor, state: GeneratorState = START) -> tuple[Tensor, GeneratorState]:
        """The translation of a stream's next frames, and `state` as it came: frames are translated one by one."""
        if video.dim() != 5 or video.shape[2] != 3 or video.shape[1] < 1:
            raise ValueError(f"video must have shape (B, T >= 1, 3, H, W); got {tuple(video.shape)}")
        return self.look.apply(video.float()), state

    def fuse(self) -> LookGenerator:
        """self, unchanged: there is no normalization to fold."""
        return self

    def cost(self) -> Cost:
        """Its working memory, for budgets: frames as floats, in and out. Look computes them in bands."""
        return Cost(0, 4 * 3 * 4, alone=True)
