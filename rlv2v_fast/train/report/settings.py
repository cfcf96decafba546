"""The settings of a run in words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Any

from rlv2v_fast.train import config as config_module
from rlv2v_fast.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting's dotted name, its value and its default in words, and what it means."""

    name: str
    value: str
    default: str
    meaning: str

    @property
    def is_changed(self) -> bool:
        return self.value != self.default


def settings(config: TrainConfig) -> list[Setting]:
    """Every setting of a run, those that differ from their defaults first."""
    meanings = _meanings()
    plain = _flat(TrainConfig())
    found = [
        Setting(name, _words(value), _words(plain[name]), meanings.get(name, ""))
        for name, value in _flat(config).items()
    ]
    return sorted(found, key=lambda setting: not setting.is_changed)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        inside = dataclasses.is_dataclass(value)
        flat |= _flat(value, f"{prefix}{field.name}.") if inside else {prefix + field.name: value}
    return flat


def _words(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Path):
        return value.name  # whole paths may be private, and reports are passed on
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meanings() -> dict[str, str]:
    """The text below each field of the dataclasses, by dotted name; {} where their source is not installed."""
    try:
        tree = ast.parse(inspect.getsource(config_module))
    except OSError:
        return {}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    prefixes = {TrainConfig.__name__: ""}
    default = TrainConfig()
    for field in dataclasses.fields(TrainConfig):
        if dataclasses.is_dataclass(value := getattr(default, field.name)):
            prefixes[type(value).__name__] = f"{field.name}."
    found = {}
    for name, prefix in prefixes.items():
        body = classes[name].body
        for each, text in itertools.pairwise(body):
            if (
                isinstance(each, ast.AnnAssign)
                and isinstance(each.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[prefix + each.target.id] = " ".join(str(text.value.value).split())
    return found
