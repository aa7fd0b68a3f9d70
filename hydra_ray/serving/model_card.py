"""Cards of an export, of the models and of the users in it, in sentences with the run's own numbers."""

import re
from collections.abc import Iterator, Mapping

from hydra_ray.evaluate.phrases import Report, generator_text
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.evaluate.text_report import report_sections
from hydra_ray.findings import counted

_CAVEATS = "Beware"
"""Title of the section on limits in a run's text report."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Name of a model on the Hugging Face hub."""


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


def data_card(report: Report, counters: Mapping[str, float]) -> str:
    """Return the card of the users that are exported, in Markdown with the front matter of a data set's card.

    Args:
        report: content of metrics.json.
        counters: counters of the users stage.
    """
    from huggingface_hub import DatasetCardData

    task = report["task"]
    head = DatasetCardData(
        pretty_name=f"Users of the run {report['run']}",
        task_categories=["text-generation" if task["kind"] == "text" else "text-classification"],
        size_categories=_size_of(counters["users"]),
        tags=["hydra", "personalization", task["name"]],
        configs=[{"config_name": "users", "data_files": "stages/users/**/*.parquet"}],
    )
    return "\n".join([
        "---", head.to_yaml(), "---", "",
        f"# Users of the run {report['run']}", "",
        f"The histories of {counters['users']:,.0f} users with {counters['records']:,.0f} records, task {task['name']} "
        f"({task['kind']}), as the run learned from them: rows of `stages/users`, one a user.", "",
        "| column | holds |", "|---|---|",
        "| `user_id` | id of the user, as it was handed in |",
        "| `is_new` | whether the user's queries were evaluated, and not learned from |",
        "| `history` | records: id, input, output and, where known, date |",
        "| `queries` | nothing: queries and their right answers are not exported |", "",
        "## Beware", "",
        "- These are texts of people, in clear. Nobody's consent, licence and language is known to the program that "
        "wrote this card: add them before you pass the folder on.",
        "- Which people and records are in it was decided by who was handed in; samples that could not be read are "
        f"left out ({counters.get('rejected', 0):,.0f}).",
        *_privacy(counters),
    ])  # fmt: skip


def _size_of(num_users: float) -> str:
    """Return the class of size that Hugging Face has for a number of rows."""
    bounds = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
    return next((name for bound, name in bounds if num_users < bound), "10M<n<100M")


def _front_matter(report: Report) -> Iterator[str]:
    from huggingface_hub import EvalResult, ModelCardData

    task = report["task"]
    place = report["config"]["adapter"]["base"]["encoder"].partition("@")[0]
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-ranking",
        tags=["hydra", "personalization", "reranker", task["name"]],
        # The hub refuses a card that names a base that is not there.
        base_model=place if _HUB_NAME.fullmatch(place) else None,
        model_name=f"HYDRA heads of the run {report['run']}",
        eval_results=[
            EvalResult(
                task_type="text-ranking",
                dataset_type=task["name"],
                dataset_name=task["name"],
                metric_type=metric["name"],
                metric_name=metric["title"],
                metric_value=round(report["systems"][HYDRA]["metrics"][metric["name"]]["value"], 4),
            )
            for metric in report["metrics"]
        ],
    )
    yield from ["---", head.to_yaml(), "---", ""]


def _purpose(report: Report) -> Iterator[str]:
    task = report["task"]
    yield f"# HYDRA heads of the run {report['run']}"
    yield ""
    is_preference = task["kind"] == "preference"
    has_scorers = report["config"]["generator"]["engine"] != "none" and not is_preference
    scored = "drafts of a black-box generator" if has_scorers else _without_generator(task["kind"])
    shared = "one shared base and " if has_scorers else ""
    yield (
        f"Scores {scored} for one user, task {task['name']} ({task['kind']}): {shared}a small head for each user "
        "(HYDRA, arXiv 2406.02888)."
    )
    yield from ["", "```python", "from hydra_ray import load_scorer", "", 'scorer = load_scorer("this folder")']
    answers = "" if not is_preference and not has_scorers else ', ["an answer", "another answer"]'
    yield from [f'scores = scorer.score("a user\'s id", "the query"{answers})', "scores.choice", "```"]
    if has_scorers:
        yield ""
        yield (
            f"The drafts are to be made as the run made them: by {generator_text(report['config'])}, with the prompts "
            f"{', '.join(report['config']['drafts']['prompts'])}. Answers of another generator have other features, "
            "and the figures below do not hold for them."
        )
    if plugins := report.get("plugins"):
        names = ", ".join(f"`{each['name']}` ({each['setting']})" for each in plugins)
        yield f"Functions of other packages were used, whose modules must be installed where this folder is: {names}."


def _without_generator(kind: str) -> str:
    return "the candidates that a query brings" if kind == "preference" else "all labels, by records alone,"


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
    yield "- A user without a head is scored by shared heads, and one without a history by the query and answers alone."


def _privacy(counters: Mapping[str, float]) -> Iterator[str]:
    yield from ["", "## Privacy", ""]
    yield (
        f"This folder holds the histories of {counters['users']:,.0f} users in clear, their ids, and the key that "
        "tells in which file a user is: protect it as you protect these. It is a copy outside the run's storage root: "
        "`hydra-ray forget` does not reach it. After users were forgotten, delete it and export the run again."
    )
    yield ""
