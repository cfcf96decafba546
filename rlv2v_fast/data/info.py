"""What a video says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

DEFAULT_FPS = Fraction(25)
"""Frame rate of a folder of frames, which records none."""


@dataclass(frozen=True)
class VideoInfo:
    """The properties that a video declares.

    ``width`` and ``height`` are in pixels as shown (rotation applied), ``fps`` in frames per second (the mean where
    the rate varies), ``frames`` is None where the container does not say (WebM, MKV).

    Attributes:
        finest: the rate of which the times of all frames seem to be multiples; None where unknown.
        tick: the unit of the container's times, in seconds; None where there are no times (a folder).
        start: the time of the first frame on the container's clock, in seconds.
        aspect: width of a pixel as shown over its height.
        primaries, transfer: of the frames as :func:`read_frames` gives them, as numbers of ITU-T H.273.
        plays: how often an animation is shown; 0 for without end.
        notes: what reading changes or leaves out, each as the second half of a sentence about the video.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    has_audio: bool
    finest: Fraction | None = None
    tick: Fraction | None = None
    start: Fraction = Fraction(0)
    aspect: Fraction = Fraction(1)
    primaries: int = 1
    transfer: int = 1
    plays: int = 0
    notes: tuple[str, ...] = ()
