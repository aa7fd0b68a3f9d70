"""What `hydra-ray drift` prints: the verdict first, then the figures of each generation, and what cannot be told."""

from collections.abc import Iterator

from hydra_ray.commands.drift.changes import MIN_USERS
from hydra_ray.commands.drift.drift import Drift, FoundGeneration
from hydra_ray.commands.drift.generations import GAIN, SHARED
from hydra_ray.commands.drift.record_losses import OWN, RECORDS, TEXT
from hydra_ray.evaluate.intervals import level_text, signed_text
from hydra_ray.evaluate.systems import HYDRA, RAG
from hydra_ray.findings import counted

_TITLES = {
    TEXT: "the text alone",
    RECORDS: "and the user's records",
    OWN: "and an own head",
    RAG: "RAG",
    SHARED: "HYDRA, shared head",
    HYDRA: "HYDRA",
    GAIN: "HYDRA over RAG",
}


def drift_lines(found: Drift) -> Iterator[str]:
    """Yield what to print."""
    yield from _verdict_lines(found)
    if found.verdict != "unknown":
        yield ""
        what = "log loss of records before they are learned from" if found.is_of_records else "quality of answers"
        yield f"{what[0].upper()}{what[1:]}, means over users with 95 % intervals, and changes against the start:"
        yield from _generation_lines(found, found.start, "the start")
        for each in found.updates:
            yield from _generation_lines(found, each)
    yield from _untold_lines(found)


def _verdict_lines(found: Drift) -> Iterator[str]:
    num_users = counted(found.present.num_users, "user")
    unit = "nats a record" if found.is_of_records else "of the gain over RAG"
    if found.verdict == "refresh" and found.loss is not None:
        yield f"REFRESH: shared parts lose {signed_text(found.loss)} {unit} against the start, in {num_users}"
        yield f"  by {_title(found)}; `hydra-ray refresh RUN` learns them anew from what histories are now"
    elif found.verdict == "no sign of drift" and found.loss is not None:
        yield f"NO SIGN OF DRIFT in {num_users}: shared parts lose {signed_text(found.loss)} {unit} against the start"
        yield f"  by {_title(found)}"
    elif found.verdict == "too few":
        yield (
            f"TOO FEW: {num_users} in the updates and {counted(found.start.num_users, 'user')} at the start have "
            f"{_counted_things(found)}; less than {MIN_USERS} of either tell nothing"
        )
    else:
        yield (
            "UNKNOWN: records are not compared, as they show no labels or the run has no own heads, and the reports of "
            "the run and its updates tell of no answers by HYDRA and RAG to queries with targets"
        )
    if found.loss is not None and found.loss.low is not None and found.loss.high is not None:
        yield f"  these data tell losses of about {(found.loss.high - found.loss.low) / 2:.4f} from none"
    if len(found.updates) > len(found.present.runs) and found.loss is not None:
        yield f"  the present: {', '.join(found.present.runs)}"


def _title(found: Drift) -> str:
    titles = {TEXT: "the text alone", RECORDS: "the text and the user's records", OWN: "own heads on top of records"}
    return titles.get(found.deciding, _TITLES[found.deciding])


def _counted_things(found: Drift) -> str:
    return "records to be held out" if found.is_of_records else "answers with known targets"


def _generation_lines(found: Drift, generation: FoundGeneration, title: str = "") -> Iterator[str]:
    noun = ("record", "records") if found.is_of_records else ("query", "queries")
    few = "" if generation.is_enough else f"; too few users, less than {MIN_USERS}"
    named = f"{generation.runs[0]}{f', {title}' if title else ''}"
    yield f"  {named}: {counted(generation.num_users, 'user')}, {counted(generation.num, *noun)}{few}"
    for each in generation.figures:
        change = "" if each.change is None else f"   {signed_text(each.change)}"
        yield f"    {_TITLES[each.name]:<24}{level_text(each.value)}{change}"


def _untold_lines(found: Drift) -> Iterator[str]:
    if found.is_of_records:
        yield (
            "Not told: why. Records that are harder to tell for any model lose too, and there a refresh gains nothing; "
            "`hydra-ray compare` of the refreshed run with this one tells what was gained."
        )
    elif found.verdict == "unknown":
        yield "Not told: anything of drift. Hand in targets of some users' queries, and this command compares answers."
    else:
        yield (
            "Not told: how queries without targets are answered, and which shared part has aged. The gain over RAG "
            "also falls where RAG's own answers have become better."
        )
