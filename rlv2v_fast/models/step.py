"""One step of a stream as a module of tensors alone, and its export to torch.export and ONNX."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from rlv2v_fast.domains import DIRECTIONS
from rlv2v_fast.errors import InputError
from rlv2v_fast.models.generator import START, STRIDE, GeneratorState
from rlv2v_fast.models.rlv2vgan import RLV2VGAN

PROGRAM, ONNX, STATE = "step.pt2", "step.onnx", "step.json"
# Side of the frame that shows the shapes of the state.
STATE_SIDE = 64


class StreamingStep(nn.Module):
    """The translation of a stream's next frame: (frame, *state) to (translated, *state).

    Args:
        generator: in eval mode.

    Attributes:
        shapes: of the state's tensors for frames of STATE_SIDE x STATE_SIDE. A stream begins with zeros.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        with torch.no_grad():
            _, state = generator.stream(torch.zeros(1, 1, 3, STATE_SIDE, STATE_SIDE), START)  # type: ignore[operator]
        leaves, self._form = _taken_apart(state)
        self.shapes = [tuple(leaf.shape) for leaf in leaves]

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The translation of frame (1, 1, 3, H, W) in [-1, 1], and the state for the next one."""
        translated, after = self.generator.stream(frame, _put_together(self._form, state))  # type: ignore[operator]
        return (translated, *_taken_apart(after)[0])


def export_step(
    model: RLV2VGAN, folder: Path, direction: str = "x2y", size: tuple[int, int] | None = None
) -> list[Path]:
    """Write the streaming step of a model's generator into folder, for programs without this package; gives the files.

    step.pt2 is a torch.export program in plain PyTorch. step.onnx is for ONNX runtimes. step.json says what they take:
    a frame, float32 (1, 1, 3, H, W) in [-1, 1], and the state, zeros at first, whose shapes depend on H and W.

    Args:
        size: H and W for which alone the files are; any multiples of 8 by default. A look that blurs needs one.

    Raises:
        InputError: direction is unknown, size is not one that the generator takes, the generator needs a size, or a
            package for ONNX is missing.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r}")
    if size is not None and (min(size) < STRIDE or size[0] % STRIDE or size[1] % STRIDE):
        raise InputError(f"size must be multiples of {STRIDE}, at least {STRIDE}; got {size[0]}x{size[1]}")
    generator = copy.deepcopy(model.generators_ema[DIRECTIONS[direction]]).cpu().eval()
    for module in generator.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"  # type: ignore[assignment]
    step = StreamingStep(generator.fuse())  # type: ignore[operator]
    folder.mkdir(parents=True, exist_ok=True)
    example = _example(step, size or (6 * STRIDE, 8 * STRIDE))
    shapes = None if size else _dynamic_shapes(step)
    names = [f"state_{index}" for index in range(len(step.shapes))]
    with torch.no_grad(), _quiet():
        try:
            program = torch.export.export(step, example, dynamic_shapes=shapes)
        except Exception as error:
            if size is not None:
                raise
            raise InputError("size must be given: this generator can be exported for one size only") from error
        torch.export.save(program, folder / PROGRAM)
        try:
            torch.onnx.export(
                program,
                f=folder / ONNX,
                input_names=["frame", *names],
                output_names=["translated", *(f"next_{name}" for name in names)],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except ImportError as error:
            raise InputError(f"an export to ONNX needs a package: pip install 'rlv2v_fast[onnx]' ({error})") from error
    record = {
        "frame": {"shape": [1, 1, 3, *(size or ("H", "W"))], "range": [-1, 1], "multiple": STRIDE},
        "state": [
            {"name": name, "lead": list(shape[:-2]), "divide": STATE_SIDE // shape[-1]}
            for name, shape in zip(names, step.shapes, strict=True)
        ],
    }
    (folder / STATE).write_text(json.dumps(record, indent=1) + "\n")
    return [folder / PROGRAM, folder / ONNX, folder / STATE]


def _example(step: StreamingStep, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """A frame of a size and the state before it."""
    state = [
        torch.zeros(*shape[:-2], *(side * part // STATE_SIDE for side, part in zip(size, shape[-2:], strict=True)))
        for shape in step.shapes
    ]
    return (torch.rand(1, 1, 3, *size) * 2 - 1, *state)


def _dynamic_shapes(step: StreamingStep) -> tuple[Any, ...]:
    """Height and width of each input, as multiples of two unknown numbers."""
    rows, columns = Dim("h", min=1), Dim("w", min=1)

    def sides(shape: tuple[int, ...]) -> dict[int, Any]:
        times = [side * STRIDE // STATE_SIDE for side in shape[-2:]]
        whole = [unit if each == 1 else each * unit for each, unit in zip(times, (rows, columns), strict=True)]
        return {len(shape) - 2: whole[0], len(shape) - 1: whole[1]}

    frame = sides((1, 1, 3, STATE_SIDE, STATE_SIDE))
    # forward's *state is one argument.
    return (frame, tuple(sides(shape) for shape in step.shapes)) if step.shapes else (frame,)


def _taken_apart(state: GeneratorState) -> tuple[list[Tensor], Any]:
    """The tensors of a state, and its form: the same with the tensors' numbers in their places."""
    leaves: list[Tensor] = []

    def taken(value: Any) -> Any:
        if isinstance(value, Tensor):
            leaves.append(value)
            return len(leaves) - 1
        if isinstance(value, (tuple, list)):
            return type(value)(taken(each) for each in value)
        return value

    form = [taken(getattr(state, field.name)) for field in dataclasses.fields(state)]
    return leaves, form


def _put_together(form: Any, leaves: tuple[Tensor, ...]) -> GeneratorState:
    def put(value: Any) -> Any:
        if isinstance(value, int):
            return leaves[value]
        if isinstance(value, (tuple, list)):
            return type(value)(put(each) for each in value)
        return value

    return GeneratorState(*put(form))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that an export does not need."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
