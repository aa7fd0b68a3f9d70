"""Model card of an export: data, metrics and limits, in sentences with the run's own numbers."""

from collections.abc import Iterator, Mapping

import yaml

from hydra_ray.evaluate.phrases import Report, generator_text
from hydra_ray.evaluate.text_report import report_sections
from hydra_ray.findings import counted

_CAVEATS = "Beware"
"""Title of the section on limits in a run's text report."""


def model_card(report: Report, counters: Mapping[str, float]) -> str:
    """Return the card of the whole folder, in Markdown with the front matter that Hugging Face reads.

    Args:
        report: content of metrics.json.
        counters: counters of the users stage.
    """
    return "\n".join([*_front_matter(report), *_purpose(report), *_data(report, counters), *_metrics(report),
                      *_found(report), *_limits(report), *_privacy(counters)])  # fmt: skip


def base_card(report: Report, scorer: str) -> str:
    """Return the card of one base."""
    base = report["config"][scorer]["base"]
    chosen = "records that stand in a prompt" if scorer == "reranker" else "answer among several drafts"
    number = base["trainable_layers"]
    layers = "all of its layers" if number == "all" else f"its upper {counted(number, 'layer')}"
    trained = (
        f"trained for up to {base['num_epochs']} epochs on the run's training users ({layers} and the projection)"
        if base["num_epochs"]
        else "as it was published, with a projection that was not trained"
    )
    return "\n".join(
        [
            *_front_matter(report),
            f"# HYDRA {scorer}: base",
            "",
            f"The text encoder {base['encoder']}, {trained}. Its {base['width']} projected features"
            f" (`projection.safetensors`) and the handcrafted features named in `base.json` are what heads choose the "
            f"{chosen} by. The folder loads as any Hugging Face encoder; alone it scores nothing: see the card of the "
            "folder above, and `hydra_ray.load_scorer`.",
            "",
        ]
    )


def _front_matter(report: Report) -> Iterator[str]:
    head = {
        "library_name": "transformers",
        "tags": ["hydra", "personalization", "reranker", report["task"]["name"]],
        "base_model": report["config"]["adapter"]["base"]["encoder"],
    }
    yield from ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", ""]


def _purpose(report: Report) -> Iterator[str]:
    task = report["task"]
    yield f"# HYDRA heads of the run {report['run']}"
    yield ""
    yield (
        f"Scores drafts of a black-box generator for one user, task {task['name']} ({task['kind']}): one shared base "
        "and a small head for each user (HYDRA, arXiv 2406.02888)."
    )
    yield from ["", "```python", "from hydra_ray import load_scorer", "", 'scorer = load_scorer("this folder")']
    yield from [
        'scores = scorer.score("a user\'s id", "the query", ["a draft", "another draft"])',
        "scores.choice",
        "```",
    ]
    yield ""
    yield (
        f"The drafts are to be made as the run made them: by {generator_text(report['config'])}, with the prompts "
        f"{', '.join(report['config']['drafts']['prompts'])}. Answers of another generator have other features, and "
        "the figures below do not hold for them."
    )


def _data(report: Report, counters: Mapping[str, float]) -> Iterator[str]:
    num_folds = report["config"]["users"]["num_folds"]
    yield from ["", "## Data", ""]
    yield (
        f"{counters['users']:,.0f} users with {counters['records']:,.0f} records; {counters['train_users']:,.0f} of "
        f"them taught, {counters['new_users']:,.0f} were evaluated, with {report['num_queries']:,} judged queries."
    )
    if num_folds > 1:
        yield (
            f"The run was cross-fitted in {num_folds} folds; the base and heads are those of the first, while the "
            "metrics are over all."
        )


def _metrics(report: Report) -> Iterator[str]:
    main = report["metrics"][0]
    direction = "higher is better" if main["is_higher_better"] else "lower is better"
    level = f"{report['bootstrap']['confidence']:.0%}"
    yield from ["", "## Metrics", "", f"| system | {main['title']} ({direction}) | {level} interval |", "|---|---|---|"]
    for system in report["systems"].values():
        figure = system["metrics"][main["name"]]
        bounds = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
        yield f"| {system['title']} | {figure['value']:.3f} | {bounds} |"


def _found(report: Report) -> Iterator[str]:
    """Yield the run's conclusions, without its limits."""
    for section in report_sections(report):
        if section.title != _CAVEATS:
            yield from ["", f"### {section.title}", "", *(f"- {sentence}" for sentence in section.sentences)]


def _limits(report: Report) -> Iterator[str]:
    yield from ["", "## Limits", ""]
    yield from (
        f"- {each}" for section in report_sections(report) if section.title == _CAVEATS for each in section.sentences
    )
    yield f"- Measured on {report['num_users']:,} users of one task; others, and other languages, were not looked at."
    harmed = report.get("harm") or {}
    if harmed:
        yield '- Personalization can make single answers worse: see "Who is harmed?" above for how often it did.'
    yield "- A user without a head is scored by shared heads, and one without a history by the drafts alone."


def _privacy(counters: Mapping[str, float]) -> Iterator[str]:
    yield from ["", "## Privacy", ""]
    yield (
        f"This folder holds the histories of {counters['users']:,.0f} users in clear, their ids, and the key that "
        "tells in which file a user is: protect it as you protect these. It is a copy outside the run's storage root: "
        "`hydra-ray forget` does not reach it. After users were forgotten, delete it and export the run again."
    )
    yield ""
