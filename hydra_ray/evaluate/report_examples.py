"""Examples of the report's page: each system's answer to a query, and how HYDRA's answer came about."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hydra_ray.evaluate.page_parts import Cell
from hydra_ray.evaluate.phrases import Report, plain_figure, signed_figure
from hydra_ray.evaluate.systems import HYDRA, ORACLE

_FIRST_SYSTEMS = (HYDRA, "zero_shot", "vote", ORACLE)
_SHOWN_DRAFTS = 8
_SHOWN_CHARACTERS = 160
_RETRIEVERS = {"bm25": "BM25", "dense": "dense", "recency": "newest", "random": "random", "hybrid": "hybrid"}
_CHOOSERS = {"rag_k": "retriever", "personal": "personal", "shared": "shared"}
"""Selector of the records, by the name of a prompt with k of them."""
_NAMES = {
    "personal": "own head's records",
    "shared": "shared head's records",
    "shuffled": "another head's records",
    "probe": "one record alone",
    "lead_2": "beginnings of 2 records",
    "lead_k": "beginnings of k records",
}
_SAMPLED, _CUT = " sampled", " cut short"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    """Answer of one system."""

    system: str
    is_own: bool
    """Whether the system is HYDRA itself."""
    value: str | None
    error: str
    """Reason why there is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Rank of a record for one selector."""

    rank: str
    """Empty where the selector did not rank the record."""
    is_in_prompt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """Retrieved record."""

    input: str
    output: str
    places: Sequence[Place]
    """Rank for each selector, in the order of the titles."""
    probe: str | None
    """Generator's answer with this record alone."""
    probe_quality: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTable:
    """Retrieved records with their ranks by the retriever and by the reranker's heads."""

    note: str
    titles: Sequence[Cell]
    rows: Sequence[RecordRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRow:
    """Draft with its scores."""

    is_answer: bool
    """Whether the draft is HYDRA's answer."""
    value: str
    scores: Sequence[str]
    """Score by the own head, then by the shared head."""
    quality: str
    proposals: str
    """Prompts that gave the draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTable:
    """Drafts by the scores of the adapter's heads."""

    note: str
    titles: Sequence[Cell]
    rows: Sequence[DraftRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Query with its answers. Key: user_id, query_id."""

    title: str
    query_id: str
    user_id: str
    input: str
    target: str
    first_answers: Sequence[ShownAnswer]
    """Answers that are not folded away."""
    choice: str
    """System that the gate chose."""
    reason: str
    records: RecordTable | None
    drafts: DraftTable | None
    all_answers: Sequence[ShownAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """All examples of a report."""

    rival: str
    """System that HYDRA is better than, as good as, and worse than."""
    examples: Sequence[Example]


def examples_of(report: Report) -> Examples | None:
    """Return the examples of a report; None where it has none."""
    examples = report["examples"]
    if not examples:
        return None
    rival = report["systems"][examples[0]["rival"]]["title"]
    return Examples(rival=rival, examples=[_example(report, each) for each in examples])


def _example(report: Report, example: Report) -> Example:
    systems = report["systems"]
    rival = systems[example["rival"]]["title"]
    titles = {"better": f"HYDRA better than {rival}", "worse": f"HYDRA worse than {rival}", "same": f"HYDRA as {rival}"}
    # A system may be named twice: the rival can be one of the first ones.
    first = dict.fromkeys((HYDRA, example["rival"], *_FIRST_SYSTEMS))
    choice = example["choice"]
    return Example(
        title=titles[example["outcome"]],
        query_id=example["query_id"],
        user_id=example["user_id"],
        input=example["input"],
        target=example["target"],
        first_answers=_answers(report, example, (name for name in first if name in systems)),
        choice=systems[choice]["title"] if choice in systems else choice,
        reason=example["reason"],
        records=_records(report, example),
        drafts=_drafts(report, example),
        all_answers=_answers(report, example, systems),
    )


def _answers(report: Report, example: Report, names: Iterable[str]) -> list[ShownAnswer]:
    return [
        ShownAnswer(
            system=report["systems"][name]["title"],
            is_own=name == HYDRA,
            value=example["answers"][name]["value"],
            error=example["answers"][name]["error"] or "unknown reason",
        )
        for name in names
    ]


def _records(report: Report, example: Report) -> RecordTable | None:
    """Return the retriever's choice beside the heads'; None where no record could be retrieved."""
    records: Sequence[Report] = example["records"]
    if not records:
        return None
    config = report["config"]
    choosers = {prompt: name for prompt, name in _CHOOSERS.items() if any(name in each["places"] for each in records)}
    method: str = config["retrieve"]["method"]
    names = {"retriever": _RETRIEVERS.get(method, method), "personal": "own head", "shared": "shared head"}
    rows = [
        RecordRow(
            input=_short(record["input"]),
            output=_short(record["output"]),
            places=[_place(record, name, prompt) for prompt, name in choosers.items()],
            probe=None if record["probe"] is None else _short(record["probe"]),
            probe_quality=_quality(record["probe_quality"]),
        )
        for record in records
    ]
    note = (
        "Rank by the retriever and by the reranker's heads; ✓: stood in the prompt with "
        f"k={config['drafts']['num_records']}."
    )
    titles = ["record", *(names[name] for name in choosers.values()), "alone it gave"]
    return RecordTable(note=note, titles=[Cell(title) for title in titles], rows=rows)


def _place(record: Report, name: str, prompt: str) -> Place:
    rank = record["places"].get(name)
    return Place(rank="" if rank is None else str(rank), is_in_prompt=rank is not None and prompt in record["prompts"])


def _drafts(report: Report, example: Report) -> DraftTable | None:
    """Return the scores of the best drafts, and always of HYDRA's answer and of the target; None without drafts."""
    drafts: Sequence[Report] = example["drafts"]
    if not drafts:
        return None
    answer = example["answers"][HYDRA]["value"]
    shown = [
        draft
        for place, draft in enumerate(drafts)
        if place < _SHOWN_DRAFTS or draft["value"] in (answer, example["target"])
    ]
    rows = [
        DraftRow(
            is_answer=draft["value"] == answer,
            value=_short(draft["value"]),
            scores=[
                signed_figure(draft["scores"][head]) if head in draft["scores"] else ""
                for head in ("personal", "shared")
            ],
            quality=_quality(draft["quality"]),
            proposals=_proposals(report, draft["proposals"]),
        )
        for draft in shown
    ]
    hidden = f" {len(drafts) - len(shown)} more are left out." if len(drafts) > len(shown) else ""
    quality = Cell("quality", report["quality_title"])
    return DraftTable(
        note=f"By the adapter's heads, best first; HYDRA's answer is set apart.{hidden}",
        titles=[Cell("answer"), Cell("own head"), Cell("shared head"), quality, Cell("proposed by")],
        rows=rows,
    )


def _proposals(report: Report, proposals: Mapping[str, int]) -> str:
    systems = report["systems"]
    named: list[str] = []
    for name, count in proposals.items():
        whole = name.removesuffix(_CUT)
        prompt = whole.removesuffix(_SAMPLED)
        title = systems[prompt]["title"] if prompt in systems else _NAMES.get(prompt, prompt)
        sampled = f" ({count} sampled)" if whole != prompt else ""
        named.append(title + sampled + name[len(whole) :])
    return ", ".join(named)


def _quality(value: float | None) -> str:
    return "" if value is None else plain_figure(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
