"""Charts as SVG text: lines and bars, and nothing else. Colours are the page's (`COLOUR_NAMES`), so that it may be dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple


class Point(NamedTuple):
    """A place in a chart.

    Attributes:
        x: to the right.
        y: up; a median.
        least: of its rounds; None if there is one only.
        most: of its rounds.
    """

    x: float
    y: float
    least: float | None = None
    most: float | None = None


#: Variables of the page's style, one for each series.
COLOUR_NAMES: Final = tuple(f"--series-{number}" for number in range(7))

_WIDTH: Final = 820
_HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 40, 16, 46

#: Of a character in the charts' font, about; and what two labels need between them.
_CHARACTER: Final = 6.3
_GAP: Final = 8.0

Scale = Callable[[float], float]


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
    """Return numbers that cover a range above zero: 1, 2 and 5 of each power of ten, or the powers if it is wide."""
    wide = most / least > 1e3
    factors = (1.0,) if wide else (1.0, 2.0, 5.0)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    every = [10.0**power * factor for power in powers for factor in factors]
    first = max((number for number, tick in enumerate(every) if tick <= least * 1.0001), default=0)
    last = min(number for number, tick in enumerate(every) if tick >= most * 0.9999)
    return every[first : max(last, first + 1) + 1]


def short(value: float) -> str:
    """Return a number in few characters."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    even: bool = False,
    tick: Callable[[float], str] = short,
    ticks: Sequence[float] = (),
    marks: bool = True,
) -> str:
    """Draw lines, each point with what is between the least and the most of its rounds.

    Args:
        series: points by name; drawn in the order of x.
        x_label: below, with the unit.
        y_label: beside, with the unit.
        log_x: whether the horizontal axis is logarithmic; x has to be positive then.
        log_y: the same of the vertical one.
        even: whether `ticks` have the same distance, whatever they are; every x is one of them.
        tick: how a number on the horizontal axis is written.
        ticks: numbers on the horizontal axis; chosen if there are none.
        marks: whether each point has a dot.
    """
    points = [point for some in series.values() for point in some]
    if not points:
        return ""
    xs = [point.x for point in points]
    ys = [y for point in points for y in (point.y, point.least, point.most) if y is not None]
    x_ticks = list(ticks) or (log_ticks(min(xs), max(xs)) if log_x else nice_ticks(min(xs), max(xs)))
    y_ticks = log_ticks(min(ys), max(ys)) if log_y else nice_ticks(0, max(ys))
    if even:
        places = {x: float(number) for number, x in enumerate(x_ticks)}
        inner = _scale([0, max(1, len(x_ticks) - 1)], _LEFT + 20, _WIDTH - _RIGHT, log=False)
        x_at: Scale = lambda x: inner(places[x])  # noqa: E731 - a function of one line
    else:
        x_at = _scale(sorted({*x_ticks, min(xs), max(xs)}), _LEFT, _WIDTH - _RIGHT, log=log_x)
    y_at = _scale(y_ticks, _HEIGHT - _BOTTOM, _TOP, log=log_y)
    parts = [_y_axis(y_ticks, y_at, y_label), *_x_axis(x_ticks, x_at, tick, x_label)]
    for number, some in enumerate(series.values()):
        parts.append(_line(sorted(some), x_at, y_at, _colour(number), marks=marks))
    return _key(list(series)) + _svg(parts, _HEIGHT, f"{y_label} by {x_label}")


def _line(points: Sequence[Point], x_at: Scale, y_at: Scale, colour: str, *, marks: bool) -> str:
    path = " ".join(f"{x_at(point.x):.1f},{y_at(point.y):.1f}" for point in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for point in points:
        x = x_at(point.x)
        if point.least is not None and point.most is not None:
            parts.append(_rule(x, y_at(point.least), x, y_at(point.most), colour))
        if marks:
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y_at(point.y):.1f}" r="3" fill="{colour}">'
                f"<title>{short(point.x)}: {short(point.y)}</title></circle>"
            )
    return "".join(parts)


def bars(groups: Mapping[str, Mapping[str, float]], *, x_label: str, stacked: bool = False) -> str:
    """Draw horizontal bars.

    Args:
        groups: a row of bars for each name, with values by series.
        x_label: below, with the unit.
        stacked: whether a row is one bar of all its values, with the sum behind it.
    """
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    totals = [
        sum(values.values()) if stacked else max(values.values(), default=0) for values in groups.values()
    ]
    most = max(totals, default=0.0)
    if not names or most <= 0:
        return ""
    left, thick = max(map(len, groups)) * _CHARACTER + 16, 14
    heights = [thick * (1 if stacked else len(values)) + 8 for values in groups.values()]
    height = sum(heights) + _BOTTOM + _TOP
    ticks = nice_ticks(0, most)
    x_at = _scale(ticks, left, _WIDTH - _RIGHT, log=False)
    parts: list[str] = []
    for value in ticks:
        parts.append(_rule(x_at(value), _TOP, x_at(value), height - _BOTTOM))
        parts.append(_text(x_at(value), height - _BOTTOM + 16, short(value), "middle"))
    top = float(_TOP)
    for (group, values), own in zip(groups.items(), heights, strict=True):
        parts.append(_text(left - 8, top + own / 2, group, "end"))
        begin, at = 0.0, top
        for name, value in values.items():
            end = begin + value
            parts.append(
                f'<rect x="{x_at(begin):.1f}" y="{at:.1f}" width="{x_at(end) - x_at(begin):.1f}" '
                f'height="{thick - 2}" fill="{_colour(names.index(name))}">'
                f"<title>{escape(name)}: {short(value)}</title></rect>"
            )
            if stacked:
                begin = end
            else:
                parts.append(_text(x_at(end) + 3, at + thick - 4, short(value), "start"))
                at += thick
        if stacked:
            parts.append(_text(x_at(begin) + 3, at + thick - 4, short(begin), "start"))
        top += own
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, height - 8, x_label, "middle"))
    return _key(names) + _svg(parts, height, x_label)


def _scale(ticks: Sequence[float], begin: float, end: float, *, log: bool) -> Scale:
    def place(value: float) -> float:
        return math.log10(value) if log else value

    low, high = place(ticks[0]), place(ticks[-1])
    if high <= low:
        return lambda _: (begin + end) / 2
    return lambda value: begin + (place(value) - low) / (high - low) * (end - begin)


def _colour(number: int) -> str:
    return f"var({COLOUR_NAMES[number % len(COLOUR_NAMES)]})"


def _key(names: Sequence[str]) -> str:
    parts = [
        f'<span class="key"><i style="background:{_colour(number)}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    ]
    return f"<p>{''.join(parts)}</p>"


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<div class="wide"><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg></div>'
    )


def _x_axis(ticks: Sequence[float], at: Scale, written: Callable[[float], str], label: str) -> list[str]:
    """Draw it; a number that would touch the one before it is left out."""
    parts = [_rule(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "currentColor")]
    taken = -math.inf
    for value in ticks:
        text = written(value)
        half = len(text) * _CHARACTER / 2
        if at(value) - half >= taken:
            parts.append(_text(at(value), _HEIGHT - _BOTTOM + 16, text, "middle"))
            taken = at(value) + half + _GAP
    return [*parts, _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, label, "middle")]


def _y_axis(ticks: Sequence[float], at: Scale, label: str) -> str:
    parts = [_rule(_LEFT, at(value), _WIDTH - _RIGHT, at(value)) for value in ticks]
    parts += [_text(_LEFT - 6, at(value) + 4, short(value), "end") for value in ticks]
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" fill="currentColor" '
        f'transform="rotate(-90 14 {middle})">{escape(label)}</text>'
    )
    return "".join(parts)


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = "var(--rule)") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'
