"""Plots of a sweep, as inline SVG in the page's colours."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.evaluate.report_plots import COLOURS, svg
from hydra_ray.sweep.config import Range
from hydra_ray.sweep.results import Result
from hydra_ray.sweep.space import Values, encoded, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PARALLEL_ROWS = 11
_FRONT_ROWS = 9
_WIDTH_INCHES = 10.4
_FAINTEST = 0.25
_NUM_TICKS = 5


def parallel_plot(results: Sequence[Result], space: Mapping[str, Values]) -> str:
    """Return a parallel-coordinates plot of the trials' settings, tokens and quality: the better, the more opaque; the
    best one in another colour."""
    columns = [(key, *_scaled(values, [result.settings[key] for result in results])) for key, values in space.items()]
    tokens = [result.worth.generated_tokens for result in results]
    qualities = [result.worth.quality for result in results]
    columns += [("generated tokens", *_scaled_numbers(tokens)), ("quality", *_scaled_numbers(qualities))]
    strengths = columns[-1][1]

    def draw(axes: "Axes") -> None:
        places = range(len(columns))
        for at in reversed(range(len(results))):
            heights = [heights[at] for _, heights, _ in columns]
            is_best = at == 0
            axes.plot(
                places,
                heights,
                color=COLOURS["worse" if is_best else "accent"],
                alpha=1.0 if is_best else _FAINTEST + (1 - _FAINTEST) * strengths[at] ** 2,
                linewidth=2.6 if is_best else 1.3,
            )
        for place, (_, _, ticks) in enumerate(columns):
            axes.axvline(place, color=COLOURS["muted"], linewidth=1)
            for height, label in ticks:
                behind = {"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1.5}
                axes.text(place + 0.04, height, label, va="center", color=COLOURS["ink"], bbox=behind)
        axes.set_xticks(places, [key.replace(".", ".\n") for key, *_ in columns])
        axes.set_xlim(-0.1, len(columns) - 0.6)
        axes.set_yticks([])
        axes.grid(visible=False)

    described = "; ".join(
        ", ".join(f"{key} {encoded(value)}" for key, value in result.settings.items())
        + f": quality {result.worth.quality:.3f}, {result.worth.generated_tokens} tokens"
        for result in results
    )
    return svg("parallel", "Every trial's settings, tokens and quality", described, _PARALLEL_ROWS, draw, _WIDTH_INCHES)


def importance_plot(importances: Mapping[str, float]) -> str:
    """Return a bar chart of the importance of each setting."""

    def draw(axes: "Axes") -> None:
        shares = [100 * share for share in importances.values()]
        axes.barh(range(len(shares)), shares, height=0.62, color=COLOURS["accent"])
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of what the settings explain one by one")
        axes.set_yticks(range(len(shares)), list(importances))
        axes.set_ylim(len(shares) - 0.4, -0.6)

    described = "; ".join(f"{key} {share:.0%}" for key, share in importances.items())
    return svg("importance", "Importance of each setting for quality", described, len(importances) + 1, draw)


def front_plot(results: Sequence[Result]) -> str:
    """Return a plot of quality against generated tokens with the Pareto front."""
    front = sorted(
        (result for result in results if result.is_on_front), key=lambda result: result.worth.generated_tokens
    )

    def draw(axes: "Axes") -> None:
        for result in results:
            worth, colour = result.worth, COLOURS["accent" if result.is_on_front else "prompt"]
            if result.is_on_front and worth.quality_low is not None:
                bounds = [worth.quality_low, worth.quality_high]
                axes.plot([worth.generated_tokens] * 2, bounds, color=colour, linewidth=1.4)
            axes.plot([worth.generated_tokens], [worth.quality], "o", color=colour, markersize=6)
        steps = [(result.worth.generated_tokens, result.worth.quality) for result in front]
        axes.step(*zip(*steps, strict=True), where="post", color=COLOURS["accent"], linewidth=1.4)
        axes.set_xlabel("generated tokens")
        axes.set_ylabel("quality")
        axes.grid(visible=True, axis="y")

    described = "; ".join(f"{each.worth.generated_tokens} tokens, quality {each.worth.quality:.3f}" for each in front)
    return svg("front", "Quality against generated tokens: the Pareto front", described, _FRONT_ROWS, draw)


def _scaled(values: Values, chosen: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights from 0 to 1 of the values that trials chose, and the ticks of their axis.

    Values of a list are spaced equally, in their order.
    """
    if not isinstance(values, Range):
        names = list(dict.fromkeys(name_of({"": value}) for value in values))
        last = max(len(names) - 1, 1)
        ticks = [(names.index(name_of({"": value})) / last, str(encoded(value))) for value in values]
        return [names.index(name_of({"": value})) / last for value in chosen], ticks
    if not values.log:
        return _scaled_numbers(chosen)
    return _scaled_numbers([math.log(number) for number in chosen], lambda logarithm: _shown(math.exp(logarithm)))


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _scaled_numbers(
    numbers: Sequence[float], shown: Callable[[float], str] = _shown
) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights from 0 to 1 of numbers, and the ticks of their axis; all in the middle if they are equal."""
    low, high = min(numbers), max(numbers)
    if low == high:
        return [0.5] * len(numbers), [(0.5, shown(low))]
    steps = [step / (_NUM_TICKS - 1) for step in range(_NUM_TICKS)]
    ticks = [(step, shown(low + step * (high - low))) for step in steps]
    return [(number - low) / (high - low) for number in numbers], ticks
