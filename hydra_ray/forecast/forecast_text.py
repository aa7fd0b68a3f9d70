"""Text of a forecast."""

from collections.abc import Iterator, Sequence

from hydra_ray.findings import counted
from hydra_ray.forecast.forecast import Forecast
from hydra_ray.forecast.usage import Comparison
from hydra_ray.forecast.user_sample import Estimate

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def forecast_lines(forecast: Forecast) -> Iterator[str]:
    """Yield the lines of a forecast: users, requests, tokens, time, cost, and what is complete."""
    counters = forecast.counters
    yield (
        f"run {forecast.run}: {counted(round(counters['users']), 'user')}, "
        f"{counters['new_users']:,.0f} of them evaluated; {counted(round(counters['records']), 'record')}, "
        f"{counted(round(counters['queries']), 'query', 'queries')}"
    )
    if forecast.num_sampled < counters["users"]:
        yield f"estimated on {forecast.num_sampled:,} users; in brackets 95 % intervals"
    yield from _table([_HEADER, *_rows(forecast)])
    yield from _totals(forecast)


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield the lines that compare what a finished run was expected to take with what it took."""
    yield f"run {comparison.forecast.run}: expected without looking at what it has computed, and used"
    rows: list[tuple[str, ...]] = [("stage", "expected tokens", "used", "expected seconds", "used")]
    for stage in comparison.stages:
        tokens = (f"{stage.expected_tokens:,.0f}", f"{stage.used_tokens:,.0f}") if stage.used_tokens else ("", "")
        rows.append((stage.name, *tokens, _number(stage.expected_seconds), _number(stage.used_seconds)))
    yield from _table(rows)
    expected = sum(stage.expected_tokens for stage in comparison.stages)
    used = sum(stage.used_tokens for stage in comparison.stages)
    yield f"tokens: {expected:,.0f} expected, {used:,.0f} used: {expected / max(used, 1):.2f} of it"
    seconds = [stage.expected_seconds for stage in comparison.stages]
    took = sum(stage.used_seconds for stage in comparison.stages)
    if None in seconds:
        yield f"time: {_duration(took)} used; nothing tells the generator's speed: calibrate"
    else:
        total = sum(each for each in seconds if each is not None)
        yield f"time: {_duration(total)} expected, {_duration(took)} used: {total / max(took, 1e-9):.2f} of it"
    yield f"speed of the generator by {comparison.forecast.speed_source}"


_HEADER = ("stage", "requests", "to ask", "prompt tokens", "in prefix cache", "generated tokens", "time")


def _rows(forecast: Forecast) -> Iterator[tuple[str, ...]]:
    """Yield the table rows of the generating stages: all requests, then what remains to be sent."""
    for stage in forecast.stages:
        if stage.volume is None:
            continue
        volume, new = stage.volume, stage.volume.new
        mark = "" if volume.is_exact else "about "
        yield (
            stage.name,
            mark + _estimate(volume.all.requests),
            *(("complete", "", "", "", "") if stage.is_complete else (
                mark + _estimate(new.requests),
                _estimate(new.prompt_tokens),
                f"{volume.reused_share:.0%}",
                "about " + _estimate(new.generated_tokens),
                _duration(stage.seconds),
            )),
        )  # fmt: skip


def _totals(forecast: Forecast) -> Iterator[str]:
    volumes = [stage.volume for stage in forecast.stages if stage.volume is not None and not stage.is_complete]
    if volumes:
        tokens = volumes[0].new.tokens
        for volume in volumes[1:]:
            tokens += volume.new.tokens
        yield f"tokens to ask and be answered: about {_estimate(tokens)}"
    complete = [stage.name for stage in forecast.stages if stage.is_complete]
    yield f"there already: {', '.join(complete) if len(complete) < len(forecast.stages) else 'everything'}"
    asking = [stage.asking_seconds for stage in forecast.stages if not stage.is_complete]
    if forecast.window:
        others = sum(stage.other_seconds for stage in forecast.stages if not stage.is_complete)
        waits = ", ".join(forecast.waits_for) or "no stage"
        yield (
            f"time: up to {_duration(forecast.seconds)}: {_duration(others)} here, and up to {forecast.window} for the "
            f"batches of each stage that asks ({waits}), one after the other; mostly less"
        )
    elif forecast.seconds is None or forecast.unit_hours is None:
        yield "time: not known, as nothing tells the generator's speed; leave out --no-calibration"
    else:
        generating = sum(each for each in asking if each is not None)
        yield (
            f"time: about {_duration(forecast.seconds)}, {_duration(generating)} of it generating "
            f"({forecast.unit_hours:.2f} {forecast.unit} hours), by {forecast.speed_source}"
        )
    if forecast.cost is None:
        yield "cost: no price is set (generator.api.prompt_price and generated_price, budget.hour_price)"
    else:
        by = ", by the price of batches" if forecast.window else ""
        yield f"cost: about {_estimate(forecast.cost, decimals=2)}{by}"
    yield f"disk: about {_size(forecast.num_bytes)} below the root, what is there included"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows with aligned columns, all but the first right-aligned."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for first, *others in rows:
        yield "  ".join(
            [f"  {first:<{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))]
        ).rstrip()


def _estimate(number: Estimate, decimals: int = 0) -> str:
    text = f"{number.value:,.{decimals}f}"
    if number.high - number.low < 0.5 * 10**-decimals:
        return text
    return f"{text} [{number.low:,.{decimals}f}, {number.high:,.{decimals}f}]"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _size(num_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} {_UNITS[-1]}"
