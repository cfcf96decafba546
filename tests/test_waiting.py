"""Waiting for the import of a module, on modules made for it, and for that of torch, in processes of their own."""

import importlib
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlv2v_fast import waiting
from rlv2v_fast.waiting import after_import

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def awaited(tmp_path, monkeypatch):
    """Makes a module of some source, and gives its name and the list that the awaited call appends to."""
    monkeypatch.setattr(waiting, "_waiting", {})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "a_module_that_somebody_awaits"
    calls = []

    def make(source):
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        after_import(name, lambda: calls.append(sys.modules[name].value))
        return name, calls

    yield make
    sys.modules.pop(name, None)


def test_the_call_follows_the_import_once(awaited):
    name, calls = awaited("value = 1")
    assert calls == []
    imported = importlib.import_module(name)
    importlib.import_module(name)
    importlib.reload(imported)
    assert calls == [1]


def test_a_module_imported_before_is_not_waited_for(awaited):
    name, calls = awaited("value = 1")
    importlib.import_module(name)
    after_import(name, lambda: calls.append("now"))
    assert calls == [1, "now"]


def test_the_module_keeps_its_own_loader(awaited):
    name, _ = awaited("value = 1\nloader = __loader__, __spec__.loader")
    found = importlib.util.find_spec(name)
    assert found.loader.get_source(name).startswith("value = 1")
    imported = importlib.import_module(name)
    for loader in (*imported.loader, imported.__loader__, imported.__spec__.loader):
        assert type(loader) is importlib.machinery.SourceFileLoader


def test_finding_a_module_calls_nothing(awaited):
    name, calls = awaited("value = 1")
    assert importlib.util.find_spec(name) is not None
    assert calls == []
    importlib.import_module(name)
    assert calls == [1]


def test_a_module_that_does_not_exist_stays_missing(awaited):
    after_import("no_such_module_anywhere", lambda: pytest.fail("called"))
    assert importlib.util.find_spec("no_such_module_anywhere") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")


def test_a_failed_import_is_waited_for_again(awaited):
    name, calls = awaited("raise RuntimeError('not yet')")
    with pytest.raises(RuntimeError, match="not yet"):
        importlib.import_module(name)
    assert calls == []
    awaited("value = 'a value of another length'")
    importlib.import_module(name)
    assert calls == ["a value of another length"]


def test_every_thread_finds_the_call_made(awaited):
    name, calls = awaited("import time\ntime.sleep(0.05)\nvalue = 1")
    seen = []

    def run():
        importlib.import_module(name)
        seen.append(list(calls))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[1]] * 4


def run(code):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_operators_are_there_where_torch_comes_second():
    code = (
        "import rlv2v_fast, sys\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert 'triton' not in sys.modules\n"
        "print(torch.ops.rlv2v_fast.convlstm_fwd, type(torch.__loader__).__name__)"
    )
    assert run(code) == ("rlv2v_fast.convlstm_fwd SourceFileLoader", "")


def test_threads_may_import_torch_and_the_package_at_once():
    code = (
        "import importlib, threading, rlv2v_fast\n"
        "names = ['torch', 'rlv2v_fast.ops.bn', 'rlv2v_fast.reference.bn', 'rlv2v_fast.extension', 'torch']\n"
        "for name in names:\n"
        "    threading.Thread(target=importlib.import_module, args=(name,)).start()\n"
        "while threading.active_count() > 1:\n"
        "    threading.enumerate()[-1].join()\n"
        "import torch\n"
        "print(torch.ops.rlv2v_fast.convlstm_fwd)"
    )
    assert run(code) == ("rlv2v_fast.convlstm_fwd", "")


def test_torch_imports_where_the_operators_do_not():
    code = "import sys; sys.modules['rlv2v_fast.ops.bn'] = None; import rlv2v_fast, torch; print(torch.ones(1).item())"
    output, errors = run(code)
    assert output == "1.0"
    assert errors.startswith("no operator could be registered with torch: import of rlv2v_fast.ops.bn halted")
