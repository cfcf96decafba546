"""Which flags a command has, so that one that it lacks is named before anything else is complained about."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing

import tyro

from rlv2v_fast.errors import InputError

# What looks like a flag and is no negative number, nor the - that stands for a pipe.
_FLAG = re.compile(r"--?[A-Za-z][^=]*")
_ALWAYS = frozenset({"-h", "--help", "--help-all"})


def check_flags(name: str, command: type, arguments: list[str]) -> None:
    """Raise InputError for the first of the arguments that is a flag which the command does not have.

    Args:
        name: the command's, for the message.
        command: its dataclass, as tyro takes it.
        arguments: those after the command's name.
    """
    known = flags_of(command) | _ALWAYS
    for argument in arguments:
        if argument == "--":
            return
        match = _FLAG.match(argument)
        if match is None or match.group().replace("_", "-") in known:
            continue
        near = difflib.get_close_matches(match.group(), sorted(known), n=1)
        hint = f"did you mean {near[0]}?" if near else f"rlv2v {name} --help lists them"
        raise InputError(f"{name} has no flag {match.group()}; {hint}")


def flags_of(command: type, prefix: str = "") -> frozenset[str]:
    """The flags that tyro makes of a dataclass, with dashes for underscores."""
    flags: set[str] = set()
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        kind = hint.__origin__ if marks else hint
        if any(mark is tyro.conf.Positional for mark in marks):
            continue
        flag = f"{prefix}{name}".replace("_", "-")
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            unnamed = any(getattr(mark, "name", None) == "" for mark in marks)
            flags |= flags_of(kind, "" if unnamed else f"{flag}.")
            continue
        flags.add(f"--{flag}")
        if kind is bool:
            group, _, last = flag.rpartition(".")
            flags.add(f"--{group}.no-{last}" if group else f"--no-{last}")
    return frozenset(flags)
