"""Arguments of every command of `hydra-ray`."""

import argparse
import os

from hydra_ray import __version__
from hydra_ray.commands.completion import SHELLS
from hydra_ray.runs.logs import FORMAT_VARIABLE, FORMATS
from hydra_ray.stages import STAGE_NAMES

_CONFIG_HELP = "YAML file, or the name of a shipped configuration such as tour"
SUBMITTED = (
    "run", "sweep", "plan", "check", "update", "fit-users", "feedback", "predict", "drift", "refresh", "retry",
    "forget",
)  # fmt: skip
"""Commands that can be submitted to a cluster as a job."""
ALIASES = {"fit-users": "update"}
"""Other names of commands."""


def make_parser(description: str | None) -> argparse.ArgumentParser:  # noqa: PLR0915 -- a block a command
    """Return the parser of `hydra-ray`, which puts the name of the command into `command`."""
    parser = argparse.ArgumentParser(prog="hydra-ray", description=description)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default=os.environ.get(FORMAT_VARIABLE, "text"),
        help=f"text, or one JSON object a line with run, stage and part; also {FORMAT_VARIABLE} in the environment",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    command = commands.add_parser("init", help="write a first configuration for your files, and tell what was guessed")
    command.add_argument(
        "users", metavar="FILE", nargs="+", help="files, folders or patterns of your users; or a folder of LaMP files"
    )
    command.add_argument(
        "--out", metavar="FILE", help="the configuration to write; by default the run's name and .yaml"
    )
    command.add_argument("--run", metavar="NAME", help="name of the run; by default the first file's name")
    command.add_argument(
        "--root",
        metavar="FOLDER",
        default="outputs",
        help="storage.root, where results go",
    )
    _add_description(command)
    command.add_argument("--instruction", metavar="TEXT", help="what the generator is told before each query")
    command.add_argument("--endpoint", metavar="PROVIDER|URL", help="endpoint that answers, such as openai or a URL")
    command.add_argument("--model", metavar="NAME", help="model at the endpoint, or the model to load")
    command.add_argument(
        "--no-generator", action="store_true", help="ask nobody: labels are chosen by records and heads alone"
    )
    command.add_argument("--encoder", metavar="NAME", help="text encoder of both scorers")
    command.add_argument("--gpu", action="store_true", help="load models on a GPU")
    command.add_argument("--yes", action="store_true", help="ask nothing: take what is guessed")
    command.add_argument("--force", action="store_true", help="replace a configuration that is there already")

    command = commands.add_parser(
        "worth", help="what personalization would gain on your files, from histories alone; no generator is asked"
    )
    command.add_argument(
        "--users",
        metavar="FILE",
        action="append",
        required=True,
        help="file, folder or pattern of your users, or a folder of LaMP files; may be repeated",
    )
    _add_description(command)
    command.add_argument("--encoder", metavar="NAME", help="text encoder that compares texts")
    command.add_argument(
        "--max-users", type=int, default=2000, metavar="N", help="number of users to look at; more are sampled"
    )
    _add_json(command)

    command = commands.add_parser("run", help="run a configuration; complete stages are reused")
    command.add_argument("config", metavar="CONFIG", help=_CONFIG_HELP)
    command.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings to override")
    command.add_argument("--until", choices=STAGE_NAMES, default="report", help="last stage to run")

    command = commands.add_parser("demo", help="run the shipped demo: synthetic users, small real models, a report")
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the users and of the generator; another seed is a new sample"
    )

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
    _add_json(command)

    command = commands.add_parser(
        "update",
        aliases=[alias for alias, name in ALIASES.items() if name == "update"],
        help="users who come back with new records or queries, and new users, beside a finished run",
    )
    _add_finished_run(command)
    command.add_argument(
        "--users",
        metavar="FILE",
        action="append",
        required=True,
        help="file, folder or pattern of whoever was active, as in lamp.users_files; may be repeated; or a folder of "
        "LaMP files, of which the run's new split is read",
    )
    _add_new_update(command)

    command = commands.add_parser("feedback", help="what people say of the answers that they were given, as an update")
    _add_finished_run(command)
    command.add_argument(
        "--file",
        metavar="FILE",
        dest="users",
        action="append",
        required=True,
        help="rows of user_id, query_id and one of chosen, thumb and edited, in any format of users' files; may be "
        "repeated",
    )
    _add_new_update(command)

    command = commands.add_parser("predict", help="answer queries by a finished run and its updates")
    _add_finished_run(command)
    command.add_argument(
        "--queries",
        metavar="FILE",
        action="append",
        required=True,
        help="Parquet, CSV or JSON lines with user_id and input, or a row a user; may be repeated",
    )
    command.add_argument("--output", metavar="FILE", required=True, help="Parquet file or URI to write the answers to")

    command = commands.add_parser(
        "drift", help="whether what users of a run share still fits, from what it and its updates have stored"
    )
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")
    _add_json(command)

    command = commands.add_parser(
        "refresh", help="learn anew what users of a run share, from their present histories; answers are kept"
    )
    _add_finished_run(command)
    command.add_argument("--name", help="name of the new run; by default the run's own name and .refreshed")
    _add_json(command)

    command = commands.add_parser("export", help="export a finished run to a folder that serves requests without Ray")
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")
    command.add_argument("folder", metavar="FOLDER", help="a new folder or URI, outside the root")

    command = commands.add_parser("compact", help="compact a run's updates, for who reads everybody's newest head")
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")

    command = commands.add_parser("status", help="progress of a run")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    _add_json(command)

    command = commands.add_parser("watch", help="show the progress of a run until no process works on it")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    command.add_argument("--interval", type=float, default=5, metavar="SECONDS", help="time between two looks")

    command = commands.add_parser("runs", help="all runs below a root: how far they are and what they show")
    command.add_argument("root", metavar="ROOT", nargs="?", default="outputs", help="storage.root; by default outputs")
    _add_json(command)

    command = commands.add_parser("stop", help="ask a run's process to end; its batches go on at the endpoint")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "--cancel", action="store_true", help="also cancel the batches; what they have answered is stored and paid"
    )

    command = commands.add_parser("report", help="results of runs as text, with intervals")
    command.add_argument("runs", metavar="RUN", nargs="+", help="folders of finished runs: <storage.root>/runs/<run>")
    _add_json(command)

    command = commands.add_parser("compare", help="differences between two runs, tested user by user")
    command.add_argument("first", metavar="RUN_A", help="the folder of a finished run: <storage.root>/runs/<run>")
    command.add_argument("second", metavar="RUN_B", help="the folder of another run of the same task")
    command.add_argument("--html", metavar="FILE", help="also write the comparison as an HTML page")
    _add_json(command)

    command = commands.add_parser("retry", help="repeat failed requests and recompute what depends on them")
    command.add_argument("run", metavar="RUN", help="the run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "--kind",
        action="append",
        default=[],
        help="kind of failures to retry, as in the errors tables; may be repeated; by default the transient ones: "
        "engine, timeout and unavailable",
    )

    command = commands.add_parser("forget", help="remove users from all runs under a root")
    command.add_argument(
        "users", metavar="USER", nargs="*", help="user ids as in the users table; LaMP's: <split>:<id>"
    )
    command.add_argument(
        "--users-file", metavar="FILE", help="file of user ids, one a line, which keeps them off the command line"
    )
    command.add_argument("--run", required=True, help="the folder of any run under the root: <storage.root>/runs/<run>")

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
    _add_json(command)

    command = commands.add_parser("sweep", help="vary settings of a run; trials share equal stages")
    command.add_argument("config", metavar="CONFIG", help="YAML file of a sweep, or `sweep`, the shipped one")
    command.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings of all trials")
    command.add_argument("--dry", action="store_true", help="only list the stages to compute")

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
    _add_json(command)

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
    _add_json(command)

    command = commands.add_parser("completion", help="a script by which your shell completes commands and options")
    command.add_argument("shell", choices=SHELLS, help="shell; put `source <(hydra-ray completion bash)` in ~/.bashrc")
    return parser


def _add_description(command: argparse.ArgumentParser) -> None:
    """Add what a person may say of files before they are looked at."""
    command.add_argument(
        "--column",
        metavar="SETTING=NAME",
        action="append",
        default=[],
        help="what a column is, such as user_id=customer or input=subject,body; may be repeated; date= leaves it out",
    )
    command.add_argument("--kind", choices=("classification", "rating", "text", "preference"), help="kind of answers")
    command.add_argument("--labels", metavar="A,B,C", help="labels of a classification or rating, with commas between")


def _add_finished_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="the finished run's folder: <storage.root>/runs/<run>")
    command.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="settings to override, such as those of placement"
    )


def _add_new_update(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", help="name of this update; by default the first file's name")
    _add_json(command)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document for other programs")
