"""What a report's numbers allow to be said, in words; every sentence follows from an interval."""

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
"""The content of a metrics.json (see `hydra_ray.evaluate.report`)."""

MINUS = "\N{MINUS SIGN}"

_FEW_USERS = 20


def verdict(difference: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """What the interval of a difference allows to say of the first system: "better", "worse" or "open"."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "open"
    return "better" if (difference["low"] > 0) == metric["is_higher_better"] else "worse"


def headline(report: Report) -> str:
    """The one thing to know: HYDRA against the best system that only prompts."""
    name = report["best_prompt_baseline"]
    if name is None:
        return "HYDRA's answers; no prompt-based system to compare them with"
    title = report["systems"][name]["title"]
    found = verdict(report["differences"][name][report["metrics"][0]["name"]], report["metrics"][0])
    if found == "open":
        return f"No difference can be shown between HYDRA and the best prompt-based baseline, {title}"
    return f"HYDRA answers {found} than the best prompt-based baseline, {title}"


def compared(report: Report, name: str) -> str:
    """The figures behind a verdict on HYDRA and another system, as a sentence."""
    metric = report["metrics"][0]
    systems, difference = report["systems"], report["differences"][name][metric["name"]]
    hydra, other = (systems[each]["metrics"][metric["name"]]["value"] for each in ("hydra", name))
    direction = "" if metric["is_higher_better"] else " (lower is better)"
    change = signed_figure(difference["value"])
    figures = f"{metric['title']}{direction} {hydra:.3f} against {other:.3f}, a difference of {change}"
    if difference["low"] is None:
        return f"{figures}; one user alone gives no interval."
    bounds = f"{signed_figure(difference['low'])} to {signed_figure(difference['high'])}"
    includes = ", which includes 0" if verdict(difference, metric) == "open" else ""
    return f"{figures} ({percent(report)} interval {bounds}{includes})."


def findings(report: Report) -> list[str]:
    """What else the numbers say, a sentence each: simple baselines, whether heads are personal, what to beware of."""
    metric, differences = report["metrics"][0], report["differences"]

    def found(name: str, better: str, worse: str, undecided: str) -> str:
        what = {"better": better, "worse": worse, "open": undecided}[verdict(differences[name][metric["name"]], metric)]
        return f"{what}: {compared(report, name)}"

    sentences: list[str] = []
    simple = report["best_simple_baseline"]
    if simple is not None:
        title = report["systems"][simple]["title"]
        sentences.append(
            found(
                simple,
                f"HYDRA beats the best baseline that only counts, {title}",
                f"HYDRA is worse than the best baseline that only counts, {title}",
                f"No difference to the best baseline that only counts, {title}, can be shown",
            )
        )
    if "hydra_shared" in differences:
        sentences.append(
            found(
                "hydra_shared",
                "The users' own heads beat one head shared by all",
                "The users' own heads are worse than one head shared by all",
                "That the users' own heads differ from one head shared by all cannot be shown",
            )
        )
    if "hydra_shuffled" in differences:
        sentences.append(
            "Control: every user is given another user's heads; what heads know about their users must then be lost. "
            + found(
                "hydra_shuffled",
                "It is lost, so the heads are personal",
                "HYDRA is worse than its control, so the heads mislead",
                "No loss can be shown, so it is not shown that the heads are personal",
            )
        )
    return sentences + _caveats(report)


def _caveats(report: Report) -> list[str]:
    sentences: list[str] = []
    if 1 < report["num_users"] < _FEW_USERS:
        sentences.append(f"Intervals over fewer than {_FEW_USERS} users tend to be too narrow.")
    if report["num_unjudged_queries"]:
        unjudged = counted(report["num_unjudged_queries"], "query", "queries")
        sentences.append(f"Left out for want of a target: {unjudged}.")
    failing = [stage for stage in report["stages"] if stage["failed_fraction"]]
    sentences.extend(
        f"In stage {stage['name']} {stage['failed_fraction']:.1%} of the generator's answers failed or could not be "
        "understood; a system without an answer counts as wrong."
        for stage in failing
    )
    return sentences


def plain_figure(value: float) -> str:
    """A metric's value."""
    return f"{value:.3f}"


def signed_figure(value: float) -> str:
    """A difference, its sign always shown."""
    return f"{value:+.3f}".replace("-", MINUS)


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count and what is counted, in the singular or plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(report: Report) -> str:
    """The level of the intervals."""
    return f"{100 * report['bootstrap']['confidence']:g}%"
