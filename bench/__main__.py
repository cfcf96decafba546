"""python -m bench run | scaling | compare | report | regression"""

from __future__ import annotations

import os

# Before torch is imported: a compile time is that of a first compilation.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

from bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
