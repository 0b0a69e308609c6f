"""Lines in an SVG file: a share along x, a logarithmic y. A drawing library would be the heaviest dependency of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

Line = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 720, 440
SIZE = f'width="{WIDTH}" height="{HEIGHT}"'
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 110  # margins; the legend is in the lowest
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#882255")
"""Okabe and Ito's, told apart by all eyes, with grey and wine in place of their yellow, too light for a line."""


def picture(title: str, labels: tuple[str, str], lines: Mapping[str, Line]) -> str:
    """The SVG text: x from 0 to 1 in percent, y above 0 on a logarithmic scale (points at 0 are left out)."""
    shown = {name: [(x, y) for x, y in line if y > 0] for name, line in lines.items()}
    heights = [y for line in shown.values() for _, y in line] or [1.0]
    low, high = math.floor(math.log10(min(heights))), math.ceil(math.log10(max(heights)))
    decades = (low, max(high, low + 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(WIDTH / 2, 20, title, "middle"),
        *grid(decades),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, labels[0], "middle"),
        text(LEFT, TOP - 8, labels[1], "start"),
    ]
    for index, (name, line) in enumerate(shown.items()):
        parts += curve(index, name, [place(x, y, decades) for x, y in line])
    return "\n".join([*parts, "</svg>"]) + "\n"


def side_by_side(pictures: Sequence[str], columns: int) -> str:
    """Finished pictures in one, row by row."""
    rows = math.ceil(len(pictures) / columns)
    placed = (
        one.replace("<svg ", f'<svg x="{index % columns * WIDTH}" y="{index // columns * HEIGHT}" {SIZE} ', 1)
        for index, one in enumerate(pictures)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * WIDTH} {rows * HEIGHT}">\n'
    return head + "".join(placed) + "</svg>\n"


def place(x: float, y: float, decades: tuple[int, int]) -> tuple[float, float]:
    """Pixels from the upper left corner."""
    part = (math.log10(y) - decades[0]) / (decades[1] - decades[0])
    return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def grid(decades: tuple[int, int]) -> Iterator[str]:
    for percent in range(0, 101, 10):
        x, _ = place(percent / 100, 10.0 ** decades[0], decades)
        yield rule((x, TOP), (x, HEIGHT - BOTTOM))
        yield text(x, HEIGHT - BOTTOM + 18, f"{percent}%", "middle")
    for decade in range(decades[0], decades[1] + 1):
        _, y = place(0.0, 10.0**decade, decades)
        yield rule((LEFT, y), (WIDTH - RIGHT, y))
        yield text(LEFT - 8, y + 4, f"{10.0**decade:g}", "end")


def curve(index: int, name: str, points: Sequence[tuple[float, float]]) -> Iterator[str]:
    """The line with its points, and its entry in the legend."""
    colour = COLOURS[index % len(COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    column, row = index % 3, index // 3
    x, y = LEFT + column * 210, HEIGHT - BOTTOM + 62 + row * 16
    yield f'<rect x="{x}" y="{y - 9}" width="14" height="10" fill="{colour}"/>'
    yield text(x + 20, y, name, "start")


def rule(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="#dddddd"/>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
