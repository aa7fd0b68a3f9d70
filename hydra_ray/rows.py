"""Typed rows that stages exchange, and the Arrow schemas derived from them.

A row is a frozen, slotted, keyword-only dataclass; its docstring states its key. `arrow_schema` derives from a row type
the schema that is checked whenever a table is read, so the dataclasses are the only definition of a table.
"""

# pyarrow has no type stubs:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

import collections
import dataclasses
import functools
import itertools
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pyarrow as pa

RowT = TypeVar("RowT")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One past interaction of a user: an input and the output the user gave it. Key: (user_id, record_id)."""

    record_id: str
    input: str
    output: str
    date: int | None = None
    """Seconds since 1970 (UTC); None where the source has no dates."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question of a user; `input` is bare, without the task's instruction. Key: (user_id, query_id)."""

    query_id: str
    input: str
    target: str | None
    """Correct output; None where it is not known."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user with history and queries. Key: user_id."""

    user_id: str
    is_new: bool
    """True: only the history may be trained on. False: the queries' targets may be too, except in `fold`."""
    fold: int | None = None
    """Fold of a cross-fitted run in which the user is new; None where the run's splits decide who is new."""
    history: tuple[Record, ...]
    queries: tuple[Query, ...]

    def is_evaluated(self) -> bool:
        """Return whether the user is new in at least one fold, so that the answers to the user's queries are
        evaluated."""
        return self.is_new or self.fold is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JudgedDraft:
    """Draft of a judged query. Key: (user_id, judgement_id, text)."""

    text: str
    plain: tuple[float, ...]
    """Handcrafted features that the draft had among the others when the query was answered."""
    quality: float
    """Quality by what the user said (0 to 1, higher is better)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a user said of the drafts of a query that is answered by free text. Key: (user_id, judgement_id)."""

    judgement_id: str
    input: str
    is_preference: bool
    """True: quality is 1 of the drafts that are better than the others, else 0. False: it is the task's metric of each
    draft against the user's own text."""
    features: tuple[str, ...]
    """Names of the handcrafted features, in order."""
    drafts: tuple[JudgedDraft, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JudgingUser:
    """A row of the judgements table. Key: user_id."""

    user_id: str
    judgements: tuple[Judgement, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An input sample that could not be used. Key: (source, position)."""

    source: str
    """File that the sample is in."""
    position: int
    """Index of the sample in its file, from 0."""
    sample_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """A record retrieved for a query. Key: (user_id, query_id, record_id)."""

    record_id: str
    score: float
    """The retriever's score; higher is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One parsed answer of the generator.

    `text` is the generated text. `value` is the parsed answer (a label, a text), or None where the text could not be
    parsed; then `error` says why. Exactly one of `value` and `error` is set.
    """

    text: str
    value: str | None
    error: str | None
    is_exact: bool
    """False where an unambiguous label was found inside a longer text."""
    num_tokens: int
    """Number of generated tokens."""
    log_probability: float | None = None
    """Log-probability of the whole text, in nats; None where the generator does not report it."""
    label_probabilities: tuple[float, ...] = ()
    """Generator's probability of each label of a closed task, estimated from its most likely first tokens; empty where
    it does not report them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledUser:
    """A row of the profiles table. Key: user_id."""

    user_id: str
    profile: str | None
    """Generated description of the user; None where none was requested or it failed."""
    error: str | None
    """Reason why there is no profile; None where there is one or none was requested."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Generated answer with one record as its example. Key: (user_id, query_id, record_id)."""

    record_id: str
    answer: Answer
    quality: float | None
    """Quality of the answer by the task's metric (0 to 1, higher is better); None where the answer failed, or where the
    query's target must not be known."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbedQuery:
    """A query with its retrieved records and a probe for each of them.

    Key: (user_id, query_id). A pseudo-query's query_id is "record:" and the id of the record it was made from.
    """

    query_id: str
    is_pseudo: bool
    retrieved: tuple[Retrieved, ...]
    """Retrieved records, best first."""
    probes: tuple[Probe, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbedUser:
    """A row of the probes table. Key: user_id."""

    user_id: str
    is_new: bool
    queries: tuple[ProbedQuery, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An item that a scorer can choose: a record (reranker), a draft or a label (adapter).

    Key: (user_id, group_id, candidate_id).
    """

    candidate_id: str
    text: str
    plain: tuple[float, ...]
    """Handcrafted features, in the order of the scorer's `handcrafted_names`."""
    quality: float | None
    """Quality (0 to 1, higher is better); None where it is unknown or must not be known (an evaluated query)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Candidates of one query, among which a scorer chooses. Key: (user_id, group_id)."""

    group_id: str
    query_id: str
    variant: str
    """Selector of the records that the candidates were made from: one of VARIANTS; "personal" where none was needed."""
    is_pseudo: bool
    query: str
    candidates: tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UserExamples:
    """A row of a scorer's examples table. Key: user_id."""

    user_id: str
    is_new: bool
    fold: int | None = None
    history: tuple[float, ...] = ()
    """Encoder features of the records that may be used for each group's query, concatenated group by group; empty where
    no heads are routed by them."""
    groups: tuple[Group, ...]


VARIANTS = ("personal", "shared", "shuffled", "retrieved")
"""Selectors of a prompt's records: the user's own head, the shared head, another user's head (the control), or the
retriever alone."""
HEADS = ("personal", "shared", "shuffled", "routed")
"""Heads that score a candidate: the user's own, the shared one, another user's (the control), or several shared ones
mixed by the user's history."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """One candidate's score by each of HEADS. Key: (user_id, group_id, candidate_id).

    In the group of a pseudo-query `personal` is out of fold: its head was fitted without that pseudo-query.
    """

    candidate_id: str
    personal: float
    shared: float
    shuffled: float
    routed: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """Scores of a group's candidates. Key: (user_id, group_id)."""

    group_id: str
    query_id: str
    variant: str
    is_pseudo: bool
    candidates: tuple[CandidateScore, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoredUser:
    """A row of a scorer's scores table. Key: user_id."""

    user_id: str
    is_new: bool
    head: str
    """Name of the head kind that was best for this user on held-out history."""
    groups: tuple[ScoredGroup, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One answer to one prompt of a query. Key: (user_id, query_id, prompt, temperature, sample)."""

    prompt: str
    """Name of the prompt (see `hydra_ray.adapt.prompting`)."""
    temperature: float
    """Sampling temperature; 0 is greedy."""
    sample: int
    """Index among the samples of this temperature."""
    answer: Answer
    quality: float | None
    """Quality as in `Probe`; None for evaluated queries and failed answers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecords:
    """Records shown in one prompt of a query. Key: (user_id, query_id, prompt)."""

    prompt: str
    record_ids: tuple[str, ...]
    """Ids of the records, best first."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DraftedQuery:
    """A query with its drafts. Key: (user_id, query_id)."""

    query_id: str
    is_pseudo: bool
    prompts: tuple[PromptRecords, ...]
    drafts: tuple[Draft, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DraftedUser:
    """A row of the drafts table. Key: user_id."""

    user_id: str
    is_new: bool
    queries: tuple[DraftedQuery, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GateOutcome:
    """Quality of the systems that the gate chooses among, for one user in one fold. Key: (user_id, fold)."""

    user_id: str
    fold: int
    is_new: bool
    """Whether the user is new in this fold."""
    pseudo: tuple[float, ...]
    """Mean held-out quality of each system's answers to the pseudo-queries; empty where there is none."""
    num_pseudo: int
    queries: tuple[float, ...]
    """Mean quality of each system's answers to the user's own queries; empty where they may not be trained on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelLogs:
    """Log probabilities of the labels of one query of a closed task, without a generator. Key: (user_id, query_id).

    A pseudo-query's are held out: its record, and others that share its item, were not used.
    """

    query_id: str
    by_text: tuple[float, ...]
    """By the text alone, which knows no user."""
    by_records: tuple[float, ...]
    """By the user's records too, which all users' weights read alike."""
    by_own: tuple[float, ...]
    """By the user's own head too."""
    by_other: tuple[float, ...]
    """By another user's own head in its place, and nothing else changed; empty for a pseudo-query."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UserLabelLogs:
    """A row of the labels table. Key: user_id."""

    user_id: str
    is_new: bool
    queries: tuple[LabelLogs, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SystemAnswer:
    """Answer of one compared system to a query. Key: (user_id, query_id, system)."""

    system: str
    value: str | None
    error: str | None
    """Reason why there is no value; None where there is one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredQuery:
    """Answers of all systems to one evaluated query. Key: (user_id, query_id)."""

    query_id: str
    answers: tuple[SystemAnswer, ...]
    pool: tuple[str, ...]
    """Distinct generated answers that the personalized adapter could choose among."""
    resampled: tuple[str, ...] = ()
    """Parsed samples of the retriever's prompt, which measure how much the generator varies."""
    choice: str = "hydra_personal"
    """System that the gate chose, whose answer is HYDRA's."""
    reason: str = ""
    """Reason of the choice: the expected qualities that the gate compared, as text."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredUser:
    """A row of the answers table; new users only. Key: user_id."""

    user_id: str
    num_history: int
    reranker_head: str
    adapter_head: str
    queries: tuple[AnsweredQuery, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The personalized answer to a query, as in the official predictions. Key: (user_id, query_id)."""

    user_id: str
    query_id: str
    prediction_id: str
    """Id in predictions.json."""
    answer: str
    choice: str
    """System that the gate chose, whose answer this is."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to the generator. Key: request_id, a hash of everything else: equal requests have one answer."""

    request_id: str
    user_id: str
    messages: tuple[Message, ...]
    num_samples: int
    temperature: float
    """Sampling temperature; 0 is greedy."""
    max_tokens: int
    choices: tuple[str, ...]
    """Only texts that may be generated, where the generator can be constrained; empty for free text."""
    num_top_tokens: int
    """Number of most likely first tokens to report, where the generator can."""
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request as it travels to the generator. Key: request.request_id.

    Whatever an engine takes as text has none of the other fields.
    """

    request: Request
    token_ids: tuple[int, ...] = ()
    """The messages, rendered and tokenized."""
    seed: int | None = None
    """Seed of the first sample; None where sampling is greedy."""
    opens_thought: bool = False
    """Whether the rendered messages end inside a thought."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request with the key of what its answer is for. Key: key, unique within a part."""

    key: str
    request: Request


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A candidate token of the generator with its probability."""

    text: str
    log_probability: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generated text."""

    text: str
    """The answer, without the thought before it."""
    num_tokens: int
    """Number of generated tokens, those of the thought included."""
    finish_reason: str
    log_probability: float | None = None
    """Log-probability of the whole text, in nats, before any constraint; None where the generator does not report
    it."""
    first_tokens: tuple[Token, ...] = ()
    """Most likely first tokens, before any constraint; empty where they were not requested or are not reported."""
    thought_tokens: int = 0
    """Number of tokens of the thought before the answer, approximate where it is not reported; 0 without a thought."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Result of a request: num_samples generations, or an error. Key: request_id."""

    request_id: str
    user_id: str
    prompt_tokens: int
    generations: tuple[Generation, ...]
    error: str | None
    """Reason why there are no generations, without any text of the user; None where there are."""
    failure: str | None = None
    """Kind of the error, one of `hydra_ray.generate.failures.FailureKind`; None without an error."""
    attempts: int = 1
    """Number of calls of the generator."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An answer that the generator did not give or that cannot be used; a row of an `errors` table.

    Key: (request_id, sample).
    """

    user_id: str
    request_id: str
    sample: int | None
    """Index among the samples of the request; None where the whole request failed."""
    kind: str
    """One of `hydra_ray.generate.failures.FailureKind`."""
    message: str
    """Error message without any text of the user."""
    attempts: int


@functools.cache
def arrow_schema(row_type: type) -> pa.Schema:
    """Return the Arrow schema of a table whose rows are `row_type`."""
    return pa.schema(_arrow_fields(row_type))


def arrow_list(element: pa.DataType, *, nullable: bool = False) -> pa.DataType:
    """Return a list type whose elements are named as Parquet names them, so that the schema survives storage."""
    return pa.list_(pa.field("element", element, nullable=nullable))


def to_table(rows: Iterable[Any], row_type: type) -> pa.Table:
    """Return a table of `rows`, each an instance of `row_type`; made column by column, since rows are many."""
    schema = arrow_schema(row_type)
    return pa.Table.from_arrays(_columns(list(rows), schema), schema=schema)


def from_table(table: pa.Table, row_type: type[RowT]) -> Iterator[RowT]:
    """Yield the typed rows of `table`, made column by column for each of its chunks; fields with a default may be
    missing."""
    for batch in table.to_batches():
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        yield from _rows_of(columns, batch.num_rows, row_type)


def to_dict(row: Any) -> dict[str, Any]:
    """Return nested plain dicts and tuples of a row: dataclasses.asdict without its copies, several times as fast."""
    return {name: flatten(getattr(row, name)) for name, flatten in _flatteners(type(row))}


def from_dict(value: dict[str, Any], row_type: type[RowT]) -> RowT:
    """Return the row given as nested plain dicts and lists; fields with a default may be missing."""
    return row_type(
        **{
            name: build(value[name])
            for name, build, has_default in _builders(row_type)
            if name in value or not has_default
        }
    )


def _columns(rows: list[Any], fields: Iterable[pa.Field]) -> list[pa.Array]:
    """Return an array for each field of some rows."""
    return [_array(list(map(operator.attrgetter(field.name), rows)), field) for field in fields]


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    """Return an array of values as rows have them: scalars, tuples or rows, or None."""
    is_list = pa.types.is_list(field.type)
    if not is_list and not pa.types.is_struct(field.type):
        return pa.array(values, field.type)
    if field.nullable and any(value is None for value in values):
        places = itertools.count()
        taken = [None if value is None else next(places) for value in values]
        there = [value for value in values if value is not None]
        return _array(there, field.with_nullable(False)).take(pa.array(taken, pa.int64()))
    if not is_list:
        return pa.StructArray.from_arrays(_columns(values, field.type), fields=list(field.type))
    offsets = pa.array(itertools.accumulate(map(len, values), initial=0), pa.int32())
    elements = _array(list(itertools.chain.from_iterable(values)), field.type.value_field)
    return pa.ListArray.from_arrays(offsets, elements, type=field.type)


def _rows_of(columns: Mapping[str, pa.Array], num_rows: int, row_type: type[RowT]) -> list[RowT]:
    """Return the rows of some columns: the opposite of `_columns`, in a fifth of the time of a call for each row."""
    rows = [object.__new__(row_type) for _ in range(num_rows)]
    hints = typing.get_type_hints(row_type)
    for field in dataclasses.fields(typing.cast(Any, row_type)):
        if field.name in columns or field.default is dataclasses.MISSING:
            values = _values(columns[field.name], _without_none(hints[field.name])[0])
        else:
            values = itertools.repeat(field.default, num_rows)
        assign = vars(row_type)[field.name].__set__  # of the slot, which frozen rows have too
        collections.deque(map(assign, rows, values), maxlen=0)
    return rows


def _values(array: pa.Array, hint: Any) -> list[Any]:
    """Return the values of an array as rows have them: the opposite of `_array`."""
    if typing.get_origin(hint) is tuple:
        flat, ends = _flattened(array)
        elements = tuple(_values(flat, typing.get_args(hint)[0]))
        values: list[Any] = [elements[start:end] for start, end in itertools.pairwise(ends)]
    elif dataclasses.is_dataclass(hint):
        columns = {field.name: array.field(place) for place, field in enumerate(array.type)}
        values = _rows_of(columns, len(array), typing.cast(type, hint))
    else:
        return array.to_pylist()
    if array.null_count:
        is_there = array.is_valid().to_pylist()
        return [value if each else None for value, each in zip(values, is_there, strict=True)]
    return values


def _flattened(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """Return the elements of all lists, and where each list begins among them and the last one ends."""
    if array.null_count:
        return array.flatten(), [*itertools.accumulate(array.value_lengths().fill_null(0).to_pylist(), initial=0)]
    # Without pyarrow.compute, whose import takes longer than to look up a row.
    first, *others = array.offsets.to_pylist()
    ends = [0, *(offset - first for offset in others)]
    return array.values.slice(first, ends[-1]), ends


def _arrow_fields(row_type: type) -> list[pa.Field]:
    hints = typing.get_type_hints(row_type)
    fields: list[pa.Field] = []
    for field in dataclasses.fields(row_type):
        hint, nullable = _without_none(hints[field.name])
        fields.append(pa.field(field.name, _arrow_type(hint), nullable=nullable))
    return fields


_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def _arrow_type(hint: Any) -> pa.DataType:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if typing.get_origin(hint) is tuple:
        return arrow_list(_arrow_type(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return pa.struct(_arrow_fields(typing.cast(type, hint)))
    raise TypeError(f"no Arrow type for {hint!r}")


def _without_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType):
        kept = [member for member in typing.get_args(hint) if member is not type(None)]
        assert len(kept) == 1, hint
        return kept[0], True
    return hint, False


@functools.cache
def _builders(row_type: type) -> list[tuple[str, Callable[[Any], Any], bool]]:
    """Return each field's name, the function that builds its value, and whether it has a default."""
    hints = typing.get_type_hints(row_type)
    return [
        (field.name, _builder(_without_none(hints[field.name])[0]), field.default is not dataclasses.MISSING)
        for field in dataclasses.fields(row_type)
    ]


def _builder(hint: Any) -> Callable[[Any], Any]:
    if typing.get_origin(hint) is tuple:
        build_element = _builder(typing.get_args(hint)[0])
        return lambda values: tuple(map(build_element, values))
    if dataclasses.is_dataclass(hint):
        return functools.partial(from_dict, row_type=typing.cast(type, hint))
    return _same


def _same(value: Any) -> Any:
    return value


@functools.cache
def _flatteners(row_type: type) -> list[tuple[str, Callable[[Any], Any]]]:
    hints = typing.get_type_hints(row_type)
    return [(field.name, _flattener(_without_none(hints[field.name])[0])) for field in dataclasses.fields(row_type)]


def _flattener(hint: Any) -> Callable[[Any], Any]:
    if typing.get_origin(hint) is tuple:
        flatten_element = _flattener(typing.get_args(hint)[0])
        return _same if flatten_element is _same else lambda values: [flatten_element(value) for value in values]
    return to_dict if dataclasses.is_dataclass(hint) else _same
