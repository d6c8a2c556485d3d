"""What every benchmark tells in the same way: on which machine, sides in turn, medians, a table and a plot."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import psutil

Value = TypeVar("Value")


def machine(*packages: str) -> str:
    """Return one line on this machine, with the versions of some packages."""
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, {psutil.cpu_count()} threads"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{_processor()}, {cores}; Python {platform.python_version()}, {versions}; {date.today()}"


def in_turns(sides: Mapping[str, Callable[[], Value]], rounds: int) -> dict[str, list[Value]]:
    """Run every side once a round, each round beginning with another, so that a busy machine is unfair to none."""
    names = list(sides)
    seen: dict[str, list[Value]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seen[name].append(sides[name]())
    return seen


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of what ours is to theirs, pair by pair."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns: the first of them left, numbers right."""
    lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join([line[0].ljust(widths[0]), *cells]).rstrip(), flush=True)


def save_plot(path: Path, title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Draw bars: a group of them for each name, a bar for each side; the kind of file is told by its ending."""
    from matplotlib.figure import Figure

    sides = list(dict.fromkeys(side for values in groups.values() for side in values))
    figure = Figure(figsize=(2 + 2 * len(groups), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(sides)
    for place, side in enumerate(sides):
        where = [number + place * width for number, values in enumerate(groups.values()) if side in values]
        bars = axes.bar(where, [values[side] for values in groups.values() if side in values], width, label=side)
        axes.bar_label(bars, fmt="{:,.2f}", fontsize=7)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(groups))], list(groups))
    axes.set(title=title, ylabel=unit)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"\n{path}")


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or one that does not tell
        return platform.processor() or platform.machine()
