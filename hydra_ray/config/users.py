"""The sections `lamp` and `users`: where users come from, and how they are divided."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from hydra_ray.config.section import Plugin, Section
from hydra_ray.config.task import Task

NAMED, DESCRIBED = "<named>", "<described>"
"""Tags of the two ways to give a task, by which an error is told of the one that was taken."""


def _in_a_list(given: Any) -> Any:
    # Strict validation takes no list for a tuple once it has passed through here.
    return (given,) if isinstance(given, str) else tuple(cast(list[Any], given)) if isinstance(given, list) else given


class PlantedConfig(Section):
    """Planted-preference sample: seeded users whose hidden preferences are known."""

    num_train_users: int = Field(default=24, gt=0)
    """Number of training users, whose targets are learned from."""
    num_new_users: int = Field(default=12, gt=0)
    """Number of new users, who are evaluated, and of whom only the history is learned from."""
    num_records: int = Field(default=24, gt=1)
    """Number of history records of each user."""
    seed: int = 0
    """Seed of the sample."""


_Column = Annotated[str, Field(min_length=1)]
_Columns = Annotated[tuple[_Column, ...], Field(min_length=1)]


class ColumnsConfig(Section):
    """Names of the columns, or of the fields of objects, in `users_files`, where they are not the settings' own names.

    Null leaves a column out that has the setting's name and is something else. In rows of users the names hold for
    records and queries too.
    """

    user_id: _Column = "user_id"
    """Who the row is of."""
    input: Annotated[_Columns, BeforeValidator(_in_a_list, json_schema_input_type=_Column | _Columns)] = ("input",)
    """Input of a record or query. Several columns, such as a subject and a body, are joined, each a line of its own."""
    output: str | None = "output"
    """Output of a record."""
    target: str | None = "target"
    """Right answer of a query."""
    chosen: str | None = "chosen"
    """Preferred candidate of a record of the kind preference."""
    rejected: str | None = "rejected"
    """Candidate that was not preferred, or a list of these."""
    candidates: str | None = "candidates"
    """List of the candidates of a query of the kind preference, or with `ratings` of a record; in CSV as JSON."""
    ratings: str | None = "ratings"
    """List of the ratings of a record's `candidates`, higher is better; in CSV as JSON."""
    answers: str | None = "answers"
    """In the place of both, list of objects with a `text` and a `rating` each; in CSV as JSON."""
    date: str | None = "date"
    """Date of a record."""
    kind: str | None = "kind"
    """`record` or `query`: what a row of events is."""
    id: str | None = "id"
    """Id of a record or query."""
    op: str | None = "op"
    """`add`, `replace` or `delete`: what is done with a record."""
    history: _Column = "history"
    """List of a user's records."""
    queries: _Column = "queries"
    """List of a user's queries."""


class LampConfig(Section):
    """Users: exactly one of `root`, `users_files` and `planted` says where they come from."""

    task: Annotated[
        Annotated[str, Tag(NAMED)] | Annotated[Task, Tag(DESCRIBED)],
        Discriminator(lambda given: DESCRIBED if isinstance(given, Mapping | Task) else NAMED),
    ]
    """Name of a built-in task (LaMP_1, LaMP_2N, LaMP_2M, LaMP_3 to LaMP_7, planted), the description of a task of
    your own: a mapping of its settings, or module:name, a function of yours that returns one (see docs/plugins.md)."""
    metric: Plugin | None = None
    """Function of yours that judges an answer in the place of the metric of the task's kind, from 0 to 1, as
    module:name (see docs/plugins.md). Null takes the kind's own. The kind preference has no other."""
    root: str | None = None
    """Folder of official LaMP files: `<split>_questions.json` and `<split>_outputs.json`."""
    train_split: str | None = "train"
    """Split of the training users. Null where the run learns nothing of what users share, since another run did
    (`taught_by`)."""
    new_split: str = "dev"
    """Split of the new users: heads are fitted on their history, and their queries are evaluated."""
    users_files: Annotated[
        tuple[str, ...], BeforeValidator(_in_a_list, json_schema_input_type=str | tuple[str, ...])
    ] = ()
    """Files of your own users, one row a user or one an event (docs/own-data.md): files, folders of parts and
    patterns such as `/data/*.jsonl.gz`; one of them may stand without a list."""
    columns: ColumnsConfig = ColumnsConfig()
    """Names of columns in `users_files`."""
    planted: PlantedConfig | None = None
    """Planted-preference sample to make in the place of files that are read."""
    drop_leaks: bool = False
    """Whether users are left out whose history gives the target of a query away: in a text task by a record whose
    output is the target, in a closed task by a record whose input is that of the query, up to case and white space.
    They are counted in any case."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum((self.root is not None, bool(self.users_files), self.planted is not None)) != 1:
            raise ValueError("set exactly one of root, users_files and planted")
        return self


class UsersConfig(Section):
    """Stage `users`: raw files become users, divided into buckets."""

    num_buckets: Annotated[int, Field(gt=0)] | Literal["auto"] = 4
    """Number of buckets of users, and so of parts of every table. A part is the unit of work, commit and resumption:
    enough are needed to keep all workers busy, and each costs requests to the store. `auto` chooses a power of two when
    the run is first started, by the number of users, of requests to the generator (some 2,000 a part) and of its copies
    (2 parts or more each); the run keeps it."""
    bucket_key: str | None = Field(default=None, min_length=1, max_length=64)
    """Key of the hash that assigns users to buckets. Null takes the storage root's own secret. With a key given, runs
    under all roots divide users alike, and arrive at the very same figures."""
    max_rejected_fraction: float = Field(default=0.1, ge=0, le=1)
    """Largest share of malformed samples; with more the run stops."""
    max_users: int | None = Field(default=None, gt=0)
    """Largest number of samples that are read of each split, to try things out; null reads all."""
    num_folds: int = Field(default=1, gt=0)
    """Number of cross-fitting folds. With more than 1, the users of both splits are divided into folds, each user is
    new in one and trains in the others; the generator's answers are shared by all folds. With `taught_by` it must be
    1."""
    fold_seed: int = 0
    """Seed of the division into folds."""
    leaves_out_forgotten: bool = False
    """Whether what was learned from users who are now forgotten is learned again without them. Forgotten users are
    never taken in again in any case; with this, who was forgotten becomes part of the stages' fingerprints."""
