"""The section `lamp.task`: what the generator is asked to do, and how its answers are judged."""

import math
import re
import string
from typing import Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from hydra_ray.config.section import Name, Section
from hydra_ray.errors import InputError


class Sentences(Section):
    """Prompts of a task in LaMP's sentence form (Salemi et al., 2024): records, then the query, in one message.

    Names in braces are filled in; braces that stand for themselves are written twice.
    """

    record: str = '"{output}" is the answer to "{input}"'
    """Sentence of a record: its `{output}`, and mostly its `{input}`."""
    records: str = "{records}. "
    """Frame of the records' sentences, which are joined by ", and " as `{records}`; left out where there is no
    record."""
    query: str = "{records}{instruction} {input}"
    """Whole message: the framed `{records}`, maybe the `{instruction}`, and the bare `{input}`, or in its place the
    `{first_line}` and the `{other_lines}` of it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_template("record", self.record, required={"output"}, optional={"input"})
        _check_template("records", self.records, required={"records"}, optional=set())
        parts = {"input"} if "{input}" in self.query else {"first_line", "other_lines"}
        _check_template("query", self.query, required={"records", *parts}, optional={"instruction"})
        return self


def _check_template(name: str, template: str, required: set[str], optional: set[str]) -> None:
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{name} is no template: {error}; write braces that stand for themselves twice") from error
    names = {field for field, _, _ in parts}
    if not required <= names <= required | optional or any(spec or conversion for _, spec, conversion in parts):
        expected = ", ".join(f"{{{each}}}" for each in sorted(required))
        raise ValueError(f"{name} is {template!r}; it needs {expected} and may have {sorted(optional)}, nothing else")


class Task(Section):
    """Task: what the generator is asked to do, and how its answers are judged."""

    name: Name
    """Name of the task in reports."""
    official_name: str = ""
    """Value of "task" in LaMP's outputs and prediction files; empty takes `name`."""
    kind: Literal["classification", "rating", "text", "preference"]
    """Kind of answer and of its metric. classification: one of `labels`, judged by equality. rating: one of `labels`,
    which are numbers, judged by distance. text: free text, judged by ROUGE. The first two are closed tasks. preference:
    one of the query's own candidates, judged by equality; a generator drafts those of queries that bring none
    (docs/preferences.md)."""
    instruction: str
    """Instruction to the generator, put before every bare input."""
    input_pattern: str = r"(?P<input>.+)"
    """Regular expression (with DOTALL) that the `input` of an official sample must match as a whole; other samples are
    rejected. Its groups, named `input...`, at least one, are the bare input, each a line of its own."""
    labels: tuple[str, ...] = ()
    """Labels: all possible outputs of a closed task, distinct, in a fixed order; empty for the kind text."""
    option_pattern: str = ""
    """Regular expression (with DOTALL) that finds each query's own options in its bare input, for which the labels
    stand: one group a label, in the labels' order. Empty where labels speak for themselves."""
    record_input: tuple[str, ...] = ("text",)
    """Fields of a LaMP history record that together are its input; none where a record has an output only."""
    record_output: str = "output"
    """Field of a LaMP history record that is its output."""
    is_history_labelled: bool = True
    """Whether the output of a record answers its input as a target answers a query. Where not, records are documents of
    the user: their outputs need not be labels, and prompts show them as documents."""
    history_heading: str = "By this user:"
    """Heading of the user's documents in a chat prompt, where `is_history_labelled` is false."""
    sentences: Sentences = Sentences()
    """Prompts in LaMP's sentence form."""
    max_tokens: int = Field(default=32, gt=0)
    """Largest number of the generator's tokens in an answer; must cover the longest label."""
    # Neither a setting nor a part of what is asked: `lamp.metric` names it, and `task_of` hands it on.
    _metric: str | None = PrivateAttr(default=None)

    @property
    def metric(self) -> str | None:
        """Function of another package that judges answers, as `module:name`; None for the metric of the kind."""
        return self._metric

    def judged_by(self, metric: str | None) -> "Task":
        """Return the task with a function of another package as its metric."""
        task = self.model_copy()
        task._metric = metric
        return task

    @property
    def is_closed(self) -> bool:
        """Whether the answer is one of a fixed set of labels."""
        return self.kind in ("classification", "rating")

    @property
    def prediction_name(self) -> str:
        """Value of "task" in prediction files."""
        return self.official_name or self.name

    @property
    def has_labelled_records(self) -> bool:
        """Whether history records show which label goes with which text, or which candidate was chosen."""
        return self.kind != "text" and self.is_history_labelled and bool(self.record_input)

    @property
    def has_pseudo_queries(self) -> bool:
        """Whether a record can be asked as a query: its output is an answer, and it has an input to ask."""
        return self.is_history_labelled and bool(self.record_input)

    def bare_input(self, text: str) -> str | None:
        """Return the query in an official sample's `input`, without the instruction; None where it does not match."""
        match = re.fullmatch(self.input_pattern, text, flags=re.DOTALL)
        if match is None:
            return None
        parts = [(part or "").strip() for name, part in match.groupdict().items() if name.startswith("input")]
        if len(parts) > 1:
            parts = [" ".join(part.split()) for part in parts]
        return "\n".join(parts) if all(parts) else None

    def option_text(self, query_input: str, label: str) -> str:
        """Return the text that `label` stands for in a query: the label itself, or the option that bears it.

        Raises:
            InputError: the task has options, and the query has none.
        """
        if not self.option_pattern:
            return label
        match = re.search(self.option_pattern, query_input, flags=re.DOTALL)
        if match is None:
            raise InputError(
                f"got a query of {self.name} with {len(query_input)} characters and no options; expected them as in "
                f"lamp.task.option_pattern, {self.option_pattern!r}"
            )
        return match[1 + self.labels.index(label)].strip()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_closed != bool(self.labels):
            raise ValueError("labels are needed for kinds classification and rating, and only there")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        if self.kind == "rating":
            for label in self.labels:
                _require_number(label)
        if self.kind == "preference" and (self.option_pattern or not self.has_labelled_records):
            raise ValueError(
                "the kind preference has no option_pattern, and records that are labelled: leave option_pattern, "
                "is_history_labelled and record_input out"
            )
        if not any(name.startswith("input") for name in _compiled("input_pattern", self.input_pattern).groupindex):
            raise ValueError("input_pattern needs a group named 'input'")
        if self.option_pattern and _compiled("option_pattern", self.option_pattern).groups != len(self.labels):
            raise ValueError(f"option_pattern needs one group for each of the {len(self.labels)} labels")
        return self


def _require_number(label: str) -> None:
    try:
        is_number = math.isfinite(float(label))
    except ValueError:
        is_number = False
    if not is_number:
        raise ValueError(f"labels of the kind rating are numbers, got {label[:60]!r}")


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"{name} is no regular expression: {error}") from error
