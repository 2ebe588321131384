"""Charts as SVG text: lines and bars, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

Points = Sequence[tuple[float, float]]

#: Told apart also by people who see few colours (Okabe and Ito).
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

_WIDTH: Final = 680
_HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 170, 16, 46


def nice_ticks(least: float, most: float, count: int = 5) -> list[float]:
    """Return round numbers that cover a range."""
    if most <= least:
        most = least + 1
    rough = (most - least) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.floor(least / step)
    return [step * number for number in range(first, math.ceil(most / step) + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """Return powers of ten that cover a range of positive numbers."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _scale(ticks: Sequence[float], begin: float, end: float, *, log: bool) -> Callable[[float], float]:
    def place(value: float) -> float:
        return math.log10(value) if log else value

    low, high = place(ticks[0]), place(ticks[-1])
    return lambda value: begin + (place(value) - low) / (high - low) * (end - begin)


def short(value: float) -> str:
    """Return a number in few characters."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.01:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def lines(
    series: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    tick: Callable[[float], str] = short,
    ticks: Sequence[float] = (),
    marks: bool = True,
) -> str:
    """Draw lines.

    Args:
        series: points by name; drawn in the order of x.
        x_label: below.
        y_label: beside.
        log_x: whether the horizontal axis is logarithmic; x has to be positive then.
        tick: how a number on the horizontal axis is written.
        ticks: numbers on the horizontal axis; chosen if there are none.
        marks: whether each point has a dot.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    if not xs:
        return ""
    shown = list(ticks) or (log_ticks(min(xs), max(xs)) if log_x else nice_ticks(min(xs), max(xs)))
    y_ticks = nice_ticks(0, max(ys))
    ends = sorted([*shown, *xs])
    if log_x and ends[0] == ends[-1]:
        ends = [ends[0] / 2, ends[0] * 2]
    x_at = _scale([ends[0], ends[-1]] if ends[0] < ends[-1] else [0, 1], _LEFT, _WIDTH - _RIGHT, log=log_x)
    y_at = _scale(y_ticks, _HEIGHT - _BOTTOM, _TOP, log=False)
    parts = [_frame(_HEIGHT), _y_axis(y_ticks, y_at, y_label)]
    parts += [_text(x_at(value), _HEIGHT - _BOTTOM + 16, tick(value), "middle") for value in shown]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_label, "middle"))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x_at(x), y_at(y)) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if marks:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(_legend(number, name, colour))
    return _svg(parts, _HEIGHT)


def bars(groups: Mapping[str, Mapping[str, float]], *, x_label: str) -> str:
    """Draw horizontal bars.

    Args:
        groups: a row of bars for each name, with values by series.
        x_label: below.
    """
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    most = max((value for values in groups.values() for value in values.values()), default=0.0)
    if not names or most <= 0:
        return ""
    left, thick = 280, 13
    heights = [thick * len(values) + 8 for values in groups.values()]
    height = sum(heights) + _BOTTOM + _TOP
    ticks = nice_ticks(0, most)
    x_at = _scale(ticks, left, _WIDTH - 30, log=False)
    parts: list[str] = []
    for value in ticks:
        parts.append(_rule(x_at(value), _TOP, x_at(value), height - _BOTTOM))
        parts.append(_text(x_at(value), height - _BOTTOM + 16, short(value), "middle"))
    top = float(_TOP)
    for (group, values), own in zip(groups.items(), heights, strict=True):
        parts.append(_text(left - 8, top + own / 2, group, "end"))
        for row, (name, value) in enumerate(values.items()):
            colour = COLOURS[names.index(name) % len(COLOURS)]
            at = top + row * thick
            parts.append(
                f'<rect x="{left}" y="{at:.1f}" width="{x_at(value) - left:.1f}" height="{thick - 2}" '
                f'fill="{colour}"><title>{escape(name)}: {short(value)}</title></rect>'
            )
            parts.append(_text(x_at(value) + 3, at + thick - 3, short(value), "start"))
        top += own
    parts.append(_text((left + _WIDTH) / 2, height - 8, x_label, "middle"))
    key = "".join(
        f'<span class="key"><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f"<p>{key}</p>" + _svg(parts, height)


def _svg(parts: Sequence[str], height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" role="img">{"".join(parts)}</svg>'
    )


def _frame(height: float) -> str:
    return _rule(_LEFT, height - _BOTTOM, _WIDTH - _RIGHT, height - _BOTTOM, "#555")


def _y_axis(ticks: Sequence[float], at: Callable[[float], float], label: str) -> str:
    parts = [_rule(_LEFT, at(value), _WIDTH - _RIGHT, at(value)) for value in ticks]
    parts += [_text(_LEFT - 6, at(value) + 4, short(value), "end") for value in ticks]
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(label)}</text>'
    )
    return "".join(parts)


def _legend(number: int, name: str, colour: str) -> str:
    y = _TOP + 12 + number * 18
    left = _WIDTH - _RIGHT + 12
    return f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="{colour}"/>' + _text(
        left + 15, y, name, "start"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = "#ddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
