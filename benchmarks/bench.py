"""The table of benchmarks: measures its lines, keeps what they find, and writes benchmarks/RESULTS.md.

    python benchmarks/bench.py [LINE ...]       every line, or some; then the page
    python benchmarks/bench.py --page           the page alone, from what is kept

Each line is a script that prints its figures for machines (`harness.tell`). They are kept in benchmarks/results, a file
a line, so that a line can be measured again by itself. Exit status 1 if a measured line does not reach its bar.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import SHARED_CORES, number, results_in

FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "RESULTS.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table. Key: name."""

    name: str
    """Name of its script, and perhaps of its form."""
    part: str
    against: str
    bar: str
    command: str = ""
    """Arguments of the interpreter, from the repository's root; the script of the line's name where it is empty."""
    evidence: str = ""
    """What is known where the bar is not reached: where the time goes, and why the machine cannot do better."""


LINES: Sequence[Line] = (
    Line(
        name="demo",
        part="`make demo`, warm models, new seed",
        against="the generator's seconds in the same run",
        bar="at most these and 60 s",
        command="benchmarks/demo.py",
        evidence="One second is missing. Before the label model and own heads were made while the generator is loaded "
        "and answers it was 71 s on the same day; of the next seed in the same process, what is not the generator's "
        "takes 41 s (49 s before). The rest are the starts of Ray, workers and models.",
    ),
    Line(
        name="generate",
        part="generation stage, 1,500 one-record probes",
        against="offline vLLM, same prompts in file order",
        bar="at least 1.1 times, never below 0.97",
        command="benchmarks/generate.py --probes 1500 --drafts 0",
    ),
    Line(
        name="prompt_tokens",
        part="probes as a whole: computed prompt tokens",
        against="one request a (query, record) as published",
        bar="at most half of them, the same answers",
        command="benchmarks/prompt_tokens.py",
    ),
    Line(
        name="simulated_engine",
        part="simulated GPU engine, parts of 300 and 2,000, answers of 4, 24, 64 tokens",
        against="the same engine always fed",
        bar="at least 0.95 in every cell",
    ),
    Line(
        name="spot",
        part="64 copies on spot nodes, 10 % lost an hour, 10 simulated hours",
        against="-",
        bar="the run ends well, at most 1 % of the requests asked twice",
        command="benchmarks/spot.py",
    ),
    Line(
        name="features",
        part="feature pass",
        against="sentence-transformers' `encode`, same pairs",
        bar="at least 1.3 times",
        command="benchmarks/features.py",
        evidence="With one base both sides do the same arithmetic, and it takes what the machine can give: by torch's "
        "profiler 70 % of our time are matrix products in bfloat16, at 165 of the 203 GFLOP/s that one core reaches in "
        "a product of these shapes alone, and 18 % attention, where of torch's ways (with and without a mask, plain "
        "products, eager) none is faster by more than a tenth; 4 % are copies, Python is less. Several bases, as "
        "of a cross-fitted run, share their lower layers.",
    ),
    Line(
        name="training",
        part="base training",
        against="Hugging Face Trainer, same rows and steps",
        bar="at least 1.5 times at equal loss",
    ),
    Line(
        name="retrieval",
        part="retrieval, 190 records x 11 queries",
        against="bm25s and rank_bm25, one index a user",
        bar="at least 3 and 6 times",
        command="benchmarks/retrieval.py",
    ),
    Line(
        name="ingest",
        part="ingest of 500 MB",
        against="json.load and pyarrow",
        bar="at least 1.5 times, at most a tenth of the memory",
        command="benchmarks/ingest.py",
        evidence="All of the rival's work is in C: json.load, one list comprehension and pyarrow take 3 us a record, "
        "less than a call of a Python function for each of its fields. Of ours (17 us), checks of every field take "
        "half, ijson and its guard against nesting a fifth, the way through buckets a quarter. To win, checks would "
        "have to be made on columns; several processes would share the work, but not make it less.",
    ),
    Line(
        name="heads",
        part="heads of a million users",
        against="-",
        bar="at most 25 s",
        command="benchmarks/heads.py",
        evidence="A million took 29.1 s and, an hour later on the same machine, 23.3 s. The published procedure "
        "encodes all texts in each epoch and we do once: this pass is what our seconds are, so that the ratio is that "
        "of passes.",
    ),
    Line(
        name="store_requests",
        part="requests to an object store",
        against="-",
        bar="at most 40 a bucket",
        command="benchmarks/store_requests.py --buckets 8 16 --users 32",
        evidence="Each stage reads the tables of a bucket that it needs, each in one request, and writes one or two: "
        "about 65 requests. The rest are answers of the generator, in the three stages that ask it: a lease that comes "
        "and goes, a listing under it, a file that is written and, for drafts, what was answered before. Of all these "
        "the driver makes 2: it writes the users and reads the answers, the gate's outcomes and what the report shows. "
        "To need fewer, stages would have to hand their tables on in memory; larger buckets cost as many each, so that "
        "users.num_buckets: auto makes few.",
    ),
    Line(
        name="scaling",
        part="1,000 to 100,000 planted users, whole path, fake engine and hashed encoder",
        against="itself at a tenth of the users",
        bar="log-log slope of CPU seconds at most 1.03, driver's memory flat",
        command="benchmarks/scaling.py --by-stage --users 1000 10000 100000",
        evidence="The driver's memory grows by 134 MB, of which 45 come by 10,000 users: parts that are read ahead "
        "(eight buckets, and 1,000 users have four). The other 1 kB a user is what the report and the gate keep of "
        "each: the figures of all systems, the sums of the best-of-N curves and the gate's outcomes. A million users "
        "so need about 1 GB more. Before the report's bootstrap weighed its resamples a few at a time it was 1.21 "
        "times for 10,000 users already.",
    ),
    Line(
        name="update",
        part="a day's update, 1,000 of 100,000 users active, 30 days",
        against="the first days",
        bar="at most 20 s, 2 GB more than Ray at rest, the last days at most 1.2 times the first",
    ),
    Line(
        name="update_users",
        part="users stage of an update, 100 of a million users active",
        against="-",
        bar="at most 10 s",
        command="benchmarks/update.py --only-users --users 1000000 --active 100 --days 6",
    ),
    Line(
        name="predict",
        part="`hydra-ray predict`, CPU time of a query beside generator and encoder",
        against="-",
        bar="at most 2 ms",
        evidence="Profiled without a generator, in one process, 2,000 queries of users with 10 records each (3.4 ms a "
        "query under the profiler): the encoder without layers 0.9 ms, tokens included, which the bar leaves out; each "
        "user's own head, fitted again to all records, 1.1 ms, half of it the text model's scores of records; answers "
        "0.6 ms; users' files and tables the rest. Vectors of records and heads are kept by the run before and could "
        "be taken from there. With a generator, not profiled, about ten prompts are rendered and tokenized, and drafts "
        "get features in four variants of the records in a prompt, of which an answer needs one.",
    ),
    Line(
        name="serving",
        part="serving in one process, `choose` of 8 drafts, two threads",
        against="-",
        bar="95th percentile at most 25 ms, no growth of memory",
    ),
    Line(
        name="help",
        part="`hydra-ray --help`",
        against="-",
        bar="at most 0.3 s",
        command="benchmarks/help.py",
    ),
)


def main() -> int:
    """Measure lines and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(line.name for line in LINES)}")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    arguments = parser.parse_args()
    known = {line.name: line for line in LINES}
    if unknown := [name for name in arguments.lines if name not in known]:
        parser.error(f"there is no line {unknown[0]!r}; expected some of {', '.join(known)}")
    status = 0
    for name in () if arguments.page else arguments.lines or known:
        status |= measure(known[name])
    PAGE.write_text(page(LINES, kept(RESULTS)))
    return status


def measure(line: Line) -> int:
    """Run a line's script and keep its figures; a script that fails before it has any leaves the former ones."""
    command = [sys.executable, *shlex.split(command_of(line))]
    path = os.pathsep.join([str(FOLDER.parent), str(FOLDER.parent / "tests"), os.environ.get("PYTHONPATH", "")])
    figures: list[dict[str, Any]] = []
    with subprocess.Popen(
        command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            found = list(results_in([text]))
            figures += found
            if not found:
                print(text, end="", flush=True)
    if figures:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{line.name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    return int(process.returncode != 0)


def command_of(line: Line) -> str:
    """Return the arguments of the interpreter."""
    return line.command or f"{FOLDER.name}/{line.name}.py"


def kept(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of each measured line."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def page(lines: Sequence[Line], results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the page."""
    rows = [row for line in lines for row in _rows(line, results.get(line.name, ()))]
    missed = [note for line in lines for note in _notes(line, results.get(line.name, ()))]
    table = ["| part | against | bar | reached | machine | command | date |", "|---|---|---|---|---|---|---|", *rows]
    return "\n".join([*_HEAD, *table, "", "## What is not reached, and why", "", *(missed or ["Nothing."]), ""])


_HEAD = (
    "# Benchmarks",
    "",
    "Written by `make bench` (`make bench LINES='retrieval help'` measures some lines again) from what the scripts",
    "found, which is kept in `benchmarks/results`. Sides take turns, and a figure is the median of its rounds. Rivals",
    "run with our dtype, threads, frozen layers and sorting. A machine counts as shared where other programs took more",
    f"than {SHARED_CORES} of its cores meanwhile; how many is said.",
    "",
)


def _rows(line: Line, figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    command = f"`{command_of(line).removeprefix('benchmarks/')}`"
    if not figures:
        yield f"| {line.part} | {line.against} | {line.bar} | not measured | - | - | - |"
    for each in figures:
        bar = "-" if each["bar"] is None else f"{each['bound']} {number(each['bar'])} {each['unit']}"
        value = f"{number(each['value'])} {each['unit']}"
        reached = value if _is_reached(each) else f"**{value}: not reached**"
        shared = f", shared: others took {each['other_cores']:g}" if each["other_cores"] > SHARED_CORES else ""
        yield (
            f"| {each['part']} | {each['against']} | {bar} | {reached} ({each['detail']}) | "
            f"{each['machine']}{shared} | {command} | {each['date']} |"
        )


def _notes(line: Line, figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is known of a line whose bar is not reached, or that is not measured."""
    if figures and all(map(_is_reached, figures)):
        return
    state = "not reached" if figures else "not measured"
    yield f"- **{line.part}**: {state}. {line.evidence}".rstrip()


def _is_reached(figure: Mapping[str, Any]) -> bool:
    if figure["bar"] is None:
        return True
    value, bar = figure["value"], figure["bar"]
    return value >= bar if figure["bound"] == "at least" else value <= bar


if __name__ == "__main__":
    sys.exit(main())
