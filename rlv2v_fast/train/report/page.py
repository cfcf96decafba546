"""The report's page from the facts of a run. Every text of a user passes through escape()."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from rlv2v_fast.train.report.curves import Series, bucket, chart, legend, number
from rlv2v_fast.train.report.facts import Facts
from rlv2v_fast.train.report.samples import FPS, KINDS, Scene
from rlv2v_fast.train.report.settings import settings

_TEMPLATE = Path(__file__).with_name("page.html")
_DIRECTIONS = {"x2y": ("source", "target"), "y2x": ("target", "source")}


@dataclass(frozen=True)
class _Kind:
    """Numbers of metrics.jsonl that share a chart: the name of each without its domain, in words."""

    title: str
    axis: str
    names: Mapping[str, str]
    meaning: str
    dots: bool = False


_KINDS = (
    _Kind(
        "Unpaired distance",
        "distance",
        {"distance": "distance"},
        "How far small patches of the translations are from those of real target clips; 0 would be no difference. "
        "Lower is better. It needs no pairs, so it cannot tell whether the right thing changed. The model with the "
        "lowest value is kept.",
        dots=True,
    ),
    _Kind(
        "Discriminators",
        "loss",
        {"discriminator": "frames", "video_discriminator": "whole clips", "r1": "R1 penalty"},
        "How badly the discriminators tell real clips from translations. Near 0 they always can, and the generators "
        "have little to learn from; a level that neither falls to 0 nor grows is good.",
    ),
    _Kind(
        "Translations against discriminators",
        "loss",
        {"adversarial": "frames", "video": "whole clips"},
        "How badly the translations pass for real clips. It does not fall steadily in a good run, because the "
        "discriminators improve too.",
    ),
    _Kind(
        "Keeping the scene",
        "weighted loss",
        {
            "recurrent": "next frame",
            "recycle": "next frame, there and back",
            "cycle": "there and back",
            "contrast": "light and dark",
            "pairs": "true pairs",
        },
        "How far a clip is from itself after it was translated there and back, how far forecasts of the next frame "
        "are from it, and how far translations are from true pairs. Each is multiplied by its weight. Lower is better.",
    ),
    _Kind(
        "Reinforcement learning",
        "loss",
        {"critic": "critic", "actor": "policy gradient"},
        "How far the critics' forecasts of rewards are off, and the loss through which they teach the generators.",
    ),
    _Kind(
        "Gradients",
        "norm",
        {"gradient_policy": "losses", "gradient_actor": "policy gradient"},
        "The size of the gradients of generators and predictors. Sudden jumps are a sign of instability.",
    ),
    _Kind(
        "Time of an iteration", "seconds", {"seconds": "seconds"}, "How long each iteration took, without the judging."
    ),
)
_DOMAINS = {"x": "source", "y": "target"}


def page(facts: Facts, scenes: Mapping[str, list[Scene]], samples_note: str, now: datetime) -> str:
    """The HTML of a report.

    Args:
        scenes: sample videos by direction; {} for none.
        samples_note: a sentence on the samples: what model they are of, or why there are none.
        now: when the report is written.
    """
    name = facts.run.resolve().name
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">Report of a run of <code>rlv2v train</code>, written {escape(_date(now))}.</p>',
        *_summary(facts),
        *_samples(scenes, samples_note),
        *_look(facts),
        *_starts(facts),
        *_curves(facts),
        *_settings(facts),
        *_timings(facts),
        *_environment(facts),
    ]
    return Template(_TEMPLATE.read_text()).substitute(title=escape(f"{name}: report"), body="\n".join(parts))


def _summary(facts: Facts) -> Iterator[str]:
    cards = []
    if facts.look.get("alone"):
        cards.append(("Model", "a look", "Nothing was trained: the estimated look explains the target."))
    else:
        steps = facts.rows[-1]["step"] if facts.rows else facts.newest or 0
        cards.append(("Iterations", f"{steps:,.0f}", f"of {facts.config.steps:,} at most"))
    if facts.best and not facts.look.get("alone"):
        of = f"of iteration {facts.best.get('step', 0):,}: it was nearest to the target's clips"
        cards.append(("Model kept", "the best", of))
    elif facts.model is not None and facts.newest is not None:
        cards.append(("Model kept", "the newest", f"of iteration {facts.newest:,}"))
    if facts.verdict.get("distance") is not None:
        verdict = facts.verdict
        scale = f"The source is at {number(verdict.get('source', 0))}; runs that worked end below "
        scale += f"{number(verdict.get('allowed', 0))}."
        cards.append(("Unpaired distance", number(verdict["distance"]), scale))
    elif facts.best.get("distance") and not facts.look.get("alone"):
        cards.append(("Unpaired distance", number(facts.best["distance"]), "of translations to the target's clips"))
    seconds = sum(row.get("seconds", 0.0) for row in facts.rows)
    if seconds:
        cards.append(("Time of all iterations", duration(seconds), "without starts and judging"))
    items = [
        f'<div><dt>{escape(a)}</dt><dd class="value">{escape(b)}</dd><dd>{escape(c)}</dd></div>' for a, b, c in cards
    ]
    yield f'<dl class="cards">{"".join(items)}</dl>'
    how = str(facts.sessions[-1].get("how", "")) if facts.sessions else ""
    if how and how != "ended":
        yield f'<p class="bad">The run did not come to its end: {escape(how)}.</p>'
    if facts.verdict.get("failed"):
        yield (
            '<p class="bad">This run has probably failed: its distance is above that of runs that worked. Look at the '
            "samples, and train again with another <code>--seed</code>, or with more <code>--starts</code>.</p>"
        )
    if facts.model is not None:
        yield "<p>Translate a video with this run:</p>"
        yield f"<pre><code>rlv2v translate --model {escape(name_of(facts.run))} INPUT OUTPUT</code></pre>"


def _samples(scenes: Mapping[str, list[Scene]], note: str) -> Iterator[str]:
    yield "<h2>Samples</h2>"
    yield f"<p>{escape(note)}</p>"
    if not scenes:
        return
    yield (
        "<p>A <b>translation</b> should show what the original shows, as the other side looks. The "
        "<b>reconstruction</b> is the translation translated back: what it lacks, the translation has lost. The "
        f"<b>last column</b> is a real clip of the other side, of another scene. Shown at {FPS} frames a second.</p>"
    )
    yield '<p><button id="play" type="button">Play</button></p>'
    for direction, (here, there) in _DIRECTIONS.items():
        if scenes.get(direction):
            yield f"<h3>From {here} to {there}</h3>"
            yield from (_scene(scene, here, there) for scene in scenes[direction])


def _scene(scene: Scene, here: str, there: str) -> str:
    captions = {
        "original": f"{here}: {scene.names[0]}",
        "translation": f"translated to {there}",
        "reconstruction": f"reconstructed {here}",
        "other": f"a real {there}: {scene.names[1]}",
    }
    figures = []
    for kind in KINDS:
        data = base64.b64encode(scene.videos[kind]).decode()
        caption = escape(captions[kind])
        figures.append(
            f'<figure><video muted playsinline loop preload="auto" aria-label="{caption}" '
            f'src="data:video/mp4;base64,{data}"></video><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="scene">{"".join(figures)}</div>'


def _look(facts: Facts) -> Iterator[str]:
    look = facts.look
    if not look:
        return
    yield "<h2>Look</h2>"
    if look.get("words"):
        yield f"<p>The run took {escape(str(look['words']))}.</p>"
    rows = [
        (
            "evidence",
            look.get("evidence"),
            "How much more light in the dark the target shows than the source does under the look: the logarithm of "
            f"a ratio. From {number(look.get('enough') or 0)} on a game of generator and discriminator is played too.",
        )
    ]
    for direction, (here, there) in _DIRECTIONS.items():
        found = look.get(direction) or {}
        way = f"{here} to {there}"
        rows.append(
            (f"matched, {way}", found.get("matched"), f"Frames of the {there} that show what a frame of the {here} "
             "shows. The look is fitted to them; 0 if both sides show different things.")
        )  # fmt: skip
        rows.append(
            (f"spread, {way}", found.get("spread"), "How far the networks that estimate the look disagree, as a share "
             "of the range of colours. The larger it is, the less sure the look.")
        )  # fmt: skip
    body = [
        f'<tr><th>{escape(name)}</th><td class="n">{number(value)}</td><td>{escape(text)}</td></tr>'
        for name, value, text in rows
        if isinstance(value, (int, float))
    ]
    yield f'<div class="wide"><table>{"".join(body)}</table></div>'


def _starts(facts: Facts) -> Iterator[str]:
    if not facts.starts:
        return
    yield "<h2>Starts</h2>"
    so_far = " so far; the run was stopped before it chose" if facts.unfinished_starts else ""
    count = max(map(len, facts.starts.values()))
    yield (
        f"<p>{count} short run{'s' * (count != 1)} from different seeds{so_far}. Which colour becomes which is decided "
        "early and by chance; the run went on from the start with the lowest unpaired distance, in each direction.</p>"
    )
    failed = facts.config.start_failed
    series = [
        Series(
            f"{_DIRECTIONS[name][0]} to {_DIRECTIONS[name][1]}",
            range(1, len(each) + 1),
            [float("nan") if d is None else d for d in each],
            index,
            dashed=name == "y2x",
        )
        for index, (name, each) in enumerate(facts.starts.items())
    ]
    drawn = chart(series, "unpaired distance", across="start", dots=True, joined=False, limit=failed)
    meaning = "The lower, the nearer the start's translations are to real clips."
    if failed is not None:
        meaning += f" Dotted line: from source to target, a start above {number(failed)} has failed."
    yield f'<div class="charts">{_figure("Distance of each start", drawn, legend(series, joined=False), meaning)}'
    rows = []
    for index in range(count):
        cells = [each[index] if index < len(each) else None for each in facts.starts.values()]
        words = ["diverged" if d is None else number(d) for d in cells]
        best = [d is not None and d == min(v for v in each if v is not None)
                for d, each in zip(cells, facts.starts.values(), strict=True)]  # fmt: skip
        marked = [f"<b>{w} chosen</b>" if b else w for w, b in zip(words, best, strict=True)]
        rows.append(f"<tr><td>{index + 1}</td>{''.join(f'<td class=n>{w}</td>' for w in marked)}</tr>")
    heads = "".join(f"<th>{escape(each.name)}</th>" for each in series)
    yield f'<figure><div class="wide"><table><tr><th>start</th>{heads}</tr>{"".join(rows)}</table></div></figure></div>'


def _curves(facts: Facts) -> Iterator[str]:
    if not facts.rows:
        if not facts.look.get("alone"):
            yield "<h2>Curves</h2><p>No iteration has been recorded yet.</p>"
        return
    yield "<h2>Curves</h2>"
    each = bucket(len(facts.rows))
    averaged = f" A point is the mean of {each} iterations." if each > 1 else ""
    lacking = any(not math.isfinite(value) for row in facts.rows for value in row.values())
    gaps = " Gaps are where a number was not finite." if lacking else ""
    unread = f" {facts.unread} lines of metrics.jsonl could not be read." if facts.unread else ""
    yield f"<p>From <code>metrics.jsonl</code>.{averaged}{gaps}{unread} Solid: target. Dashed: source.</p>"
    yield '<div class="charts">'
    names = list(dict.fromkeys(name for row in facts.rows for name in row if name != "step"))
    known = {name: kind for kind in _KINDS for name in names if _base(name) in kind.names}
    other = _Kind("Others", "value", {_base(name): name for name in names if name not in known}, "")
    for kind in (*_KINDS, other):
        series = _series(facts.rows, [n for n in names if _base(n) in kind.names], kind)
        if drawn := chart(series, kind.axis, dots=kind.dots):
            yield _figure(kind.title, drawn, legend(series), kind.meaning)
    yield "</div>"


def _series(rows: Sequence[Mapping[str, float]], names: Sequence[str], kind: _Kind) -> list[Series]:
    colours = list(kind.names)
    found = []
    for name in sorted(names, key=lambda name: (colours.index(_base(name)), name)):
        held = [row for row in rows if name in row]
        domain = _DOMAINS.get(name.removeprefix(_base(name)).lstrip("_"), "")
        words = f"{kind.names[_base(name)]}, {domain}" if domain else kind.names[_base(name)]
        steps, values = [row["step"] for row in held], [float(row[name]) for row in held]
        found.append(Series(words, steps, values, colours.index(_base(name)), dashed=domain == "source"))
    return found


def _base(name: str) -> str:
    """A name of metrics.jsonl without its domain."""
    return name[:-2] if name.endswith(("_x", "_y")) else name


def _figure(title: str, drawn: str, names: str, meaning: str) -> str:
    caption = f"{names}<p>{escape(meaning)}</p>"
    return f"<figure><h3>{escape(title)}</h3>{drawn}<figcaption>{caption}</figcaption></figure>"


def _settings(facts: Facts) -> Iterator[str]:
    every = settings(facts.config)
    changed, usual = ([s for s in every if s.is_changed is flag] for flag in (True, False))
    yield "<h2>Settings</h2>"
    idle = " Nothing was trained, so those of networks, losses and steps had no effect." * bool(facts.look.get("alone"))
    yield f"<p>What differs from the defaults. Of folders the name alone is shown.{idle}</p>"
    yield _setting_table(changed, with_default=True)
    yield f"<details><summary>{len(usual)} settings have their defaults</summary>"
    yield _setting_table(usual, with_default=False)
    yield "</details>"


def _setting_table(rows: Sequence[Any], *, with_default: bool) -> str:
    head = "<th>setting</th><th>value</th>" + "<th>default</th>" * with_default + '<th class="m">meaning</th>'
    body = [
        f'<tr><td class="n"><code>{escape(s.name)}</code></td><td class="v">{escape(s.value)}</td>'
        + f'<td class="v d">{escape(s.default)}</td>' * with_default
        + f'<td class="m">{escape(s.meaning)}</td></tr>'
        for s in rows
    ]
    return f'<div class="wide"><table class="settings"><tr>{head}</tr>{"".join(body)}</table></div>'


def _timings(facts: Facts) -> Iterator[str]:
    seconds = [row["seconds"] for row in facts.rows if row.get("seconds", 0) > 0]
    if not seconds and not facts.sessions:
        return
    yield "<h2>Timings</h2>"
    if seconds:
        low, middle, high = _quantiles(seconds)
        yield (
            f"<p>{len(seconds):,} iterations took {duration(sum(seconds))} in all. Half of them took at most "
            f"{number(middle)} seconds, a fifth at most {number(low)} and a fifth at least {number(high)}.</p>"
        )
    rows = []
    for session in facts.sessions:
        cells = [str(session.get(name, "")) for name in ("began", "took", "how")]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    if rows:
        head = "<tr><th>began</th><th>took, without reading the videos</th><th>how it ended</th></tr>"
        yield f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The values at 20, 50 and 80 %."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=10, method="inclusive")
    return fifths[1], fifths[4], fifths[7]


def _environment(facts: Facts) -> Iterator[str]:
    told = next((s for s in reversed(facts.sessions) if s.get("environment")), None)
    if told is None:
        return
    yield "<h2>Environment</h2>"
    yield "<p>What <code>rlv2v info</code> said on the machine that trained, and the variables that were set there.</p>"
    lines = [str(line) for line in told["environment"]]
    lines += [f"{name}={value}" for name, value in (told.get("variables") or {}).items()]
    lines.append(f"{told.get('processes', 1)} process(es)")
    yield f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def name_of(run: Path) -> str:
    """A run's folder as a command of the page names it: without the folders above, which may be private."""
    return run.resolve().name


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _date(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M")
