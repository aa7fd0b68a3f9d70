"""Command line `hydra-ray run | submit | status | report | doctor ...`; the scripts in `jobs/` pass it to `ray job
submit`."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_ray import __version__
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

_CONFIG_HELP = "YAML file, or the name of a shipped configuration such as tour"
SUBMITTED = ("run", "sweep", "plan", "check", "update", "fit-users", "predict", "retry", "forget")
"""Commands that can be submitted to a cluster as a job."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. A user's mistake is one message, never a traceback."""
    arguments = _parse(argv)
    configure_logs(arguments.log_format)
    remove_leftovers()
    try:
        with stops_gracefully(), naming_extras():
            if _name(arguments) in _ON_RAY:
                require_cluster_address()
            _tell_of_other_source()
            return arguments.command(arguments)
    except SubmissionAddressError as error:
        print(f"error: {error}\nThis one:\n  {_submission(argv)}", file=sys.stderr)
        return 2
    except HydraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"stopped; committed parts are kept. Resume with:\n  {_command(argv)}", file=sys.stderr)
        return stop.exit_status


_ON_RAY = ("run", "demo", "sweep", "plan", "update", "predict", "retry", "check")
"""Commands that may start Ray, or connect to it, in the middle of their work."""
_ALIASES = {"update": ("fit-users",)}


def _tell_of_other_source() -> None:
    if SUBMITTED_AS in os.environ:
        from hydra_ray.commands.submit.job import other_source

        if reason := other_source():
            logging.getLogger(__name__).warning("%s", reason)


def run(arguments: argparse.Namespace) -> int:
    """Run a configuration up to its report or up to a given stage (`hydra-ray run`)."""
    from hydra_ray.api import configured

    config = configured(arguments.config, arguments.overrides)
    from hydra_ray.stages.run import personalize

    plan = personalize(config, until=arguments.until)
    print(plan.run_folder)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run the shipped demo, from synthetic users to a report (`hydra-ray demo`)."""
    from hydra_ray.api import configured

    seed = arguments.seed
    config = configured("demo", [f"lamp.planted.seed={seed}", f"generator.seed={seed}"])
    from hydra_ray.stages.run import personalize
    from hydra_ray.storage import join

    plan = personalize(config)
    print(f"report: {join(plan.run_folder, 'report.html')}")
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
        print("\n".join(comparison_lines(compare_with_use(config, measure, arguments.max_users))))
    else:
        print("\n".join(forecast_lines(make_forecast(config, measure, arguments.max_users))))
    return 0


def update(arguments: argparse.Namespace) -> int:
    """Fit the heads of users who come back or are new, and answer their queries (`hydra-ray update`)."""
    from hydra_ray.commands.update import update_run, updated_text
    from hydra_ray.stages.update_summary import update_summary
    from hydra_ray.storage import is_uri

    users = [each if is_uri(each) else str(Path(each).expanduser().resolve()) for each in arguments.users]
    try:
        updated = update_run(_absolute_root(arguments.run), users, arguments.name, arguments.overrides)
    except NothingNewError as nothing:
        print(nothing)
        return 0
    print(updated_text(updated, update_summary(updated.plan)))
    print(updated.plan.run_folder)
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Answer queries by a finished run and its updates, and write the answers as Parquet (`hydra-ray predict`)."""
    from hydra_ray.commands.predict import predict as answer
    from hydra_ray.storage import is_uri

    queries = [each if is_uri(each) else str(Path(each).expanduser().resolve()) for each in arguments.queries]
    output = _absolute_root(arguments.output)
    answers = answer(_absolute_root(arguments.run), queries, output, arguments.overrides)
    print(f"{answers.num_queries} queries answered, {answers.num_failed} of them without a usable answer")
    print(output)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Export a finished run to a folder that serves single requests without Ray (`hydra-ray export`)."""
    from hydra_ray.serving.export import export_run
    from hydra_ray.stages.plan import plan_recorded

    plan = plan_recorded(_absolute_root(arguments.run))
    print(export_run(plan, _absolute_root(arguments.folder)).folder)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the progress of a run, stage by stage (`hydra-ray status`)."""
    from hydra_ray.commands.status import status_lines

    print("\n".join(status_lines(_absolute_root(arguments.run))))
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
    for folder, each in zip(folders, reports, strict=True):
        print("\n".join([report_text(each), *line_lines(folder)]))
    if len(reports) > 1:
        bootstrap = ReportConfig.model_validate(reports[0]["bootstrap"])
        print(summary_text(summarize([compare_systems(each) for each in reports], bootstrap)))
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print the differences between two finished runs on the queries that both answered (`hydra-ray compare`)."""
    from hydra_ray.commands.compare import compare_folders
    from hydra_ray.evaluate.comparison_text import comparison_text

    comparison = compare_folders(_absolute_root(arguments.first), _absolute_root(arguments.second))
    print(comparison_text(comparison))
    if arguments.html is not None:
        from hydra_ray.evaluate.comparison_page import render_comparison
        from hydra_ray.storage import write_bytes

        page = _absolute_root(arguments.html)
        write_bytes(page, render_comparison(comparison).encode())
        print(page)
    return 0


def retry(arguments: argparse.Namespace) -> int:
    """Repeat the requests that failed, and recompute what depends on them (`hydra-ray retry`)."""
    from hydra_ray.commands.retry import checked_kinds, clear_failures, failed_stages, retry_lines, runs_to_repeat
    from hydra_ray.runs.run_folder import read_config
    from hydra_ray.stages.plan import plan_run

    kinds = checked_kinds(arguments.kind)
    plan = plan_run(read_config(_absolute_root(arguments.run)))
    require_packages(plan.config)
    from hydra_ray.stages.run import personalize, require_credentials_here

    require_credentials_here(plan.config)
    cleared = clear_failures(plan, kinds)
    print("\n".join(retry_lines(cleared, failed_stages(plan))))
    for run_folder in runs_to_repeat(plan, cleared):
        print(f"run the configuration of {run_folder} again: some of its results depend on failed answers")
    print(personalize(plan.config).run_folder)
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
    from hydra_ray.commands.prune import prune, prune_lines, unneeded_answers
    from hydra_ray.forget.removal import root_of

    root = root_of(_absolute_root(arguments.run))
    found = (prune if arguments.yes else unneeded_answers)(root, arguments.older_than)
    print("\n".join(prune_lines(found, is_done=arguments.yes)))
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
    print("\n".join(str(finding) for finding in findings))
    return int(any(finding.is_problem for finding in findings))


def check(arguments: argparse.Namespace) -> int:
    """Check the running cluster for a run, node by node (`hydra-ray check`); exit status 1 at a problem."""
    from hydra_ray.cluster.running_cluster import check_cluster
    from hydra_ray.config import load_config

    findings = check_cluster(load_config(arguments.config, arguments.overrides), arguments.wait)
    print("\n".join(str(finding) for finding in findings))
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
    if inner.command is update:
        return update_job(target, inner.users, inner.name, inner.overrides, arguments.upload)
    return run_job(name, target, rest)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; overrides may stand before or after options, which argparse alone does not allow."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command is submit:
        arguments.rest, rest = rest, []
        arguments.typed = _command(argv)
    if arguments.log_format not in FORMATS:  # from the environment, which argparse does not validate
        parser.error(f"{FORMAT_VARIABLE} is {arguments.log_format!r}; expected one of {', '.join(FORMATS)}")
    if rest and (not hasattr(arguments, "overrides") or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:  # noqa: PLR0915 -- a block a command
    parser = argparse.ArgumentParser(prog="hydra-ray", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default=os.environ.get(FORMAT_VARIABLE, "text"),
        help=f"text, or one JSON object a line with run, stage and part; also {FORMAT_VARIABLE} in the environment",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="run a configuration; complete stages are reused")
    command.add_argument("config", metavar="CONFIG", help=_CONFIG_HELP)
    command.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings to override")
    command.add_argument("--until", choices=STAGE_NAMES, default="report", help="last stage to run")
    command.set_defaults(command=run)

    command = commands.add_parser("demo", help="run the shipped demo: synthetic users, small real models, a report")
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the users and of the generator; another seed is a new sample"
    )
    command.set_defaults(command=demo)

    command = commands.add_parser(
        "plan", help="forecast what a run will take, or compare the forecast with what it took"
    )
    command.add_argument(
        "config", metavar="CONFIG|RUN", help=f"{_CONFIG_HELP}, or a run's folder: <storage.root>/runs/<run>"
    )
    command.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings to override")
    command.add_argument(
        "--no-calibration",
        action="store_true",
        help="send no request to the generator: estimate its speed from finished runs under the same root",
    )
    command.add_argument(
        "--max-users", type=int, default=500, metavar="N", help="number of users to sample for the estimate"
    )
    command.set_defaults(command=plan)

    command = commands.add_parser(
        "update",
        aliases=_ALIASES["update"],
        help="users who come back with new records or queries, and new users, beside a finished run",
    )
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="settings to override, such as those of placement"
    )
    command.add_argument(
        "--users",
        metavar="FILE",
        action="append",
        required=True,
        help="file, folder or pattern of whoever was active, as in lamp.users_files; may be repeated; or a folder of "
        "LaMP files, of which the run's new split is read",
    )
    command.add_argument("--name", help="name of this update; by default the first file's name")
    command.set_defaults(command=update)

    command = commands.add_parser(
        "predict", help="answer queries by a finished run and its updates; nothing is learned"
    )
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="settings to override, such as those of placement"
    )
    command.add_argument(
        "--queries",
        metavar="FILE",
        action="append",
        required=True,
        help="Parquet, CSV or JSON lines with user_id and input, or a row a user; may be repeated",
    )
    command.add_argument("--output", metavar="FILE", required=True, help="Parquet file or URI to write the answers to")
    command.set_defaults(command=predict)

    command = commands.add_parser("export", help="export a finished run to a folder that serves requests without Ray")
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")
    command.add_argument("folder", metavar="FOLDER", help="a new folder or URI, outside the root")
    command.set_defaults(command=export)

    command = commands.add_parser("status", help="progress of a run")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    command.set_defaults(command=status)

    command = commands.add_parser("stop", help="ask a run's process to end; its batches go on at the endpoint")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "--cancel", action="store_true", help="also cancel the batches; what they have answered is stored and paid"
    )
    command.set_defaults(command=stop)

    command = commands.add_parser("report", help="results of runs as text, with intervals")
    command.add_argument("runs", metavar="RUN", nargs="+", help="folders of finished runs: <storage.root>/runs/<run>")
    command.set_defaults(command=report)

    command = commands.add_parser("compare", help="differences between two runs, tested user by user")
    command.add_argument("first", metavar="RUN_A", help="the folder of a finished run: <storage.root>/runs/<run>")
    command.add_argument("second", metavar="RUN_B", help="the folder of another run of the same task")
    command.add_argument("--html", metavar="FILE", help="also write the comparison as an HTML page")
    command.set_defaults(command=compare)

    command = commands.add_parser("retry", help="repeat failed requests and recompute what depends on them")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "--kind",
        action="append",
        default=[],
        help="kind of failures to retry, as in the errors tables; may be repeated; by default the transient ones: "
        "engine, timeout and unavailable",
    )
    command.set_defaults(command=retry)

    command = commands.add_parser("forget", help="remove users from all runs under a root")
    command.add_argument(
        "users", metavar="USER", nargs="*", help="user ids as in the users table; LaMP's: <split>:<id>"
    )
    command.add_argument(
        "--users-file", metavar="FILE", help="file of user ids, one a line, which keeps them off the command line"
    )
    command.add_argument("--run", required=True, help="the folder of any run under the root: <storage.root>/runs/<run>")
    command.set_defaults(command=forget)

    command = commands.add_parser(
        "prune", help="remove stored answers of the generator that no run needs, or that are old"
    )
    command.add_argument("run", metavar="RUN", help="the folder of any run under the root: <storage.root>/runs/<run>")
    command.add_argument(
        "--older-than",
        metavar="DAYS",
        type=float,
        help="also remove answers that finished runs requested more than DAYS ago",
    )
    command.add_argument("--yes", action="store_true", help="remove the files; without it they are only listed")
    command.set_defaults(command=prune)

    command = commands.add_parser("sweep", help="vary settings of a run; trials share equal stages")
    command.add_argument("config", metavar="CONFIG", help="YAML file of a sweep, or `sweep`, the shipped one")
    command.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings of all trials")
    command.add_argument("--dry", action="store_true", help="only list the stages to compute")
    command.set_defaults(command=sweep)

    command = commands.add_parser("check", help="check that each node of the running cluster can do its part of a run")
    command.add_argument("config", metavar="CONFIG", help=_CONFIG_HELP)
    command.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings to override")
    command.add_argument(
        "--wait",
        type=float,
        default=900,
        metavar="SECONDS",
        help="seconds that starting nodes and fetching models may take",
    )
    command.set_defaults(command=check)

    command = commands.add_parser("submit", help="run a command as a job of a cluster, from a machine outside of it")
    command.add_argument(
        "target", metavar="CONFIG|RUN", help="first argument of the command; its other arguments and options follow"
    )
    command.add_argument("--address", metavar="URL", help="http://HOST:8265 of the cluster; by default RAY_ADDRESS")
    command.add_argument(
        "--command", dest="submitted", choices=SUBMITTED, default="run", help="command to submit; by default run"
    )
    command.add_argument(
        "--upload", metavar="FOLDER", help="s3://bucket/folder to which local files of users are copied first"
    )
    command.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show the job's log until it ends, and exit with its status (default)",
    )
    command.set_defaults(command=submit)

    command = commands.add_parser("doctor", help="check this machine, for a configuration or in general")
    command.add_argument(
        "subjects",
        metavar="CONFIG|MODEL|section.key=value",
        nargs="*",
        help="a YAML file and settings to override; or models to look for besides the demo's; with --cluster: settings "
        "to override",
    )
    command.add_argument(
        "--call", action="store_true", help="also send one request to CONFIG's endpoint, which may charge for it"
    )
    command.add_argument("--cluster", metavar="CONFIG", help="check whether the stages of this run fit on a cluster")
    command.add_argument(
        "--nodes",
        metavar="FILE",
        help="with --cluster: file of the cluster's node types, such as ray_cluster.yaml; by default the running nodes",
    )
    command.set_defaults(command=doctor)
    return parser


def _name(arguments: argparse.Namespace) -> str:
    return arguments.command.__name__.replace("_", "-")


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
    name = _name(arguments)
    if name == "demo":
        seeds = [f"lamp.planted.seed={arguments.seed}", f"generator.seed={arguments.seed}"]
        words, name = ["submit", "demo", *seeds, "storage.root=s3://BUCKET/FOLDER"], "run"
    elif name == "doctor":
        words, name = ["submit", arguments.cluster, *arguments.subjects], "check"
    else:
        place = next(place for place, word in enumerate(words) if word in (name, *_ALIASES.get(name, ())))
        words[place] = "submit"
    command = [] if name == "run" else ["--command", name]
    return shlex.join(["hydra-ray", *words, *command, "--address", os.environ[ADDRESS]])


def _typed(argv: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if argv is None else argv


def _absolute_root(root: str) -> str:
    from hydra_ray.runs.root import absolute_root

    return absolute_root(root)


if __name__ == "__main__":
    sys.exit(main())
