"""A chart of lines over two logarithmic axes, as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 740, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 220, 40, 50
_COLOURS: Final = ("#1f6feb", "#0b3d91", "#d1242f", "#82071e")
_STYLE: Final = "text{font:13px sans-serif;fill:#57606a}.grid{stroke:#d0d7de}.line{fill:none;stroke-width:2}"

Points = Sequence[tuple[float, float]]


def chart(title: str, across: str, up: str, lines: Mapping[str, Points]) -> str:
    """Draw each line with its name at its end.

    Args:
        title: above the chart.
        across: what the horizontal axis shows.
        up: what the vertical axis shows.
        lines: by name, points of positive numbers.
    """
    points = [point for line in lines.values() for point in line]
    columns, rows = _decades([x for x, _ in points]), _decades([y for _, y in points])
    drawn = [_text(_LEFT, 22, title, "start"), _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, across, "middle")]
    drawn.append(_text(_LEFT, _TOP - 4, up, "start"))
    for tick in range(columns[0], columns[1] + 1):
        x = _across(10.0**tick, columns)
        drawn += [_rule(x, _TOP, x, _HEIGHT - _BOTTOM), _text(x, _HEIGHT - _BOTTOM + 18, f"{10**tick:,}", "middle")]
    for tick in range(rows[0], rows[1] + 1):
        y = _up(10.0**tick, rows)
        drawn += [_rule(_LEFT, y, _WIDTH - _RIGHT, y), _text(_LEFT - 8, y + 4, f"{10.0**tick:,g}", "end")]
    taken: list[float] = []
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(_across(x, columns), _up(y, rows)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        at = places[-1][1] + 4
        while any(abs(at - other) < 15 for other in taken):
            at += 5
        taken.append(at)
        drawn.append(f'<text x="{places[-1][0] + 8:.1f}" y="{at:.1f}" style="fill:{colour}">{escape(name)}</text>')
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}">\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around all of them."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _across(x: float, decades: tuple[int, int]) -> float:
    return _LEFT + (math.log10(x) - decades[0]) / (decades[1] - decades[0]) * (_WIDTH - _LEFT - _RIGHT)


def _up(y: float, decades: tuple[int, int]) -> float:
    return _HEIGHT - _BOTTOM - (math.log10(y) - decades[0]) / (decades[1] - decades[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
