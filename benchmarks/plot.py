"""Figures as SVG: `python -m benchmarks.plot FIGURES.json OUT.svg [CURVES.svg]` draws what `--out` wrote.

One line a question: its ratio and its goal first, then a bar, then the question. The bar is as long as the goal is
reached: the middle line is the goal, right of it is better, and the scale is in factors of two. Questions where less is
better are turned over, so that right is better for all. The thin line across the end of a bar is the spread: half of
the rounds lie on it. No colour says what the numbers do not.

The second picture has a panel for each question that was asked at several sizes: both scales in factors, the first
point in the middle of the height, so that a level line is a cost that does not grow.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.figures import Machine, number, read
from benchmarks.harness import Row, reached

_LINE: Final = 22
_RATIO_RIGHT: Final = 58
_GOAL_LEFT: Final = 66
_BAR_LEFT: Final = 130
_BAR_WIDTH: Final = 240
_TEXT_LEFT: Final = _BAR_LEFT + _BAR_WIDTH + 16
_WIDTH: Final = _TEXT_LEFT + 640
_FACTOR_MAX: Final = 4.0
"""A bar ends there; its number says how much more it is."""

_PANEL_WIDTH: Final = 500
_PANEL_HEIGHT: Final = 120
_PANELS_A_ROW: Final = 2
_CURVE_FACTOR_MAX: Final = 10.0
"""The top of a panel is so many times its first point, and the bottom as much less."""

_MACHINE_CHARACTERS: Final = 155
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#222}.name{font-weight:600}.met{fill:#2e7d5b}.missed{fill:#c0562f}"
    ".axis{stroke:#888}.spread{stroke:#222;stroke-width:1.5}.curve{fill:none;stroke:#2e7d5b;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#777}.spread{stroke:#ddd}}"
)


def draw(rows: Sequence[Row], machine: Machine) -> str:
    """An SVG document of the rows that have a goal."""
    parts, top = _machine_lines(machine)
    middle = _BAR_LEFT + _BAR_WIDTH / 2
    axis_top = top + 4
    parts += [
        _text(_RATIO_RIGHT, top, "ratio", anchor="end"),
        _text(_GOAL_LEFT, top, "goal"),
        _text(middle, top, "goal", anchor="middle"),
    ]
    for benchmark, of_it in groupby((row for row in rows if row.goal), lambda row: row.benchmark):
        top += _LINE
        parts.append(_text(_TEXT_LEFT, top, benchmark, kind="name"))
        for row in of_it:
            top += _LINE
            parts += _bar(row, top, middle)
    parts.append(f'<line class="axis" x1="{middle}" x2="{middle}" y1="{axis_top}" y2="{top + 6}"/>')
    return _document(_WIDTH, top + _LINE, machine, parts)


def _bar(row: Row, base: int, middle: float) -> list[str]:
    end, low, high = (_across(reached(found, row.goal)) + middle for found in (row.ratio, row.low, row.high))
    kind = "met" if reached(row.ratio, row.goal) >= 1 else "missed"
    size = f'x="{min(middle, end):.1f}" y="{base - 11}" width="{abs(end - middle):.1f}" height="14"'
    return [
        _text(_RATIO_RIGHT, base, number(row.ratio), anchor="end"),
        _text(_GOAL_LEFT, base, row.goal),
        f'<rect class="{kind}" {size}/>',
        *([_spread(low, high, base - 4)] if row.rounds > 1 else []),
        _text(_TEXT_LEFT, base, row.question),
    ]


def _across(factor: float) -> float:
    """How far right of the goal a factor is; left where it is below 1."""
    return math.log(min(max(factor, 1 / _FACTOR_MAX), _FACTOR_MAX)) / math.log(_FACTOR_MAX) * _BAR_WIDTH / 2


def _spread(low: float, high: float, y: int) -> str:
    return f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'


def draw_curves(rows: Sequence[Row], machine: Machine) -> str:
    """An SVG document with a panel for each row that has a curve."""
    parts, top = _machine_lines(machine)
    shown = [row for row in rows if row.curve]
    for place, row in enumerate(shown):
        line, column = divmod(place, _PANELS_A_ROW)
        parts += _panel(row, column * _PANEL_WIDTH, top + line * _PANEL_HEIGHT)
    height = top + -(-len(shown) // _PANELS_A_ROW) * _PANEL_HEIGHT
    return _document(_PANEL_WIDTH * _PANELS_A_ROW, height, machine, parts)


def _panel(row: Row, left: int, top: int) -> list[str]:
    (first, base), (last, end) = row.curve[0], row.curve[-1]
    start, inner, middle, half, foot = left + 8, _PANEL_WIDTH - 16, top + 62, 36, top + _PANEL_HEIGHT - 8

    def at(size: float, value: float) -> tuple[float, float]:
        across = math.log(size / first) / math.log(last / first) if last > first else 0.0
        factor = min(max(value / base, 1 / _CURVE_FACTOR_MAX), _CURVE_FACTOR_MAX)
        return start + across * inner, middle - half * math.log(factor) / math.log(_CURVE_FACTOR_MAX)

    points = [at(size, value) for size, value in row.curve]
    return [
        _text(start, top + 14, f"{number(row.ratio)} ({row.goal})  {row.question}"),
        f'<line class="axis" x1="{start}" x2="{start + inner}" y1="{middle}" y2="{middle}" stroke-dasharray="2 4"/>',
        f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>',
        *(f'<circle class="met" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points),
        _text(start, foot, f"{first:,.0f}: {base:.3g} {row.unit}"),
        _text(start + inner, foot, f"{last:,.0f}: {end:.3g} {row.unit}", anchor="end"),
    ]


def _machine_lines(machine: Machine) -> tuple[list[str], int]:
    """What it was measured on, at the top, and where the next line is."""
    lines = textwrap.wrap(str(machine), _MACHINE_CHARACTERS)
    return [_text(8, 15 + 16 * at, line) for at, line in enumerate(lines)], 15 + 16 * len(lines) + 8


def _text(x: float, y: int, text: str, *, anchor: str = "", kind: str = "") -> str:
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{anchored}{of_kind}>{escape(text)}</text>'


def _document(width: int, height: int, machine: Machine, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(str(machine))}</title><style>{_STYLE}</style>", *parts, "</svg>", ""])


def main() -> int:
    """Draw the file that the command line names; 2, after one line, if that cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("figures", type=Path, metavar="FIGURES.json", help="what `--out` of the benchmarks wrote")
    parser.add_argument("bars", type=Path, metavar="OUT.svg", help="the picture of the goals")
    parser.add_argument("curves", type=Path, metavar="CURVES.svg", nargs="?", help="the picture of what grows")
    options = parser.parse_args()
    try:
        figures = read(options.figures)
        # All is drawn before anything is written.
        pictures = {options.bars: draw(figures.rows, figures.machine)}
        if options.curves:
            pictures[options.curves] = draw_curves(figures.rows, figures.machine)
        for path, picture in pictures.items():
            path.write_text(picture, encoding="utf-8")
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except msgspec.MsgspecError as error:
        print(f"{options.figures} is none that --out wrote: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
