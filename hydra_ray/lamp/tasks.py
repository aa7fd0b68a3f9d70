"""Built-in tasks: those of LaMP (Salemi et al., ACL 2024, arXiv 2304.11406) and that of the planted sample."""

from collections.abc import Mapping
from typing import Any, cast

from hydra_ray.config import LampConfig, Sentences, Task, check_settings
from hydra_ray.config.check import did_you_mean, shown
from hydra_ray.config.section import is_plugin
from hydra_ray.errors import ConfigError
from hydra_ray.plugins import call_plugin

_TASK = "lamp.task"

_NEWS_LABELS = (
    "women", "religion", "politics", "style & beauty", "entertainment", "culture & arts", "sports",
    "science & technology", "travel", "business", "crime", "education", "healthy living", "parents", "food & drink",
)  # fmt: skip
_MOVIE_LABELS = (
    "sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy", "classic",
    "psychology", "fantasy", "romance", "thought-provoking", "social commentary", "violence", "true story",
)  # fmt: skip
_RATINGS = ("1", "2", "3", "4", "5")
PLANTED_LABELS = (
    "comedy", "romance", "fantasy", "adventure", "mystery", "violence", "politics", "history", "classic", "psychology",
    "nature", "music",
)  # fmt: skip
"""Topics of the planted-preference sample, in the order of their circle."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="LaMP_1",
            kind="classification",
            instruction="For an author who has written the paper with the title in the first line, which reference is "
            "related? Just answer with [1] or [2] without explanation.",
            input_pattern=r'For an author who has written the paper with the title (?P<input_title>".*?"), '
            r'which reference is related\?.*?explanation\.\s*(?P<input_options>\[1\]:\s*".*"\s+\[2\]:\s*".*")\s*',
            labels=("[1]", "[2]"),
            option_pattern=r'\[1\]:\s*"(.*)"\s+\[2\]:\s*"(.*)"',
            record_input=("abstract",),
            record_output="title",
            is_history_labelled=False,
            history_heading="Papers by this author:",
            sentences=Sentences(
                record='"{output}"',
                records=", and {records}",
                query="For an author who has written the paper with the title{records} {first_line}, which reference "
                "is related? Just answer with [1] or [2] without explanation. {other_lines}",
            ),
            max_tokens=8,
        ),
        Task(
            name="LaMP_2N",
            official_name="LaMP_2",
            kind="classification",
            instruction="Which category does this article relate to among the following categories? Just answer with "
            f"the category name without further explanation. categories: [{', '.join(_NEWS_LABELS)}]",
            input_pattern=r"Which category does this article relate .*?categories: \[[^\]]*\]\s*article:(?P<input>.+)",
            labels=_NEWS_LABELS,
            record_input=("title", "text"),
            record_output="category",
            sentences=Sentences(
                record='the category for the article: "{input}" is "{output}"',
                query="{records}{instruction} article: {input}",
            ),
            max_tokens=8,
        ),
        Task(
            name="LaMP_2M",
            official_name="LaMP_2",
            kind="classification",
            instruction="Which tag does this movie relate to among the following tags? Just answer with the tag name "
            f"without further explanation. tags: [{', '.join(_MOVIE_LABELS)}]",
            input_pattern=r"Which tag does this movie relate to .*?tags: \[[^\]]*\]\s*description:(?P<input>.+)",
            labels=_MOVIE_LABELS,
            record_input=("description",),
            record_output="tag",
            sentences=Sentences(
                record='the tag for the movie: "{input}" is "{output}"',
                query="{records}{instruction} description: {input}",
            ),
            max_tokens=8,
        ),
        Task(
            name="planted",
            kind="classification",
            instruction="Which topic would this reader file the story under? Just answer with the topic name without "
            f"further explanation. topics: [{', '.join(PLANTED_LABELS)}]",
            input_pattern=r"Which topic would this reader .*?topics: \[[^\]]*\]\s*description:(?P<input>.+)",
            labels=PLANTED_LABELS,
            record_input=("description",),
            record_output="tag",
            sentences=Sentences(
                record='the topic of the story: "{input}" is "{output}"',
                query="{records}{instruction} description: {input}",
            ),
            max_tokens=8,
        ),
        Task(
            name="LaMP_3",
            kind="rating",
            instruction="What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, "
            "or 5 without further explanation.",
            input_pattern=r"What is the score .*?without further explanation\.\s*(?:review|movie):(?P<input>.+)",
            labels=_RATINGS,
            record_output="score",
            sentences=Sentences(
                record='{output} is the score for "{input}"', query="{records}{instruction} review: {input}"
            ),
            max_tokens=4,
        ),
        Task(
            name="LaMP_4",
            kind="text",
            instruction="Generate a headline for the following article:",
            input_pattern=r"Generate a headline for the following article:(?P<input>.+)",
            record_output="title",
            sentences=Sentences(record='"{output}" is the title for "{input}"'),
            max_tokens=32,
        ),
        Task(
            name="LaMP_5",
            kind="text",
            instruction="Generate a title for the following abstract of a paper:",
            input_pattern=r"Generate a title for the following abstract of a paper:(?P<input>.+)",
            record_input=("abstract",),
            record_output="title",
            sentences=Sentences(
                record='"{output}" is a title for "{input}"', records="{records}. Following the given patterns "
            ),
            max_tokens=32,
        ),
        Task(
            name="LaMP_6",
            kind="text",
            instruction="Generate a subject for the following email:",
            input_pattern=r"Generate a subject for the following email:(?P<input>.+)",
            record_output="title",
            sentences=Sentences(record='"{output}" is the title for "{input}"'),
            max_tokens=32,
        ),
        Task(
            name="LaMP_7",
            kind="text",
            instruction="Paraphrase the following tweet without any explanation before or after it:",
            input_pattern=r"Paraphrase the following tweet without any explanation before or after it:(?P<input>.+)",
            record_input=(),
            record_output="text",
            sentences=Sentences(
                record='"{output}"',
                records="{records} are written by a person. Following the given patterns ",
            ),
            max_tokens=64,
        ),
    )
}


def task_of(config: LampConfig) -> Task:
    """Return the task of a run, with the metric that the run names: a built-in task, the one described in the
    configuration, or the one that a function of another package describes.

    Raises:
        ConfigError: there is no built-in task of that name, or no such function, or it describes none; or the task is
            judged by equality alone, and a metric is named.
    """
    task = described_task(config)
    if config.metric is None:
        return task
    if task.kind == "preference":
        raise ConfigError(
            f"lamp.metric is {config.metric}, and the task {task.name} is of the kind preference, which is judged by "
            "equality: leave lamp.metric out"
        )
    return task.judged_by(config.metric)


def described_task(config: LampConfig) -> Task:
    """Return the task of a run as its description has it, without a metric.

    Raises:
        ConfigError: as `task_of`.
    """
    if isinstance(config.task, Task):
        return config.task
    if is_plugin(config.task):
        return _task_of_plugin(config.task)
    if config.task not in TASKS:
        raise ConfigError(
            f"lamp.task is {shown(config.task)}; built in are {', '.join(TASKS)}. Describe another one in full (see "
            f"docs/own-data.md){did_you_mean(config.task, [*TASKS])}"
        )
    return TASKS[config.task]


def _task_of_plugin(name: str) -> Task:
    found = call_plugin(name, _TASK)
    if isinstance(found, Task):
        return found
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{_TASK} is {name}, which returned {type(found).__name__}; expected a hydra_ray.config.Task, or a mapping "
            "of its settings"
        )
    return check_settings(Task, cast(Mapping[str, Any], found), source=f"what {name} returned for {_TASK}")
