"""The study of looks: real shots under a colourist's grades, translated by looks estimated from other shots.

    python -m bench.quality.looks --pictures build/pictures/testing --set choosing

A third of the grades, on half of the shots, is for choosing; the others were opened once, at the end.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.quality.flow import Motion, load_motion
from bench.quality.grades import Grade, grades
from bench.quality.shots import Shot, read_shots
from rlv2v_fast.data.video import to_uint8
from rlv2v_fast.looks.closed_form import ClosedForms, fit, pixels
from rlv2v_fast.looks.look import Look
from rlv2v_fast.looks.network import LookNetwork
from rlv2v_fast.looks.pairs import fit_pairs
from rlv2v_fast.looks.prior import estimate, load
from rlv2v_fast.looks.statistics import frames_of
from rlv2v_fast.metrics import psnr, ssim, warping_error

# Shots of the source and of the target, for each split; each shot has several clips.
SPLITS = ((1, 1), (1, 3), (2, 2), (3, 1), (3, 3), (5, 5))
TARGET_CLIPS = (1, 4, 10)
# Shots that are scored in each split, by one clip each.
_SCORED = 8
# Grades for choosing, and for the end: a multiple of the three families each.
_GRADES = {"choosing": (9, 0), "end": (18, 9)}


@dataclass(frozen=True)
class Case:
    """Source and target clips of different shots, and clips of others with their truth; (N, T, 3, H, W) in [-1, 1].

    pair: a clip of one more shot, (T, 3, H, W), and the same graded: what a user may have graded by hand.
    """

    grade: Grade
    split: int
    source: Tensor
    target: Tensor
    query: Tensor
    truth: Tensor
    pair: tuple[Tensor, Tensor]


# The translation of a case's query. Only a bound may look at the truth.
Method = Callable[[Case], Tensor]


def cases(shots: Sequence[Shot], part: str, clips: int, *, matched: bool = False) -> Iterator[Case]:
    """Every grade of a part on every split.

    Args:
        part: "choosing" or "end"; their shots differ too.
        clips: of the target, at most 5 a shot.
        matched: whether half of the target's shots, at least one, show what the source shows.
    """
    order = np.random.default_rng(0).permutation(len(shots))
    own = order[0::2] if part == "choosing" else order[1::2]
    count, first = _GRADES[part]
    # Shared by the grades, so that their optical flow is computed once.
    queries: dict[int, Tensor] = {}
    for grade in grades(count, first):
        for split, (of_source, of_target) in enumerate(SPLITS):
            rng = np.random.default_rng([split, part == "end"])
            chosen = [shots[index] for index in rng.permutation(own)]
            source, target = chosen[:of_source], chosen[of_source : of_source + of_target]
            *scored, by_hand = chosen[of_source + of_target :][: _SCORED + 1]
            if matched:
                half = min(math.ceil(of_target / 2), of_source)
                target = source[:half] + target[half:]
            # Clip by clip from one shot after the other, as many shots as possible first.
            shown = [shot.clips[index] for index in range(len(target[0].clips)) for shot in target][:clips]
            query = np.stack([shot.clips[0] for shot in scored])
            yield Case(
                grade,
                split,
                _tensor(np.concatenate([shot.clips for shot in source])),
                _graded(np.stack(shown), grade, grain=True),
                queries.setdefault(split, _tensor(query)),
                _graded(query, grade),
                (_tensor(by_hand.clips[:1])[0], _graded(by_hand.clips[:1], grade, grain=True)[0]),
            )


def _tensor(clips: np.ndarray) -> Tensor:
    """uint8 (N, T, H, W, 3) as (N, T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def _graded(clips: np.ndarray, grade: Grade, *, grain: bool = False) -> Tensor:
    return _tensor(np.stack([(grade(clip / 255, grain=grain) * 255).round().astype(np.uint8) for clip in clips]))


def methods(networks: Sequence[LookNetwork]) -> dict[str, Method]:
    """Closed forms, the prior, and bounds fitted to the true pairs."""

    def closed(index: int) -> Method:
        def translate(case: Case) -> Tensor:
            return Look.of_table(_closed_forms(case).tables()[index]).apply(case.query)

        return translate

    def estimated(case: Case) -> Look:
        return estimate(case.source, case.target, networks).look

    return {
        "identity": lambda case: case.query,
        "mean-std": closed(0),
        "Monge-Kantorovich": closed(1),
        "histogram": closed(2),
        "C": lambda case: _closed_forms(case).mixture().apply(case.query),
        "prior, without matches": lambda case: estimate(case.source, case.target, networks, match=False).look.apply(
            case.query
        ),
        "prior": lambda case: estimated(case).apply(case.query),
        "prior, one clip graded by hand": lambda case: fit_pairs(estimated(case), *case.pair).apply(case.query),
        "truth": lambda case: case.truth,
        "affine, fitted on true pairs": lambda case: _fitted(case.query, case.truth, 1),
        "cubic, fitted on true pairs": lambda case: _fitted(case.query, case.truth, 3),
    }


def _closed_forms(case: Case) -> ClosedForms:
    return fit(*(pixels(frames_of(clips), every=2) for clips in (case.source, case.target)))


def _fitted(query: Tensor, truth: Tensor, degree: int) -> Tensor:
    """A polynomial of colours fitted to the scored clips themselves, in float64: float32 would lose directions."""
    colours, wanted = (clips.double().movedim(2, -1).reshape(-1, 3) for clips in (query, truth))
    monomials = [torch.ones(len(colours), 1, dtype=torch.float64)]
    powers = [(a, b, c) for a in range(4) for b in range(4) for c in range(4) if 1 <= a + b + c <= degree]
    monomials += [(colours ** torch.tensor(each)).prod(1, keepdim=True) for each in powers]
    basis = torch.cat(monomials, 1)
    found = basis @ torch.linalg.lstsq(basis, wanted, driver="gelsd").solution
    return found.reshape(query.movedim(2, -1).shape).movedim(-1, 2).clamp(-1, 1).float()


def scores(method: Method, case: Case, motion: Motion | None = None) -> dict[str, float]:
    """PSNR and SSIM; with the optical flow of the query also the warping error, as a multiple of the query's own."""
    found = (method(case) * 127.5).round() / 127.5
    both = list(zip(found, case.truth, strict=True))
    values = {
        "psnr": float(np.mean([psnr(*each).mean().item() for each in both])),
        "ssim": float(np.mean([ssim(*each).mean().item() for each in both])),
    }
    if motion is not None:
        flow, visible = motion(case.query)
        own, after = (
            sum(warping_error(*each).item() for each in zip(clips, flow, visible, strict=True))
            for clips in (case.query, found)
        )
        values["warping"] = after / own
    return values


def _of_clips(motion: Motion | None) -> Motion | None:
    """Optical flow and visibility of (N, T, 3, H, W), a row a clip, kept for as long as the tensor is."""

    @functools.cache
    def flows(clips: Tensor) -> tuple[Tensor, Tensor]:
        assert motion is not None
        flow, visible = zip(*(motion(clip) for clip in clips), strict=True)
        return torch.stack(flow), torch.stack(visible)

    return flows if motion else None


def table(rows: Sequence[dict]) -> str:
    """Means over the cases of each method and number of target clips, and the worst look and the worst case.

    Of a look, the mean over its splits counts. Losses are against the better of identity and C in the same case.
    """
    lines = []
    keys = sorted({(row["matched"], row["clips"]) for row in rows})
    for matched, clips in keys:
        some = [row for row in rows if (row["matched"], row["clips"]) == (matched, clips)]
        by_method: dict[str, dict[tuple, dict]] = {}
        for row in some:
            by_method.setdefault(row["method"], {})[row["family"], row["seed"], row["split"]] = row
        lines.append(f"k = {clips}{', half of the target shows the source' if matched else ''}")
        for name, found in by_method.items():
            values = np.array([[found[key]["psnr"], found[key]["ssim"]] for key in sorted(found)])
            bases: list[str] = [each for each in ("identity", "C") if each in by_method] or [name]
            base = np.array([max(by_method[each][key]["psnr"] for each in bases) for key in sorted(found)])
            lost = values[:, 0] - base
            looks = [[key[:2] == look for key in sorted(found)] for look in sorted({key[:2] for key in found})]
            worst = min(lost[look].mean() for look in looks)
            families = " ".join(
                f"{np.mean([row['psnr'] for key, row in found.items() if key[0] == family]):.2f}"
                for family in sorted({key[0] for key in found})
            )
            warped = [row["warping"] for row in found.values() if "warping" in row]
            warping = f"  warping error over the source's {np.mean(warped):.2f}" if warped else ""
            lines.append(
                f"  {name:30s} {values[:, 0].mean():6.2f} / {values[:, 1].mean():.3f}  "
                f"against the better of identity and C: worst look {worst:+.2f}, case {lost.min():+.2f}  "
                f"families {families}{warping}"
            )
    return "\n".join(lines)


def sheet(shots: Sequence[Shot], part: str, networks: Sequence[LookNetwork], split: int = 4) -> Image.Image:
    """Frames of a split under a grade of each family: three target clips, a scored frame, C, the prior, the truth."""
    known, rows = methods(networks), []
    for case in itertools.islice(cases(shots, part, 10), split, 3 * len(SPLITS), len(SPLITS)):
        shown = [case.query, known["C"](case), known["prior"](case), case.truth]
        rows += [torch.cat([*case.target[:3, 0], *(clips[index, 0] for clips in shown)], 2) for index in (0, 3)]
    found = Image.fromarray(to_uint8(torch.cat(rows, 1)[None])[0])
    return found.resize((2 * found.width, 2 * found.height), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="build/pictures/testing of bench.quality.pictures")
    parser.add_argument("--set", choices=_GRADES, default="choosing", dest="part")
    parser.add_argument("--clips", type=int, nargs="*", default=TARGET_CLIPS)
    parser.add_argument("--matched", action="store_true", help="half of the target's shots show what the source shows")
    parser.add_argument("--warping", action="store_true", help="score the warping error too; needs OpenCV")
    parser.add_argument("--methods", nargs="*", help="names of methods; all by default")
    parser.add_argument("--weights", type=Path, help="of other networks than the shipped ones")
    parser.add_argument("--sheet", type=Path, help="write a picture of some cases, and nothing else")
    parser.add_argument("--json", type=Path, help="append a line for each case and method")
    options = parser.parse_args()
    motion = _of_clips(load_motion()) if options.warping else None
    if options.warping and motion is None:
        parser.error("--warping needs OpenCV: pip install opencv-python-headless")
    networks = load(options.weights) if options.weights else load()
    shots, rows = read_shots(options.pictures), []
    if options.sheet:
        sheet(shots, options.part, networks).save(options.sheet)
        return
    for clips in options.clips:
        for case in cases(shots, options.part, clips, matched=options.matched):
            for name, method in methods(networks).items():
                if options.methods and name not in options.methods:
                    continue
                rows.append(
                    {
                        "set": options.part,
                        "method": name,
                        "clips": clips,
                        "matched": options.matched,
                        "family": case.grade.family,
                        "seed": case.grade.seed,
                        "split": case.split,
                        **scores(method, case, motion),
                    }
                )
    if options.json:
        with options.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    print(table(rows))


if __name__ == "__main__":
    main()
