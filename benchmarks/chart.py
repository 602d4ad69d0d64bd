"""Rows in, one picture out: a panel for each figure, a bar for each contender, a line from min to max."""

import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import CONNECT_CPU, EVENT_CPU, EVENTS, KEEPALIVE_CPU, MEMORY, P50, Figure, Rows
from .contenders import earlier_name

PANELS = (
    (MEMORY, "less is better"),
    (EVENTS, "more is better"),
    (EVENT_CPU, "less is better"),
    (KEEPALIVE_CPU, "less is better"),
    (CONNECT_CPU, "less is better; nchan checks no token"),
    (P50, "less is better"),
)
OURS, EARLIER, OTHERS = "#1f6f5c", "#8fb8ac", "#b4b9bf"


def missing() -> str:
    """Return the command that installs what is missing, or an empty string."""
    return "" if importlib.util.find_spec("matplotlib") else "pip install -e '.[bench]'"


def draw(rows: Rows, ours: Sequence[str], title: str, path: Path) -> None:
    """Save the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(picture)
    picture.suptitle(title, fontsize=11)
    for axes, (figure, note) in zip(picture.subplots(2, 3).flat, PANELS, strict=True):
        _panel(axes, rows, figure, ours)
        axes.set_title(f"{figure.label}\n", fontsize=10, loc="left")
        axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=8, color="#666666")
    picture.savefig(path, dpi=120)


def _panel(axes: Any, rows: Rows, figure: Figure, ours: Sequence[str]) -> None:
    names = [name for name in rows.names if rows.values(name, figure)]
    all_values = [list(rows.values(name, figure).values()) for name in names]
    middles = [statistics.median(values) for values in all_values]
    spread = [
        [middle - min(values) for middle, values in zip(middles, all_values, strict=True)],
        [max(values) - middle for middle, values in zip(middles, all_values, strict=True)],
    ]
    colors = dict.fromkeys(names, OTHERS) | {earlier_name(name): EARLIER for name in ours} | dict.fromkeys(ours, OURS)
    bars = axes.barh(names, middles, xerr=spread, color=[colors[name] for name in names])
    axes.bar_label(bars, [f"{middle:,.{figure.digits}f}" for middle in middles], padding=4, fontsize=8)
    axes.margins(x=0.2)
    axes.locator_params(axis="x", nbins=5)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
