"""Comparison of two runs, as sentences and as text for a terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra_ray.evaluate.phrases import MINUS, duration, p_value, plain_figure, signed_with_bounds, verdict
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.findings import counted

Comparison = Mapping[str, Any]
"""Comparison of two runs (see `hydra_ray.evaluate.comparison`)."""
_WIDTH = 110


def comparison_headline(comparison: Comparison) -> str:
    """Return the main conclusion: whether HYDRA answers better in the second run."""
    first, second = comparison["runs"]
    found = change_verdict(comparison, HYDRA)
    if found == "open":
        return f"No difference can be shown between HYDRA in {first} and in {second}"
    return f"HYDRA answers {found} in {second} than in {first}"


def change_verdict(comparison: Comparison, system: str) -> str:
    """Return the conclusion on the second run: "better", "worse" or "open"; interval and corrected test must agree.

    HYDRA's difference is the primary hypothesis of a comparison; its test is not corrected for the other systems.
    """
    main, found = comparison["metrics"][0], comparison["systems"][system]
    p = found["p_value" if system == HYDRA else "adjusted_p_value"]
    said = verdict(found["metrics"][main["name"]]["difference"], main)
    return said if p < 1 - comparison["bootstrap"]["confidence"] else "open"


def comparison_lead(comparison: Comparison) -> str:
    """Return the figures behind the headline."""
    main, found = comparison["metrics"][0], comparison["systems"][HYDRA]
    change = found["metrics"][main["name"]]
    direction = "" if main["is_higher_better"] else " (lower is better)"
    users = found["users"]
    title = main["title"][:1].upper() + main["title"][1:]
    level = f"{100 * comparison['bootstrap']['confidence']:g}% interval over users"
    return (
        f"{title}{direction} {plain_figure(change['values'][0])} in {comparison['runs'][0]}, "
        f"{plain_figure(change['values'][1])} in {comparison['runs'][1]}: {signed_with_bounds(change['difference'])} "
        f"({level}; {found['test']}: {p_value(found['p_value'])}). {counted(users['win'], 'user')} better off, "
        f"{users['loss']:,} worse, {users['tie']:,} the same."
    )


def coverage(comparison: Comparison) -> str:
    """Return the numbers of users and queries in both runs, and in one run only."""
    alone = (
        f"{counted(each['num_users'], 'user')} and {counted(each['num_queries'], 'query', 'queries')} only in {run}"
        for run, each in zip(comparison["runs"], comparison["alone"], strict=True)
    )
    return (
        f"Task {comparison['task']['name']}: {counted(comparison['num_users'], 'user')} and "
        f"{counted(comparison['num_queries'], 'query', 'queries')} in both runs; {'; '.join(alone)}."
    )


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison as text."""
    lines = [comparison_headline(comparison), ""]
    for sentence in (comparison_lead(comparison), coverage(comparison)):
        lines += textwrap.wrap(sentence, _WIDTH)
    main = comparison["metrics"][0]
    lines += ["", f"{main['title']} of each system{'' if main['is_higher_better'] else ' (lower is better)'}"]
    lines += _columns(
        ["", *comparison["runs"], "difference", "better/same/worse users", "p", "Holm"], _systems(comparison)
    )
    lines += [f"  only in {run}: {', '.join(names)}" for run, names in _alone(comparison)]
    differing = [(each["name"], *map(setting_text, each["values"])) for each in comparison["settings"]]
    lines += ["", "Settings that differ" if differing else "No setting differs"]
    lines += _columns(["", *comparison["runs"]], differing) if differing else []
    lines += ["", "Time and tokens of all stages"]
    lines += _columns(["", *comparison["runs"], "difference"], list(total_rows(comparison)))
    same = [stage["name"] for stage in comparison["stages"] if stage["is_same"]]
    if same:
        lines += textwrap.wrap(f"One result for both runs: {', '.join(same)}.", _WIDTH)
    return "\n".join(lines)


def total_rows(comparison: Comparison) -> Iterator[tuple[str, str, str, str]]:
    """Yield for each cost over all stages its name, the two runs' figures, and the difference."""
    for name, values in comparison["totals"].items():
        before, after = (cost_text(name, value) for value in values)
        title = "time" if name == "seconds" else name.replace("_", " ")
        yield title, before, after, "" if None in values else _change_text(name, values[1] - values[0])


def _change_text(name: str, change: float) -> str:
    return ("+" if change >= 0 else MINUS) + cost_text(name, abs(change))


def cost_text(name: str, value: float | None) -> str:
    """Return a cost of a stage in its unit."""
    if value is None:
        return ""
    if name == "seconds":
        return duration(value)
    return f"{value:,.4f}" if name == "cost" else f"{value:,.0f}"


def setting_text(value: Any) -> str:
    """Return the value of a setting; a dash where the run has none."""
    return "-" if value is None else str(value)


def _systems(comparison: Comparison) -> list[Sequence[str]]:
    main = comparison["metrics"][0]
    rows: list[Sequence[str]] = []
    for found in comparison["systems"].values():
        change, users = found["metrics"][main["name"]], found["users"]
        rows.append(
            (
                _title(found),
                *map(plain_figure, change["values"]),
                signed_with_bounds(change["difference"]),
                f"{users['win']}/{users['tie']}/{users['loss']}",
                p_value(found["p_value"]).removeprefix("p = ").removeprefix("p "),
                p_value(found["adjusted_p_value"]).removeprefix("p = ").removeprefix("p "),
            )
        )
    return rows


def _title(found: Mapping[str, Any]) -> str:
    return " / ".join(dict.fromkeys(found["titles"]))


def _alone(comparison: Comparison) -> list[tuple[str, Sequence[str]]]:
    pairs = zip(comparison["runs"], comparison["systems_alone"], strict=True)
    return [(run, names) for run, names in pairs if names]


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in (titles, *rows)
    ]
