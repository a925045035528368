"""Small diagrams of cost and wait beside one another, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, GAP = 250.0, 170.0, 54.0  # of one diagram, and between them
HIGHEST = 300.0  # seconds at the upper edge
SECONDS = (0, 1, 5, 20, 60, 300)
COLOURS = ("#0b6e4f", "#c8553d", "#3a6ea5", "#8d6a9f")


@dataclass(frozen=True)
class Line:
    """What a way can do: cost and seconds of each value of its number."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One diagram, with the point at which ours stands."""

    title: str
    lines: list[Line]
    mark: tuple[float, float]

    def draw(self) -> Iterable[str]:
        """Return the diagram at the origin. Costs: from 1 to twice ours."""
        most = 2 * self.mark[0]

        def place(cost: float, seconds: float) -> tuple[float, float]:
            height = math.log1p(min(seconds, HIGHEST)) / math.log1p(HIGHEST)
            return WIDTH * (cost - 1) / (most - 1), HEIGHT * (1 - height)

        yield text(WIDTH / 2, -10, self.title, "middle", "t")
        for seconds in SECONDS:
            _, y = place(1, seconds)
            yield f'<path class="g" d="M0 {y:.1f}H{WIDTH}"/>'
            yield text(-6, y + 3.5, str(seconds), "end")
        for cost in range(1, int(most) + 1, 1 + int(most) // 8):
            x, _ = place(cost, 0)
            yield text(x, HEIGHT + 15, str(cost), "middle")
        for line, colour in reversed(list(zip(self.lines, COLOURS, strict=True))):
            shown = [place(*point) for point in line.points if point[0] <= most]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            yield from (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in shown
            )
        x, y = place(*self.mark)
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="{COLOURS[0]}"/>'


def text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    """Return words at a place."""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(words)}</text>'


def draw(panels: Sequence[Panel], columns: int) -> str:
    """Return the diagrams in rows, with a legend."""
    rows = -(-len(panels) // columns)
    width, height = columns * (WIDTH + GAP) + GAP / 2, rows * (HEIGHT + GAP) + 80
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">',
        "<style>text{font:11px sans-serif;fill:#333}.t{font-weight:bold}"
        ".g{stroke:#ddd;fill:none}</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
    ]
    for number, line in enumerate(panels[0].lines):
        x = GAP + number * 150
        parts.append(f'<rect x="{x}" y="14" width="16" height="4" fill="{COLOURS[number]}"/>')
        parts.append(text(x + 22, 20, line.name, "start"))
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = GAP + column * (WIDTH + GAP), 60 + row * (HEIGHT + GAP)
        parts += [f'<g transform="translate({x:.0f} {y:.0f})">', *panel.draw(), "</g>"]
    below = "across: worker-seconds, of those that the tasks filled (ours as shipped: ring)"
    parts.append(text(GAP, height - 12, f"up: 95th percentile of the wait, s; {below}", "start"))
    return "\n".join([*parts, "</svg>", ""])
