"""Curves as SVG, without any package: how many devices have a stream, over the seconds after an event."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

Points = Sequence[tuple[float, float]]
"""Seconds and shares from 0 to 1, in the order of time."""

WIDTH, HEIGHT = 800, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 50
COLOURS = ("#1f6f5c", "#c2571a", "#6b7280")
STYLE = "font-family: sans-serif; font-size: 12px"


def draw(curves: Mapping[str, Points], title: str, last: float, path: Path) -> None:
    """Save the picture; it shows the seconds from 0 to `last`."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" style="{STYLE}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20">{escape(title)}</text>',
        *_grid(last),
        *(_curve(points, last, colour) for points, colour in zip(curves.values(), COLOURS, strict=False)),
        *(_label(name, place) for place, name in enumerate(curves)),
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n")


def _grid(last: float) -> list[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if last / step <= 15)
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d8dbdf"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for second in range(0, int(last) + 1, step):
        x, y = _x(second, last), HEIGHT - BOTTOM
        lines.append(f'<path d="M{x:.1f} {y}v5" stroke="#6b7280"/>')
        lines.append(f'<text x="{x:.1f}" y="{y + 19}" text-anchor="middle">{second}</text>')
    lines.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">seconds</text>')
    return lines


def _curve(points: Points, last: float, colour: str) -> str:
    steps = [f"M{_x(0, last):.1f} {_y(points[0][1] if points else 0):.1f}"]
    steps += [f"H{_x(seconds, last):.1f}V{_y(share):.1f}" for seconds, share in points if 0 <= seconds <= last]
    return f'<path d="{"".join(steps)}H{WIDTH - RIGHT}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _label(name: str, place: int) -> str:
    x, y, colour = WIDTH - RIGHT - 200, HEIGHT - BOTTOM - 12 - 18 * place, COLOURS[place % len(COLOURS)]
    line = f'<path d="M{x} {y - 4}h24" stroke="{colour}" stroke-width="2"/>'
    return f'{line}<text x="{x + 32}" y="{y}">{escape(name)}</text>'


def _x(second: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * second / last


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
