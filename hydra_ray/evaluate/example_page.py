"""The examples of the report's page: what each system answered, and how HYDRA's answer came about."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hydra_ray.evaluate.html_page import folded
from hydra_ray.evaluate.phrases import Report, plain_figure, signed_figure
from hydra_ray.evaluate.report_tables import mark, table
from hydra_ray.evaluate.systems import HYDRA, ORACLE

_FIRST_SYSTEMS = (HYDRA, "zero_shot", "vote", ORACLE)
_SHOWN_DRAFTS = 8
_SHOWN_CHARACTERS = 160
_RETRIEVERS = {"bm25": "BM25", "dense": "dense", "recency": "newest", "random": "random", "hybrid": "hybrid"}
_CHOOSERS = {"rag_k": "retriever", "personal": "personal", "shared": "shared"}
"""By the name of a prompt with k records: who chose them."""
_NAMES = {
    "personal": "own head's records",
    "shared": "shared head's records",
    "shuffled": "another head's records",
    "probe": "one record alone",
    "lead_2": "beginnings of 2 records",
    "lead_k": "beginnings of k records",
}
_SAMPLED, _CUT = " sampled", " cut short"


def examples_html(report: Report) -> str:
    """All examples with the sentence that says how they were taken."""
    examples = report["examples"]
    if not examples:
        return "<p class='note'>None were kept.</p>"
    rival = escape(report["systems"][examples[0]["rival"]]["title"])
    articles = "".join(_example(report, each) for each in examples)
    return (
        f"<p class='note'>The first few queries, in table order, on which HYDRA is better than {rival}, as good, and "
        f'worse.</p><div class="examples">{articles}</div>'
    )


def _example(report: Report, example: Report) -> str:
    systems = report["systems"]
    rival = escape(systems[example["rival"]]["title"])
    words = {"better": f"HYDRA better than {rival}", "worse": f"HYDRA worse than {rival}", "same": f"HYDRA as {rival}"}
    first = [name for name in (*_FIRST_SYSTEMS[:1], example["rival"], *_FIRST_SYSTEMS[1:]) if name in systems]
    choice = example["choice"]
    chosen = escape(systems[choice]["title"] if choice in systems else choice)
    others = f"<dl>{_answers(report, example, systems)}</dl><p class='note'>{escape(example['reason'])}</p>"
    return (
        f"<article><h3>{words[example['outcome']]}</h3>"
        f"<span class='note'>query {escape(example['query_id'])} of user {escape(example['user_id'])}</span>"
        f'<blockquote tabindex="0">{escape(example["input"])}</blockquote>'
        f"<dl><dt>Target</dt><dd><strong>{escape(example['target'])}</strong></dd>"
        f"{_answers(report, example, dict.fromkeys(first))}<dt>The gate chose</dt><dd>{chosen}</dd></dl>"
        f"{_records(report, example)}{_drafts(report, example)}"
        f"{folded('Answers of all systems, and why the gate chose so', others)}</article>"
    )


def _answers(report: Report, example: Report, names: Mapping[str, Any]) -> str:
    return "".join(
        f"<dt>{escape(report['systems'][name]['title'])}</dt><dd{mark(name)}>{_answer(example['answers'][name])}</dd>"
        for name in names
    )


def _answer(answer: Mapping[str, str | None]) -> str:
    if answer["value"] is None:
        return f"<span class='missing'>none: {escape(answer['error'] or 'unknown reason')}</span>"
    return escape(answer["value"])


def _records(report: Report, example: Report) -> str:
    """What the retriever chose beside what the heads chose; nothing where no record could be retrieved."""
    records: Sequence[Report] = example["records"]
    if not records:
        return ""
    config = report["config"]
    choosers = {prompt: name for prompt, name in _CHOOSERS.items() if any(name in each["places"] for each in records)}
    titles = {"retriever": _RETRIEVERS[config["retrieve"]["method"]], "personal": "own head", "shared": "shared head"}
    rows = [
        (
            "",
            f"{escape(_short(record['input']))} <strong>→ {escape(_short(record['output']))}</strong>",
            *(_place(record, name, prompt) for prompt, name in choosers.items()),
            _wrapped(_judged(record["probe"], record["probe_quality"])),
        )
        for record in records
    ]
    caption = (
        "Records that were retrieved <small>Rank by the retriever and by the reranker's heads; ✓: stood in the prompt "
        f"with k={config['drafts']['num_records']}.</small>"
    )
    return table(caption, ["record", *(titles[name] for name in choosers.values()), "alone it gave"], rows)


def _place(record: Report, name: str, prompt: str) -> str:
    place = record["places"].get(name)
    if place is None:
        return ""
    return f"<strong>✓ {place}</strong>" if prompt in record["prompts"] else str(place)


def _drafts(report: Report, example: Report) -> str:
    """What the drafts scored; the answers of HYDRA and the target are always among those shown."""
    drafts: Sequence[Report] = example["drafts"]
    if not drafts:
        return ""
    answer = example["answers"][HYDRA]["value"]
    shown = [
        draft
        for place, draft in enumerate(drafts)
        if place < _SHOWN_DRAFTS or draft["value"] in (answer, example["target"])
    ]
    rows = [
        (
            HYDRA if draft["value"] == answer else "",
            escape(_short(draft["value"])),
            *(
                signed_figure(draft["scores"][head]) if head in draft["scores"] else ""
                for head in ("personal", "shared")
            ),
            "" if draft["quality"] is None else plain_figure(draft["quality"]),
            _proposals(report, draft["proposals"]),
        )
        for draft in shown
    ]
    hidden = f" {len(drafts) - len(shown)} more are left out." if len(drafts) > len(shown) else ""
    note = f"By the adapter's heads, best first; HYDRA's answer is set apart.{hidden}"
    quality = f"quality<br><small>{escape(report['quality_title'])}</small>"
    return table(
        f"What each draft scored <small>{note}</small>",
        ["answer", "own head", "shared head", quality, "proposed by"],
        rows,
    )


def _proposals(report: Report, proposals: Mapping[str, int]) -> str:
    systems = report["systems"]
    named: list[str] = []
    for name, count in proposals.items():
        whole = name.removesuffix(_CUT)
        prompt = whole.removesuffix(_SAMPLED)
        title = systems[prompt]["title"] if prompt in systems else _NAMES.get(prompt, prompt)
        sampled = f" ({count} sampled)" if whole != prompt else ""
        named.append(escape(title + sampled + name[len(whole) :]))
    return _wrapped(", ".join(named))


def _judged(value: str | None, quality: float | None) -> str:
    if value is None:
        return "<span class='missing'>nothing</span>"
    return escape(_short(value)) + ("" if quality is None else f" <small>{plain_figure(quality)}</small>")


def _wrapped(html: str) -> str:
    """What takes several lines in a cell of a table."""
    return f'<div class="text">{html}</div>'


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
