"""The card of a saved model: README.md in its folder, as model hubs show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

CARD_FILE = "README.md"
_FRONT = """---
library_name: rlv2v_fast
pipeline_tag: video-to-video
tags: [video-to-video, unpaired, few-shot, gan]
---
"""
_USE = """## Use

```python
from rlv2v_fast import RLV2VGAN

model = RLV2VGAN.from_pretrained("this/folder")
translated = model.translate(video)  # (T, C, H, W) floats in [-1, 1], or uint8
```

`rlv2v translate --model this/folder in.mp4 out.mp4` does the same for a file.
"""


def model_card(config: Any, facts: Mapping[str, object], settings: str = "") -> str:
    """The text of a card, in Markdown.

    Args:
        config: the model's ModelConfig.
        facts: of its training, by name.
        settings: of its run, as YAML.
    """
    told = [f"- {name}: {value}" for name, value in facts.items()]
    own = {field.name: field.default for field in fields(config)}
    kind = [f"- {name}: {value}" for name, value in asdict(config).items() if value != own[name]]
    parts = [
        _FRONT,
        "# A video-to-video model of rlv2v_fast\n",
        "It translates videos of one domain into another, and back. It was trained without pairs.\n",
        _USE,
    ]
    if told:
        parts += ["## Training\n", *told, ""]
    parts += ["## Architecture\n", *(kind or ["- the default one"]), ""]
    if settings:
        parts += ["## Settings of the run\n", "```yaml", settings.strip(), "```", ""]
    return "\n".join(parts)
