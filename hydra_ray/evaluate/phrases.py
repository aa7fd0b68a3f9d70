"""Phrases for figures: formats of numbers, and verdicts that an interval or a test permits."""

from collections.abc import Mapping
from typing import Any

from hydra_ray.config.section import is_plugin
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.findings import counted

Report = Mapping[str, Any]
"""Content of a metrics.json (see `hydra_ray.evaluate.report`)."""

Figure = Mapping[str, Any]
"""Keys value, low and high."""

MINUS = "\N{MINUS SIGN}"


def verdict(difference: Figure, metric: Mapping[str, Any]) -> str:
    """Return the verdict on the first system that the interval of a difference permits: "better", "worse" or "open"."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "open"
    return "better" if (difference["low"] > 0) == metric["is_higher_better"] else "worse"


def headline(report: Report) -> str:
    """Return the main conclusion: HYDRA against the best system that only prompts, or else only counts."""
    name, kind = report["best_prompt_baseline"], "prompt-based baseline"
    if name is None:
        name, kind = report["best_simple_baseline"], "baseline that only counts"
    if name is None:
        return "HYDRA's answers; no baseline to compare them with"
    title = report["systems"][name]["title"]
    found = pair_verdict(report, HYDRA, name)
    if found == "open":
        metric = report["metrics"][0]
        apparent = verdict(report["differences"][HYDRA][name][metric["name"]], metric)
        if apparent != "open":
            num_tests = len(report["significance"][HYDRA])
            return (
                f"HYDRA answers {apparent} than the best {kind}, {title}, by its interval alone; "
                f"corrected for {counted(num_tests, 'comparison')} no difference is shown"
            )
        return f"No difference can be shown between HYDRA and the best {kind}, {title}"
    return f"HYDRA answers {found} than the best {kind}, {title}"


def pair_verdict(report: Report, first: str, second: str) -> str:
    """Return the verdict on two systems by the main metric: "open" too if the corrected test is not significant."""
    metric = report["metrics"][0]
    found = verdict(report["differences"][first][second][metric["name"]], metric)
    return found if _is_confirmed(report, first, second) else "open"


def _is_confirmed(report: Report, first: str, second: str) -> bool:
    # The oracle knows the targets, so that its difference is not tested.
    test = report["significance"][first].get(second)
    return test is None or test["adjusted_p_value"] < 1 - report["bootstrap"]["confidence"]


def compared(report: Report, first: str, second: str) -> str:
    """Return the figures behind a verdict on two systems, as a sentence."""
    metric = report["metrics"][0]
    difference = report["differences"][first][second][metric["name"]]
    values = [report["systems"][each]["metrics"][metric["name"]]["value"] for each in (first, second)]
    direction = "" if metric["is_higher_better"] else " (lower is better)"
    change = signed_figure(difference["value"])
    figures = f"{metric['title']}{direction} {values[0]:.3f} against {values[1]:.3f}, a difference of {change}"
    if difference["low"] is None:
        return f"{figures}; one user alone gives no interval."
    bounds = f"{percent(report)} interval {signed_bounds(difference)}"
    includes = ", which includes 0" if verdict(difference, metric) == "open" else ""
    return f"{figures} ({bounds}{includes}{_tested(report, first, second)})."


def _tested(report: Report, first: str, second: str) -> str:
    test = report["significance"][first].get(second)
    if test is None:
        return ""
    text = f"; {p_value(test['p_value'])}"
    num_tests = len(report["significance"][first])
    if num_tests > 1:
        text += f", {p_value(test['adjusted_p_value'])} when corrected for {num_tests} comparisons"
    return text


def plain_figure(value: float) -> str:
    """Format a metric's value."""
    return f"{value:.3f}"


def signed_figure(value: float) -> str:
    """Format a difference, always with its sign."""
    return f"{value:+.3f}".replace("-", MINUS)


def signed_bounds(figure: Figure) -> str:
    """Format the interval of a difference."""
    return f"{signed_figure(figure['low'])} to {signed_figure(figure['high'])}"


def figure_with_bounds(figure: Figure) -> str:
    """Format a metric's value with its interval, if it has one."""
    shown = plain_figure(figure["value"])
    return (
        shown if figure["low"] is None else f"{shown} [{plain_figure(figure['low'])}, {plain_figure(figure['high'])}]"
    )


def signed_with_bounds(figure: Figure) -> str:
    """Format a difference with its interval, if it has one."""
    if figure["low"] is None:
        return signed_figure(figure["value"])
    return f"{signed_figure(figure['value'])} [{signed_figure(figure['low'])}, {signed_figure(figure['high'])}]"


def share(value: float) -> str:
    """Format a fraction in percent."""
    text = f"{value:.1%}"
    return "0.0%" if text == "-0.0%" else text.replace("-", MINUS)


def share_with_bounds(figure: Figure) -> str:
    """Format a fraction with its interval."""
    if figure["low"] is None:
        return share(figure["value"])
    return f"{share(figure['value'])} [{share(figure['low'])} to {share(figure['high'])}]"


def generator_text(config: Mapping[str, Any]) -> str:
    """Return who answered: a loaded model, a model at an endpoint, or a rule in a generator's place.

    Args:
        config: configuration of a run, as plain values.
    """
    generator = config["generator"]
    api, engine = generator.get("api"), generator["engine"]
    if engine == "fake":
        return "a fixed rule (engine fake), to try everything around a generator"
    if is_plugin(engine):
        return f"{engine}, an engine of another package"
    if api is None:
        return f"{generator['model']}, loaded by {'vLLM' if engine == 'vllm' else engine}"
    batches = ", in batches" if engine == "openai_batch" else ""
    version = f" ({api['model_version']})" if api.get("model_version") else ""
    return f"{api['model']}{version} at {api['base_url']}{batches}"


def is_priced(report: Report) -> bool:
    """Return whether what a run cost is known: its configuration sets prices, or its stages were made with some."""
    config = report["config"]
    api: dict[str, Any] = config["generator"].get("api") or {}
    prices = (api.get("prompt_price"), api.get("generated_price"), config["budget"].get("hour_price"))
    return any(prices) or bool(report["totals"].get("cost"))


def p_value(value: float) -> str:
    """Format a p-value with its letter."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def span(low: int, high: int) -> str:
    """Format a range of counts."""
    return f"{low:,} to {high:,}" if low < high else f"{low:,}"


def duration(seconds: float) -> str:
    """Format a time in the two largest of its units."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def percent(report: Report) -> str:
    """Format the confidence level of the intervals."""
    return f"{100 * report['bootstrap']['confidence']:g}%"
