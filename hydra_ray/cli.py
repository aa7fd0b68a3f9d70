"""Command line `hydra-ray run | submit | status | report | doctor ...`; the scripts in `jobs/` pass it to `ray job
submit`."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_ray.commands.arguments import ALIASES, SUBMITTED, make_parser
from hydra_ray.engine.ray_connection import ADDRESS, SUBMITTED_AS, require_cluster_address
from hydra_ray.errors import HydraError, NothingNewError, SubmissionAddressError
from hydra_ray.extras import naming_extras, require_packages
from hydra_ray.runs.logs import FORMAT_VARIABLE, FORMATS, configure_logs
from hydra_ray.runs.signals import Stopped, stops_gracefully
from hydra_ray.shipped import is_configuration
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.temporary import remove_leftovers

if TYPE_CHECKING:
    from hydra_ray.commands.submit.job import Job

__all__ = ["SUBMITTED", "main"]


_PIPE_CLOSED = 141
"""Exit status as shells tell it of SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. A user's mistake is one message, never a traceback."""
    arguments = _parse(argv)
    configure_logs(arguments.log_format)
    remove_leftovers()
    try:
        with stops_gracefully(), naming_extras():
            if arguments.command in _ON_RAY:
                require_cluster_address()
            _tell_of_other_source()
            status = _COMMANDS[arguments.command](arguments)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # Whoever read the output has enough, as `head` has; what is left must not be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except SubmissionAddressError as error:
        print(f"error: {error}\nThis one:\n  {_submission(argv)}", file=sys.stderr)
        return 2
    except HydraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        if arguments.command not in _LOOKING:
            print(f"stopped; committed parts are kept. Resume with:\n  {_command(argv)}", file=sys.stderr)
        return stop.exit_status


_ON_RAY = ("run", "demo", "sweep", "plan", "update", "feedback", "predict", "refresh", "retry", "check")
"""Commands that may start Ray, or connect to it, in the middle of their work."""
_LOOKING = ("init", "worth", "drift", "status", "watch", "runs", "report", "compare", "doctor", "completion")
"""Commands that have nothing to resume."""


def _tell_of_other_source() -> None:
    if SUBMITTED_AS in os.environ:
        from hydra_ray.commands.submit.job import other_source

        if reason := other_source():
            logging.getLogger(__name__).warning("%s", reason)


def init(arguments: argparse.Namespace) -> int:
    """Write a first configuration for files of users, and print what was guessed (`hydra-ray init`); exit status 1
    where a run of it could not start yet."""
    from hydra_ray.commands.init.columns_guess import parse_choices
    from hydra_ray.commands.init.configuration_text import GeneratorChoice
    from hydra_ray.commands.init.initialize import Wishes, initialize, next_lines, take_guess, write_new

    generator = GeneratorChoice(
        endpoint=arguments.endpoint,
        model=arguments.model,
        encoder=arguments.encoder,
        has_gpu=arguments.gpu,
        is_none=arguments.no_generator,
    )
    wishes = Wishes(
        users=arguments.users,
        run=arguments.run,
        root=arguments.root,
        kind=arguments.kind,
        labels=_labels(arguments.labels),
        instruction=arguments.instruction,
        columns=parse_choices(arguments.column),
        generator=generator,
    )
    is_asked = sys.stdin.isatty() and not arguments.yes
    made = initialize(wishes, _ask if is_asked else take_guess)
    path = arguments.out or f"{made.run}.yaml"
    write_new(path, made.text, is_replacing=arguments.force)
    print("\n".join(made.lines))
    print(f"written: {path}; what was guessed is marked in it")
    for problem in made.problems:
        print(f"PROBLEM {problem}")
    if not made.problems:
        print("\n".join(["next:", *next_lines(path, made)]))
    return int(bool(made.problems))


def worth(arguments: argparse.Namespace) -> int:
    """Print what personalization would gain on files of users, from histories alone (`hydra-ray worth`)."""
    from hydra_ray.commands.init.columns_guess import parse_choices
    from hydra_ray.commands.init.configuration_text import GeneratorChoice
    from hydra_ray.commands.init.initialize import Wishes
    from hydra_ray.commands.worth.worth import open_encode
    from hydra_ray.commands.worth.worth import worth as look
    from hydra_ray.commands.worth.worth_text import worth_lines

    wishes = Wishes(
        users=arguments.users,
        kind=arguments.kind,
        labels=_labels(arguments.labels),
        columns=parse_choices(arguments.column),
        generator=GeneratorChoice(endpoint=None, model=None, encoder=arguments.encoder, has_gpu=False),
    )
    found = look(wishes, arguments.max_users, open_encode)
    _print_found(arguments, found, worth_lines(found))
    return 0


def _labels(given: str | None) -> list[str]:
    return [each.strip() for each in given.split(",")] if given else []


def _ask(question: str, guess: str) -> str:
    answer = input(f"{question}{f' [{guess}]' if guess else ''}: ").strip()
    return answer or guess


def run(arguments: argparse.Namespace) -> int:
    """Run a configuration up to its report or up to a given stage (`hydra-ray run`)."""
    from hydra_ray.api import configured

    config = configured(arguments.config, arguments.overrides)
    from hydra_ray.commands.ending import ending_lines
    from hydra_ray.stages.run import personalize

    plan = personalize(config, until=arguments.until)
    print("\n".join(ending_lines(plan, arguments.until)))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run the shipped demo, from synthetic users to a report (`hydra-ray demo`)."""
    from hydra_ray.api import configured

    seed = arguments.seed
    config = configured("demo", [f"lamp.planted.seed={seed}", f"generator.seed={seed}"])
    from hydra_ray.commands.ending import ending_lines
    from hydra_ray.stages.run import personalize

    print("\n".join(ending_lines(personalize(config))))
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Print what a configuration is forecast to take, or for a finished run the forecast and what it took (`hydra-ray
    plan`)."""
    from hydra_ray.api import configured
    from hydra_ray.forecast.forecast import make_forecast
    from hydra_ray.forecast.forecast_text import comparison_lines, forecast_lines
    from hydra_ray.forecast.remote_calibration import measure_on_worker
    from hydra_ray.forecast.usage import compare_with_use, is_finished
    from hydra_ray.runs.run_folder import read_config

    is_file = is_configuration(arguments.config)
    config = configured(
        arguments.config if is_file else read_config(_absolute_root(arguments.config)), arguments.overrides
    )
    measure = None if arguments.no_calibration else measure_on_worker
    if measure is not None:
        require_packages(config)
    if is_finished(config) and not is_file:
        comparison = compare_with_use(config, measure, arguments.max_users)
        _print_found(arguments, comparison, comparison_lines(comparison))
    else:
        forecast = make_forecast(config, measure, arguments.max_users)
        _print_found(arguments, forecast, forecast_lines(forecast))
    return 0


def update(arguments: argparse.Namespace) -> int:
    """Fit the heads of users who come back or are new, and answer their queries (`hydra-ray update`)."""
    from hydra_ray.commands.update import update_run, updated_text
    from hydra_ray.stages.update_summary import update_summary
    from hydra_ray.storage import is_uri

    users = [each if is_uri(each) else str(Path(each).expanduser().resolve()) for each in arguments.users]
    try:
        updated = update_run(
            _absolute_root(arguments.run),
            users,
            arguments.name,
            arguments.overrides,
            is_feedback=arguments.command == "feedback",
        )
    except NothingNewError as nothing:
        _print_found(arguments, {"is_made_now": False}, [str(nothing)])
        return 0
    summary = update_summary(updated.plan)
    found = {**summary, "is_made_now": updated.is_made_now}
    _print_found(arguments, found, [updated_text(updated, summary)])
    return 0


def feedback(arguments: argparse.Namespace) -> int:
    """Let the heads of users learn from what they say of their answers (`hydra-ray feedback`)."""
    return update(arguments)


def predict(arguments: argparse.Namespace) -> int:
    """Answer queries by a finished run and its updates, and write the answers as Parquet (`hydra-ray predict`)."""
    from hydra_ray.commands.predict import predict_files
    from hydra_ray.storage import is_uri

    queries = [each if is_uri(each) else str(Path(each).expanduser().resolve()) for each in arguments.queries]
    output = _absolute_root(arguments.output)
    answers = predict_files(_absolute_root(arguments.run), queries, output, arguments.overrides)
    print(f"{answers.num_queries} queries answered, {answers.num_failed} of them without a usable answer")
    print(output)
    return 0


def drift(arguments: argparse.Namespace) -> int:
    """Print whether what users of a run share still fits, and whether to learn it anew (`hydra-ray drift`)."""
    from hydra_ray.commands.drift.drift import drift as look
    from hydra_ray.commands.drift.drift_text import drift_lines
    from hydra_ray.commands.worth.worth import open_encode

    found = look(_absolute_root(arguments.run), open_encode)
    _print_found(arguments, found, drift_lines(found))
    return 0


def refresh(arguments: argparse.Namespace) -> int:
    """Learn anew what users of a finished run share, from their present histories (`hydra-ray refresh`)."""
    from hydra_ray.commands.refresh import refresh_run, refresh_summary, refreshed_lines

    refreshed = refresh_run(_absolute_root(arguments.run), arguments.name, arguments.overrides)
    summary = refresh_summary(refreshed)
    _print_found(arguments, summary, refreshed_lines(refreshed, summary))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Export a finished run to a folder that serves single requests without Ray (`hydra-ray export`)."""
    from hydra_ray.serving.export import export_run
    from hydra_ray.stages.plan import plan_recorded

    plan = plan_recorded(_absolute_root(arguments.run))
    print(export_run(plan, _absolute_root(arguments.folder)).folder)
    return 0


def compact(arguments: argparse.Namespace) -> int:
    """Compact a run's updates (`hydra-ray compact`)."""
    from hydra_ray.findings import counted
    from hydra_ray.serving.compaction import compact_updates

    number = compact_updates(_absolute_root(arguments.run))
    print(f"compacted {counted(number, 'update')}" if number else "nothing to compact: no update has come since")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the progress of a run, stage by stage (`hydra-ray status`)."""
    from hydra_ray.commands.line import line_lines
    from hydra_ray.commands.run_state import state_of
    from hydra_ray.commands.status import state_lines

    state = state_of(_absolute_root(arguments.run))
    _print_found(arguments, state, [*state_lines(state), *line_lines(state.folder)])
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Show the progress of a run until no process works on it (`hydra-ray watch`); exit status 1 where it is not
    finished then."""
    from hydra_ray.commands.status import put_out, watch

    folder = _absolute_root(arguments.run)
    return watch(folder, arguments.interval, put_out, is_terminal=sys.stdout.isatty())


def runs(arguments: argparse.Namespace) -> int:
    """Print all runs below a root (`hydra-ray runs`)."""
    from hydra_ray.commands.runs import runs_below, runs_lines

    states = runs_below(_absolute_root(arguments.root))
    _print_found(arguments, states, runs_lines(states))
    return 0


def completion(arguments: argparse.Namespace) -> int:
    """Print the script that completes `hydra-ray` in a shell (`hydra-ray completion`)."""
    from hydra_ray.commands.completion import completion_script
    from hydra_ray.shipped import shipped_names

    print(completion_script(arguments.shell, make_parser(__doc__), shipped_names()), end="")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Ask the process of a run to end; its batches go on at the endpoint or are cancelled (`hydra-ray stop`)."""
    from hydra_ray.commands.stop import stop_lines

    for line in stop_lines(_absolute_root(arguments.run), is_cancelling=arguments.cancel):
        print(line, flush=True)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Print the results of each run as text; of several runs also the average gain (`hydra-ray report`)."""
    from hydra_ray.commands.line import line_lines
    from hydra_ray.config import ReportConfig
    from hydra_ray.evaluate.metrics_file import read_report
    from hydra_ray.evaluate.summary import compare_systems, summarize, summary_text
    from hydra_ray.evaluate.text_report import report_text

    folders = [_absolute_root(run) for run in arguments.runs]
    reports = [read_report(folder) for folder in folders]
    lines = [
        line for folder, each in zip(folders, reports, strict=True) for line in (report_text(each), *line_lines(folder))
    ]
    summary = None
    if len(reports) > 1:
        bootstrap = ReportConfig.model_validate(reports[0]["bootstrap"])
        summary = summarize([compare_systems(each) for each in reports], bootstrap)
        lines.append(summary_text(summary))
    _print_found(arguments, reports[0] if summary is None else {"runs": reports, "average": summary.average}, lines)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print the differences between two finished runs on the queries that both answered (`hydra-ray compare`)."""
    from hydra_ray.commands.compare import compare_folders
    from hydra_ray.evaluate.comparison_text import comparison_text

    comparison = compare_folders(_absolute_root(arguments.first), _absolute_root(arguments.second))
    _print_found(arguments, comparison, [comparison_text(comparison)])
    if arguments.html is not None:
        from hydra_ray.evaluate.comparison_page import render_comparison
        from hydra_ray.storage import write_bytes

        page = _absolute_root(arguments.html)
        write_bytes(page, render_comparison(comparison).encode())
        print(page, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def retry(arguments: argparse.Namespace) -> int:
    """Repeat the requests that failed, and recompute what depends on them (`hydra-ray retry`)."""
    from hydra_ray.commands.retry import checked_kinds, clear_failures, failed_stages, retry_lines, runs_to_repeat
    from hydra_ray.runs.run_folder import read_config
    from hydra_ray.stages.plan import plan_run

    kinds = checked_kinds(arguments.kind)
    plan = plan_run(read_config(_absolute_root(arguments.run)))
    require_packages(plan.config)
    from hydra_ray.stages.run import personalize, require_generator_here

    require_generator_here(plan.config)
    cleared = clear_failures(plan, kinds)
    print("\n".join(retry_lines(cleared, failed_stages(plan))))
    for run_folder in runs_to_repeat(plan, cleared):
        print(f"run the configuration of {run_folder} again: some of its results depend on failed answers")
    from hydra_ray.commands.ending import ending_lines

    print("\n".join(ending_lines(personalize(plan.config))))
    return 0


def forget(arguments: argparse.Namespace) -> int:
    """Remove users from everything below a root (`hydra-ray forget`); exit status 1 where one of them is unknown."""
    from hydra_ray.forget.forget_text import given_users, outcome_lines
    from hydra_ray.forget.removal import forget_users, root_of

    root = root_of(_absolute_root(arguments.run))
    outcomes = forget_users(root, given_users(arguments.users, arguments.users_file))
    print("\n".join(outcome_lines(root, outcomes)))
    return int(any(outcome.receipt is None for outcome in outcomes))


def prune(arguments: argparse.Namespace) -> int:
    """Remove, or first list, stored answers that no run needs or that are old (`hydra-ray prune`)."""
    from hydra_ray.commands.prune import prune, prune_lines, unneeded_files
    from hydra_ray.forget.removal import root_of

    root = root_of(_absolute_root(arguments.run))
    found = (prune if arguments.yes else unneeded_files)(root, arguments.older_than)
    _print_found(arguments, found, prune_lines(found, is_done=arguments.yes))
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """Run many trials that share their stages (`hydra-ray sweep`); exit status 1 where a trial failed."""
    from hydra_ray.config import apply_setting
    from hydra_ray.sweep.config import load_sweep, require_root
    from hydra_ray.sweep.runner import forecast, run_sweep, summary_lines

    loaded = load_sweep(arguments.config, arguments.overrides)
    base = apply_setting(loaded.base, "storage.root", _absolute_root(require_root(loaded)))
    loaded = replace(loaded, base=base)
    known = forecast(loaded)
    print("\n".join(known.lines), flush=True)
    if arguments.dry:
        return 0
    results = run_sweep(loaded, known)
    print("\n".join(summary_lines(loaded, results)))
    return int(bool(results.failures))


def doctor(arguments: argparse.Namespace) -> int:
    """Check this machine, in general or for a configuration, or a cluster for a run (`hydra-ray doctor`); exit status 1
    at a problem."""
    if arguments.cluster is not None:
        from hydra_ray.cluster.running_cluster import plan_placement
        from hydra_ray.config import load_config

        findings = plan_placement(load_config(arguments.cluster, arguments.subjects), arguments.nodes)
    else:
        from hydra_ray.commands.doctor.examination import examine

        findings = examine(arguments.subjects, is_called=arguments.call)
    _print_found(arguments, findings, map(str, findings))
    return int(any(finding.is_problem for finding in findings))


def check(arguments: argparse.Namespace) -> int:
    """Check the running cluster for a run, node by node (`hydra-ray check`); exit status 1 at a problem."""
    from hydra_ray.cluster.running_cluster import check_cluster
    from hydra_ray.config import load_config

    findings = check_cluster(load_config(arguments.config, arguments.overrides), arguments.wait)
    _print_found(arguments, findings, map(str, findings))
    return int(any(finding.is_problem for finding in findings))


def submit(arguments: argparse.Namespace) -> int:
    """Submit a command as a job of a cluster (`hydra-ray submit`); the exit status is the job's."""
    from hydra_ray.commands.submit.client import handling_lines, open_client, watch
    from hydra_ray.commands.submit.client import submit as hand_over
    from hydra_ray.commands.submit.inputs import copy_there

    job = _job(arguments)
    client = open_client(arguments.address)
    notes = [*job.notes, *(copy_there(path, location) for path, location in job.copies.items())]
    job_id = hand_over(client, job, arguments.typed)
    handling = "\n".join([f"job {job_id} at {client.get_address()}", *handling_lines(client, job_id)])
    print("\n".join([*notes, handling]), file=sys.stderr)
    if not arguments.wait:
        return 0
    try:
        status = watch(client, job_id)
    except Stopped as stop:
        print(f"no longer watching; the job goes on:\n{handling}", file=sys.stderr)
        return stop.exit_status
    if status == 0 and job.result:
        print(f"job {job_id} succeeded: {job.result}", file=sys.stderr)
    return status


def _job(arguments: argparse.Namespace) -> "Job":
    """Return the job to submit, after parsing its command here, so that mistakes are reported before it is sent."""
    from hydra_ray.commands.submit.job import ON_CONFIG, config_job, forgetting_job, run_job, update_job

    name, target, rest = arguments.submitted, arguments.target, arguments.rest
    inner = _parse([name, *(["--run"] if name == "forget" else []), target, *rest])
    if name in ON_CONFIG and (name != "plan" or is_configuration(target)):
        has_page = name == "sweep" or (name == "run" and inner.until == STAGE_NAMES[-1])
        return config_job(name, target, inner.overrides, rest, arguments.upload, has_page=has_page)
    if name == "forget":
        return forgetting_job(target, inner.users, inner.users_file)
    if inner.command in ("update", "feedback"):
        return update_job(inner.command, target, inner.users, inner.name, inner.overrides, arguments.upload)
    return run_job(name, target, rest)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; overrides may stand before or after options, which argparse alone does not allow."""
    parser = make_parser(__doc__)
    arguments, rest = parser.parse_known_args(argv)
    arguments.command = ALIASES.get(arguments.command, arguments.command)
    if arguments.command == "submit":
        arguments.rest, rest = rest, []
        arguments.typed = _command(argv)
    if arguments.log_format not in FORMATS:  # from the environment, which argparse does not validate
        parser.error(f"{FORMAT_VARIABLE} is {arguments.log_format!r}; expected one of {', '.join(FORMATS)}")
    if rest and (not hasattr(arguments, "overrides") or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _command(argv: Sequence[str] | None) -> str:
    """Return the command line that repeats this command."""
    from hydra_ray.runs.root import is_submitted_job

    if is_submitted_job():
        by_ray = shlex.join(["ray", "job", "submit", "--working-dir", ".", "--", "python", *sys.argv])
        return os.environ.get(SUBMITTED_AS, by_ray)
    return shlex.join(["hydra-ray", *_typed(argv)])


def _submission(argv: Sequence[str] | None) -> str:
    """Return the command line that submits a command that was typed to run here."""
    words = list(_typed(argv))
    arguments = _parse(words)
    name = arguments.command
    if name == "demo":
        seeds = [f"lamp.planted.seed={arguments.seed}", f"generator.seed={arguments.seed}"]
        words, name = ["submit", "demo", *seeds, "storage.root=s3://BUCKET/FOLDER"], "run"
    elif name == "doctor":
        words, name = ["submit", arguments.cluster, *arguments.subjects], "check"
    else:
        place = next(place for place, word in enumerate(words) if ALIASES.get(word, word) == name)
        words[place] = "submit"
    command = [] if name == "run" else ["--command", name]
    return shlex.join(["hydra-ray", *words, *command, "--address", os.environ[ADDRESS]])


def _print_found(arguments: argparse.Namespace, found: object, lines: Iterable[str]) -> None:
    """Print what a command found: as JSON where that is asked for, else as lines."""
    if arguments.json:
        from hydra_ray.commands.as_json import as_json

        print(as_json(found))
    else:
        print("\n".join(lines))


def _typed(argv: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if argv is None else argv


def _absolute_root(root: str) -> str:
    from hydra_ray.runs.root import absolute_root

    return absolute_root(root)


_COMMANDS = {
    each.__name__.replace("_", "-"): each
    for each in (
        init, worth, run, demo, plan, update, feedback, predict, drift, refresh, export, compact, status, watch, runs,
        stop, report, compare, retry, forget, prune, sweep, check, submit, doctor, completion,
    )
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
