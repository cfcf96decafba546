"""Doing something once a module that may never be imported has been imported, without importing it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# What to do after the import of each module that has not happened yet.
_waiting: dict[str, Callable[[], None]] = {}


def after_import(name: str, then: Callable[[], None]) -> None:
    """Call then() once the module `name` has been imported: now, where it has been.

    It runs in the thread that imports, before that import returns. An import that fails calls nothing, and the next
    one is waited for. A second call for the same name takes the place of the first.

    Args:
        name: the module's full name.
        then: it must not raise, or the import fails.
    """
    _waiting[name] = then
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if name in sys.modules:
        importlib.import_module(name)  # waits for another thread that is still importing it
        _call(name)


def _call(name: str) -> None:
    then = _waiting.pop(name, None)
    if then is not None:
        then()


class _Finder:
    """Finds what the other finders find, and has modules that somebody waits for loaded by _Loader.

    It stays in sys.meta_path: taking it out would have an import in another thread skip the finder that follows.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in list(sys.meta_path):
            # Finders of the oldest kind have no find_spec; Python itself leaves them out, too.
            find = getattr(finder, "find_spec", None)
            spec = None if find is None or isinstance(finder, _Finder) else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(name, spec.loader)
                return spec
        return None


class _Loader:
    """A module's own loader, in every respect but that the call awaited follows the import."""

    _own: Any = None  # for a copy, which asks before it has any attribute

    def __init__(self, name: str, own: Any) -> None:
        self._name, self._own = name, own

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._own, attribute)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module looks like any other to whoever asks for its source or its files.
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        _call(self._name)
