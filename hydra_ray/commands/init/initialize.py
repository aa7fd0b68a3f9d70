"""`hydra-ray init`: a first configuration of a person's own files, and what was guessed for it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from statistics import median

from hydra_ray import storage
from hydra_ray.commands.doctor.users import users_finding
from hydra_ray.commands.given_users import is_lamp_folder, unpacked_name
from hydra_ray.commands.init.columns_guess import SEVERAL, Columns, guess_columns
from hydra_ray.commands.init.configuration_text import (
    GeneratorChoice,
    Source,
    as_yaml,
    configuration_text,
    lamp_configuration_text,
    run_name_of,
)
from hydra_ray.commands.init.sample import FileSample, sample_of
from hydra_ray.commands.init.task_guess import KINDS, Kind, Records, TaskGuess, guess_task, instruction_of, records_in
from hydra_ray.config import RunConfig, check_config
from hydra_ray.config.yaml_documents import parse_document
from hydra_ray.errors import ConfigError, HydraError, InputError
from hydra_ray.findings import counted
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import QUESTIONS, Sample, read_samples
from hydra_ray.lamp.seen_users import num_requests
from hydra_ray.lamp.tasks import TASKS, task_of

_PILOT_USERS = 100
_LAMP_SAMPLES = 20
_OWN_TASKS = tuple(name for name in TASKS if name.startswith("LaMP"))
_EXPENSIVE = 20_000
"""Number of requests from which a run with fewer users is advised first."""

Ask = Callable[[str, str], str]
"""Puts a question with the guessed answer; returns what was answered, the guess where nothing was."""


def take_guess(_: str, guess: str) -> str:
    """Answer a question with its guess."""
    return guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a person says before anything is looked at; None and empty where nothing."""

    users: Sequence[str]
    """Files, folders or patterns of users; or one folder of LaMP files."""
    run: str | None = None
    root: str = "outputs"
    kind: Kind | None = None
    labels: Sequence[str] = ()
    instruction: str | None = None
    columns: Mapping[str, tuple[str, ...]]
    generator: GeneratorChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialized:
    """A written configuration, and what is to be said about it."""

    run: str
    text: str
    lines: Sequence[str]
    """What was seen and guessed."""
    problems: Sequence[str]
    """What keeps a run of it from starting."""
    num_requests: int


def initialize(wishes: Wishes, ask: Ask = take_guess) -> Initialized:
    """Return a first configuration for some files of users.

    Raises:
        HydraError: the files cannot be read, or it cannot be told what is in them; says what to give.
    """
    users = [each if storage.is_uri(each) else str(Path(each).expanduser().absolute()) for each in wishes.users]
    if len(users) == 1 and not storage.exists(users[0]) and is_lamp_folder(users[0]) and _questions_in(users[0]):
        return _initialize_lamp(replace(wishes, users=users), ask)
    files = input_files(users)
    sample = sample_of(files)
    guess = partial(guess_columns, sample, may_be_preference=wishes.kind in (None, "preference"))
    columns = _asked_columns(guess, wishes, ask)
    found = records_in(sample, columns)
    kind, labels = wishes.kind, wishes.labels
    guessed = guess_task(found, columns, kind, labels)
    if not columns.is_preference:
        answered = ask("Kind of answers: classification, rating or text", guessed.kind)
        if answered != guessed.kind:
            guessed = guess_task(found, columns, _kind_of(answered), labels)
    name = ask("Name of the run", wishes.run or run_name_of(PurePosixPath(unpacked_name(users[0])).stem))
    output = columns.of("output") or "output"
    asks_nobody = wishes.generator.is_none or (columns.is_preference and not guessed.needs_drafts)
    told = "Instruction" if asks_nobody else "Instruction to the generator"
    instruction = ask(told, wishes.instruction or instruction_of(guessed, output))
    lamp = {"users_files": users if len(users) > 1 else users[0]} | (
        {"columns": columns.setting} if columns.setting else {}
    )
    is_cross_fitted = not (found.num_new and found.num_not_new)
    source = Source(lamp=lamp, is_cross_fitted=is_cross_fitted)
    generator = wishes.generator if asks_nobody else _asked_generator(wishes.generator, ask)
    text = configuration_text(run_name_of(name), wishes.root, source, guessed, instruction, generator)
    said = [*_sample_lines(sample, columns, guessed, found), *columns.notes]
    return _checked(text, said, found, columns)


def _checked(text: str, said: Sequence[str], found: Records | None, columns: Columns | None) -> Initialized:
    """Look at the users as a run of the configuration would."""
    config = _configuration(text)
    finding, seen = users_finding(config, task_of(config.lamp))
    lines, problems = [*said], list[str]()
    if found is not None and columns is not None and not columns.is_events and not found.queries:
        problems.append(
            "no user has queries, so that nobody would be answered: give each user's newest record as "
            '"queries": [{"input": ..., "target": ...}], or one row a record, of which the newest becomes the query'
        )
    elif finding.is_problem or seen is None:
        problems.append(f"{finding.value}: {finding.remedy}")
    if problems or seen is None:
        return Initialized(run=config.run, text=text, lines=lines, problems=problems, num_requests=0)
    records = sorted(seen.num_records) or [0]
    lines.append(f"users: {finding.value}; {counted(int(median(records)), 'record')} each in the middle")
    return Initialized(
        run=config.run,
        text=text,
        lines=lines,
        problems=problems,
        num_requests=round(num_requests(config, seen)) if config.has_generator else 0,
    )


def _configuration(text: str) -> RunConfig:
    settings = parse_document(text)
    return check_config(settings if isinstance(settings, dict) else {}, source="the configuration")


def next_lines(path: str, made: Initialized) -> Iterator[str]:
    """Yield what to type next."""
    shown = f"'{path}'" if " " in path else path
    yield f"  hydra-ray doctor {shown}"
    if not made.num_requests:
        yield f"  hydra-ray run {shown}   # nothing is generated: no requests"
        return
    yield f"  hydra-ray plan {shown} --no-calibration"
    if made.num_requests > _EXPENSIVE:
        yield f"  hydra-ray run {shown} run=pilot users.max_users={_PILOT_USERS}   # fewer users first"
    yield f"  hydra-ray run {shown}   # about {made.num_requests:,} requests"


def write_new(path: str, text: str, *, is_replacing: bool) -> None:
    """Write a configuration to a new file.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    try:
        with open(path, "w" if is_replacing else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} is there already: give --out another file, or --force to replace it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error


def _sample_lines(sample: FileSample, columns: Columns, task: TaskGuess, found: Records) -> Iterator[str]:
    rows = counted(len(sample.rows), "row") if sample.is_whole else f"the first {len(sample.rows):,} rows"
    kind_of_rows = "one row an event" if columns.is_events else "one row a user"
    unreadable = f", {sample.num_unreadable} of them unreadable" if sample.num_unreadable else ""
    yield f"looked at {rows} of {counted(sample.num_files, 'file')}{unreadable}: {kind_of_rows}"
    named = {setting: names for setting, names in columns.given.items() if names != (setting,)}
    others = [f"{setting} = {' + '.join(names) or '(left out)'}" for setting, names in named.items()]
    yield f"columns: {', '.join(others)}" if others else "columns: named as a run reads them"
    labels = f", {counted(len(task.labels), 'label')}: {_shown(task.labels)}" if task.labels else ""
    yield f"kind: {task.kind} ({task.reason}){labels}"
    if not columns.of("date"):
        yield "no dates: a record counts as known whenever it was written"
    if task.needs_drafts:
        yield "some queries have no candidates: a generator drafts them"
    if columns.is_events and not found.queries:
        yield "no targets: each user's newest record becomes the query that is evaluated"


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")


def _asked_columns(guess: Callable[[Mapping[str, tuple[str, ...]]], Columns], wishes: Wishes, ask: Ask) -> Columns:
    """Return the columns after the person was asked for those that were guessed."""
    columns, chosen = guess(wishes.columns), dict(wishes.columns)
    said = (
        {"chosen": "Preferred candidate", "rejected": "Rejected candidates"}
        if columns.is_preference
        else {"input": "Input", "output": "Output"}
    )
    for setting, meaning in {"user_id": "Who a row is of", **said, "date": "Date"}.items():
        if setting in wishes.columns:
            continue
        guessed = ",".join(columns.given.get(setting, ()))
        answer = ask(f"{meaning}: column", guessed)
        if answer != guessed:
            chosen[setting] = tuple(answer.split(",")) if setting == SEVERAL else (answer,) * bool(answer)
    return columns if chosen == dict(wishes.columns) else guess(chosen)


def _asked_generator(given: GeneratorChoice, ask: Ask) -> GeneratorChoice:
    if given.endpoint is None and given.model is None and not given.has_gpu and not given.is_none:
        endpoint = ask("Endpoint: a provider such as openai, a URL, or nothing for a model of your own", "")
        if endpoint:
            given = replace(given, endpoint=endpoint)
        if model := ask("Model: its name there, or a folder or name of the hub", ""):
            given = replace(given, model=model)
    return given


def _kind_of(answer: str) -> Kind:
    for each in KINDS:
        if each.startswith(answer.strip().casefold() or "?"):
            return each
    raise ConfigError(f"got the kind {as_yaml(answer)}, expected one of {', '.join(KINDS)}")


def _questions_in(folder: str) -> list[str]:
    """Return the splits of a folder of LaMP files."""
    return sorted({path.partition(QUESTIONS)[0] for path in storage.list_tree(folder) if QUESTIONS in path})


def _initialize_lamp(wishes: Wishes, ask: Ask) -> Initialized:
    (root,) = wishes.users
    splits = _questions_in(root)
    train = next((each for each in splits if "train" in each), None)
    new = next((each for each in splits if each != train), train)
    if train is None or new is None:
        raise InputError(f"{root} has the splits {', '.join(splits)}, and none of training users: train_questions.json")
    name, num_fitting = _lamp_task(root, train)
    task = TASKS[name]
    guessed = TaskGuess(
        kind=_kind_of(task.kind),
        labels=task.labels,
        reason=f"{num_fitting} of the first {_LAMP_SAMPLES} samples fit this task",
        max_tokens=task.max_tokens,
        max_text_tokens=128,
        num_rare=0,
    )
    source = Source(lamp={"root": root, "train_split": train, "new_split": new}, is_cross_fitted=False)
    generator = _asked_generator(wishes.generator, ask)
    run = ask("Name of the run", wishes.run or run_name_of(name.lower()))
    said = [f"LaMP files of {name}: {guessed.reason}; {train} teaches, {new} is new"]
    text = lamp_configuration_text(run_name_of(run), wishes.root, source, name, guessed, generator)
    return _checked(text, said, None, None)


def _lamp_task(root: str, split: str) -> tuple[str, int]:
    """Return the built-in task whose samples those of a split are, and how many of the first ones are."""

    def num_fitting(name: str) -> int:
        try:
            samples = islice(read_samples(TASKS[name], root, split, is_new=False), _LAMP_SAMPLES)
            return sum(isinstance(each, Sample) for each in samples)
        except HydraError:
            return 0

    best = max(_OWN_TASKS, key=num_fitting)
    if not (number := num_fitting(best)):
        raise InputError(
            f"{root}/{split}{QUESTIONS} holds samples of none of the tasks {', '.join(_OWN_TASKS)}: describe the task "
            "in full, as for your own files"
        )
    return best, number
