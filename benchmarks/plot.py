"""Figures as SVG: `python -m benchmarks.plot FIGURES.json OUT.svg [CURVES.svg]` draws what `--out` wrote.

One bar a question, as long as its goal is reached: the middle line is the goal, right of it is better, and the scale is
in factors of two. Questions where less is better are turned over, so that right is better for all. No curve and no
colour says what the numbers beside it do not.

The second picture has a panel for each question that was asked at several sizes: both scales in factors, the first
point in the middle of the height, so that a level line is a cost that does not grow.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final, cast

_LINE: Final = 22
_TEXT_WIDTH: Final = 640
_BAR_WIDTH: Final = 240
_NUMBER_WIDTH: Final = 130
_FACTOR_MAX: Final = 4.0
"""A bar ends there; its number says how much more it is."""

_PANEL_WIDTH: Final = 460
_PANEL_HEIGHT: Final = 120
_PANELS_A_ROW: Final = 2
_CURVE_FACTOR_MAX: Final = 10.0
"""The top of a panel is so many times its first point, and the bottom as much less."""

_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#222}.met{fill:#2e7d5b}.missed{fill:#c0562f}.axis{stroke:#888}"
    ".curve{fill:none;stroke:#2e7d5b;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#777}}"
)


def reached(ratio: float, goal: str) -> float:
    """How far a goal such as ">= 0.3" or "<= 5" is reached: 1 is just so, more is better. A goal of nothing at all
    ("<= 0") is reached without end, or not at all.

    Raises:
        ValueError: it is no such goal, or the ratio is below 0 or no number.
    """
    sign, _, number = goal.partition(" ")
    if sign not in {">=", "<="} or not 0 <= ratio < math.inf:
        raise ValueError(f"not a ratio with a goal: {ratio} {goal!r}")
    over, under = (ratio, float(number)) if sign == ">=" else (float(number), ratio)
    if under == 0:
        return math.inf
    return over / under


def draw(rows: Sequence[Mapping[str, object]], machine: str) -> str:
    """An SVG document of the rows that have a ratio and a goal."""
    shown = [row for row in rows if isinstance(row.get("ratio"), (int, float)) and row.get("goal")]
    width, height = _TEXT_WIDTH + _BAR_WIDTH + _NUMBER_WIDTH, _LINE * (len(shown) + 2)
    middle = _TEXT_WIDTH + _BAR_WIDTH / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(machine)}</title><style>{_STYLE}</style>",
        f'<text x="{_TEXT_WIDTH - 8}" y="15" text-anchor="end">{escape(machine)}</text>',
        f'<text x="{middle}" y="15" text-anchor="middle">goal</text>',
    ]
    for number, row in enumerate(shown, 1):
        parts += _bar(row, number * _LINE, middle)
    parts.append(f'<line class="axis" x1="{middle}" x2="{middle}" y1="20" y2="{_LINE * (len(shown) + 1)}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: Mapping[str, object], top: int, middle: float) -> list[str]:
    shown = str(row["goal"])
    goal = shown.removesuffix(f" {row.get('unit')}")
    # A goal with a unit is one for the value.
    ratio = float(str(row["ratio" if goal == shown else "value"]))
    factor = reached(ratio, goal)
    length = math.log(min(max(factor, 1 / _FACTOR_MAX), _FACTOR_MAX)) / math.log(_FACTOR_MAX) * _BAR_WIDTH / 2
    kind = "met" if factor >= 1 else "missed"
    base, start = top + 15, min(middle, middle + length)
    size = f'y="{top + 4}" width="{abs(length):.1f}" height="{_LINE - 8}"'
    return [
        f'<text x="{_TEXT_WIDTH - 8}" y="{base}" text-anchor="end">{escape(str(row["question"]))}</text>',
        f'<rect class="{kind}" x="{start:.1f}" {size}/>',
        f'<text x="{_TEXT_WIDTH + _BAR_WIDTH + 8}" y="{base}">{ratio:.3g} ({escape(shown)})</text>',
    ]


def draw_curves(rows: Sequence[Mapping[str, object]], machine: str) -> str:
    """An SVG document with a panel for each row that has a curve."""
    shown = [row for row in rows if row.get("curve")]
    lines = -(-len(shown) // _PANELS_A_ROW)
    width, height = _PANEL_WIDTH * _PANELS_A_ROW, _LINE + lines * _PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(machine)}</title><style>{_STYLE}</style>",
        f'<text x="8" y="15">{escape(machine)}</text>',
    ]
    for number, row in enumerate(shown):
        line, column = divmod(number, _PANELS_A_ROW)
        parts += _panel(row, column * _PANEL_WIDTH, _LINE + line * _PANEL_HEIGHT)
    return "\n".join([*parts, "</svg>", ""])


def _panel(row: Mapping[str, object], left: int, top: int) -> list[str]:
    curve = [(float(size), float(value)) for size, value in cast("Sequence[Sequence[float]]", row["curve"])]
    (first, base), (last, end) = curve[0], curve[-1]
    start, inner, middle, half, foot = left + 8, _PANEL_WIDTH - 16, top + 62, 36, top + _PANEL_HEIGHT - 8

    def at(size: float, value: float) -> tuple[float, float]:
        across = math.log(size / first) / math.log(last / first) if last > first else 0.0
        factor = min(max(value / base, 1 / _CURVE_FACTOR_MAX), _CURVE_FACTOR_MAX)
        return start + across * inner, middle - half * math.log(factor) / math.log(_CURVE_FACTOR_MAX)

    points = [at(size, value) for size, value in curve]
    unit = escape(str(row["unit"]))
    return [
        f'<text x="{start}" y="{top + 14}">{escape(str(row["question"]))}</text>',
        f'<line class="axis" x1="{start}" x2="{start + inner}" y1="{middle}" y2="{middle}" stroke-dasharray="2 4"/>',
        f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>',
        *(f'<circle class="met" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points),
        f'<text x="{start}" y="{foot}">{first:,.0f}: {base:.3g} {unit}</text>',
        f'<text x="{start + inner}" y="{foot}" text-anchor="end">{last:,.0f}: {end:.3g} {unit}</text>',
    ]


def main() -> int:
    """Draw the file that the command line names; 2 if it names none, or one that cannot be drawn."""
    if len(sys.argv) not in {3, 4}:
        print(__doc__, file=sys.stderr)
        return 2
    source, *targets = sys.argv[1:]
    try:
        figures = json.loads(Path(source).read_text(encoding="utf-8"))
        pictures = [drawing(figures["rows"], figures["machine"]) for drawing in (draw, draw_curves)]
        for picture, path in zip(pictures, targets, strict=False):
            Path(path).write_text(picture, encoding="utf-8")
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        print(f"{source} is none that --out wrote: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
