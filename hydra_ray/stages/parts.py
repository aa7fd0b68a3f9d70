"""How each stage makes one part: read the bucket's parts of its inputs, compute, commit its own.

Each class is small and picklable: it travels to the worker that makes the part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra_ray.adapt.adapter_examples import Drafted, adapter_examples
from hydra_ray.adapt.answers import Scored, answer_user
from hydra_ray.adapt.drafts import Ranked, draft_requests, label_drafts
from hydra_ray.adapt.gate import Gate, user_outcomes
from hydra_ray.adapt.label_model import fit_labeller, needs_labeller, read_labeller, sampled_users
from hydra_ray.adapt.profiles import profile_requests, written_profiles
from hydra_ray.config import RetrieveConfig, Task
from hydra_ray.engine.ray_data import Counters
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS, count_kinds, failures_of
from hydra_ray.generate.parsing import parse_answer, text_error
from hydra_ray.rerank.probes import label_probes, probe_requests, retrieve_records
from hydra_ray.rerank.reranker_examples import reranker_examples
from hydra_ray.retrieve.dense import Encode, encode_ahead
from hydra_ray.rows import (
    AnsweredUser,
    Asked,
    Completion,
    DraftedUser,
    Failure,
    GateOutcome,
    Generation,
    ProbedUser,
    ProfiledUser,
    RowT,
    ScoredUser,
    User,
    UserExamples,
    arrow_schema,
    from_table,
    to_table,
)
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.store import scores_table
from hydra_ray.stages.plan import Plan, ScorerPlan
from hydra_ray.storage import exists, read_part, write_part


class ProfilesPart:
    """Requests and texts of a bucket's profiles."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """One greedy request for each evaluated user."""
        config = self._plan.config.generator
        return list(profile_requests(_users(self._plan, bucket), self._plan.task, open_tokenizer(config), config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """The profiles."""
        rows = list(written_profiles(_users(self._plan, bucket), completions))
        counters = {**counters, "answers": len(completions), "failed": sum(row.error is not None for row in rows)}
        counters |= _write_failures(self._plan.profiles, bucket, completions, text_error)
        return _write(self._plan.profiles, "profiles", bucket, rows, ProfiledUser, counters)


class ProbesPart:
    """Stage 2: requests and labels of a bucket's probes."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """One greedy request for each query and record."""
        config = self._plan.config
        retrieved = self._retrieved(bucket)
        return list(probe_requests(retrieved, self._plan.task, open_tokenizer(config.generator), config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """The labelled probes."""
        rows = list(label_probes(self._retrieved(bucket), completions, self._plan.task))
        answers = [probe.answer for row in rows for query in row.queries for probe in query.probes]
        failed = _write_failures(self._plan.probes, bucket, completions, _error_in(self._plan.task))
        return _write(
            self._plan.probes, "probes", bucket, rows, ProbedUser, {**counters, **_parsing(answers), **failed}
        )

    def _retrieved(self, bucket: int) -> list[tuple[User, ProbedUser]]:
        """Users with what was retrieved for them: ranked once, as encoders of two machines may not agree."""
        users = _users(self._plan, bucket)
        stage, config = self._plan.probes, self._plan.config
        if not exists(stage.part("retrieved", bucket)):
            encode = open_retriever(users, config.retrieve)
            found = [retrieve_records(user, self._plan.task, config, encode) for user in users]
            _write(stage, "retrieved", bucket, found, ProbedUser, {})
        rows = _rows(stage, "retrieved", bucket, ProbedUser)
        return [(user, rows[user.user_id]) for user in users]


class DraftsPart:
    """Stage 4: requests and labels of a bucket's drafts."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """Greedy answers and samples for every prompt."""
        config = self._plan.config
        tokenizer = open_tokenizer(config.generator)
        return list(draft_requests(self.ranked(bucket), self._plan.task, tokenizer, config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """The labelled drafts."""
        rows = list(label_drafts(self.ranked(bucket), completions, self._plan.task, self._plan.config))
        answers = [draft.answer for row in rows for query in row.queries for draft in query.drafts]
        failed = _write_failures(self._plan.drafts, bucket, completions, _error_in(self._plan.task))
        return _write(
            self._plan.drafts, "drafts", bucket, rows, DraftedUser, {**counters, **_parsing(answers), **failed}
        )

    def ranked(self, bucket: int) -> list[Ranked]:
        """What the bucket's drafts are made of."""
        plan, users = self._plan, _users(self._plan, bucket)
        return _joined(
            Ranked,
            users,
            profiled=_rows(plan.profiles, "profiles", bucket, ProfiledUser),
            probed=_rows(plan.probes, "probes", bucket, ProbedUser),
            scored=_own_scores(plan.reranker, bucket, users),
        )


class RerankerExamplesPart:
    """Stage 3: a bucket's groups of retrieved records."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan = self._plan
        probed = _rows(plan.probes, "probes", bucket, ProbedUser)
        rows = [reranker_examples(user, probed[user.user_id], plan.task, plan.config) for user in _users(plan, bucket)]
        return _write(plan.reranker.examples, "examples", bucket, rows, UserExamples, {})


class AdapterExamplesPart:
    """Stage 5: a bucket's groups of possible answers; made once in each worker, since it loads the encoder."""

    def __init__(self, plan: Plan):
        from hydra_ray.scorer.base.encoder import open_encoder

        self._plan = plan
        base = plan.config.adapter.base
        self._encode = open_encoder(base.encoder, base.max_text_tokens)
        self._labeller = read_labeller(plan.labeller.folder) if needs_labeller(plan.task, plan.config) else None

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan, users = self._plan, _users(self._plan, bucket)
        rows = _joined(
            Drafted,
            users,
            probed=_rows(plan.probes, "probes", bucket, ProbedUser),
            scored=_own_scores(plan.reranker, bucket, users),
            drafted=_rows(plan.drafts, "drafts", bucket, DraftedUser),
        )
        examples = list(adapter_examples(rows, plan.task, plan.config, self._encode, self._labeller))
        return _write(plan.adapter.examples, "examples", bucket, examples, UserExamples, {})


def make_labeller(plan: Plan) -> Counters:
    """Fit what labels texts to the records of a sample of all users, and store it."""
    from hydra_ray.scorer.base.encoder import open_encoder

    if not needs_labeller(plan.task, plan.config):
        return {}
    base = plan.config.adapter.base
    encode = open_encoder(base.encoder, base.max_text_tokens)
    users = sampled_users(plan.task, (user for bucket in plan.users.buckets for user in _users(plan, bucket)))
    fit_labeller(plan.task, users, encode).write(plan.labeller.folder)
    return {"records": sum(len(user.history) for user in users)}


class GatePart:
    """How good a bucket's users are answered by each system that the gate chooses among, in each fold."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan = self._plan
        drafted = _rows(plan.drafts, "drafts", bucket, DraftedUser)
        folds = [_rows(plan.adapter.heads, scores_table(f), bucket, ScoredUser) for f in range(plan.adapter.num_folds)]
        rows = [
            outcome
            for user in _users(plan, bucket)
            for outcome in user_outcomes(user, drafted[user.user_id], [fold[user.user_id] for fold in folds], plan.task)
        ]
        return _write(plan.gate, "gate", bucket, rows, GateOutcome, {})


class AnswersPart:
    """Stage 6: the answers of all systems to a bucket's evaluated queries."""

    def __init__(self, plan: Plan, gates: Sequence[Gate | None]):
        """`gates`: one for each fold."""
        self._plan, self._gates = plan, gates

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan = self._plan
        rows = scored_users(plan, bucket)
        answered = [answer_user(row, plan.task, self._gates[row.user.fold or 0]) for row in rows]
        return _write(plan.answers, "answers", bucket, answered, AnsweredUser, {})


def scored_users(plan: Plan, bucket: int) -> list[Scored]:
    """Everything that the answers to a bucket's evaluated users are made from."""
    users = [user for user in _users(plan, bucket) if user.is_evaluated()]
    return _joined(
        Scored,
        users,
        probed=_rows(plan.probes, "probes", bucket, ProbedUser),
        drafted=_rows(plan.drafts, "drafts", bucket, DraftedUser),
        reranker=_own_scores(plan.reranker, bucket, users),
        adapter=_own_scores(plan.adapter, bucket, users),
        outcome=_own_outcomes(plan, bucket, users),
    )


def read_outcomes(gate: Stage) -> Iterator[GateOutcome]:
    """What a gate knows of all users, one bucket at a time."""
    for location in gate.parts("gate"):
        yield from from_table(read_part(location, arrow_schema(GateOutcome)), GateOutcome)


def _users(plan: Plan, bucket: int) -> list[User]:
    part = read_part(plan.users.part("users", bucket), arrow_schema(User))
    return list(from_table(part, User))


def _rows(stage: Stage, table: str, bucket: int, row_type: type) -> dict[str, Any]:
    """Rows of a part by user_id: nothing is joined by position."""
    part = read_part(stage.part(table, bucket), arrow_schema(row_type))
    return {row.user_id: row for row in from_table(part, row_type)}


def _joined(row_type: Callable[..., RowT], users: Sequence[User], **tables: Mapping[str, Any]) -> list[RowT]:
    """Each user with the user's row of every table."""
    return [row_type(user=user, **{name: rows[user.user_id] for name, rows in tables.items()}) for user in users]


def _own_scores(scorer: ScorerPlan, bucket: int, users: Sequence[User]) -> dict[str, ScoredUser]:
    """Each user's scores, in a cross-fitted run those of the fold in which the user is new."""
    folds = {fold: _rows(scorer.heads, scores_table(fold), bucket, ScoredUser) for fold in range(scorer.num_folds)}
    return {user.user_id: folds[user.fold or 0][user.user_id] for user in users}


def _own_outcomes(plan: Plan, bucket: int, users: Sequence[User]) -> dict[str, GateOutcome | None]:
    """What the gate knows of each user in the fold in which the user is new; nothing where the run is not gated."""
    if not plan.config.answers.is_gated:
        return {user.user_id: None for user in users}
    part = read_part(plan.gate.part("gate", bucket), arrow_schema(GateOutcome))
    found = {(outcome.user_id, outcome.fold): outcome for outcome in from_table(part, GateOutcome)}
    return {user.user_id: found[user.user_id, user.fold or 0] for user in users}


def open_retriever(users: Sequence[User], retrieve: RetrieveConfig) -> Encode | None:
    """The retriever's encoder, with the texts of all `users` encoded; None where it has none."""
    if not retrieve.needs_encoder or retrieve.encoder is None:
        return None
    from hydra_ray.scorer.base.encoder import open_encoder

    return encode_ahead(users, open_encoder(retrieve.encoder, retrieve.max_text_tokens))


def _parsing(answers: Sequence[Any]) -> Counters:
    """How the answers could be understood."""
    return {
        "answers": len(answers),
        "failed": sum(answer.error is not None for answer in answers),
        "inexact": sum(answer.error is None and not answer.is_exact for answer in answers),
    }


def _error_in(task: Task) -> Callable[[Generation], str | None]:
    """What tells why a generation is no answer to a query of the task."""
    return lambda generation: parse_answer(task, generation).error


def _write_failures(
    stage: Stage,
    bucket: int,
    completions: Mapping[str, Completion],
    error_of: Callable[[Generation], str | None],
) -> Counters:
    """The part of the stage's errors table, also where it is empty; returns how many there are of each kind.

    It is written before the stage's own table, whose part says that the bucket is done.
    """
    rows = list(failures_of(completions.values(), error_of))
    _write(stage, ERRORS, bucket, rows, Failure, {})
    return count_kinds(rows)


def _write(stage: Stage, table: str, bucket: int, rows: Sequence[Any], row_type: type, counters: Counters) -> Counters:
    counters = {"rows": len(rows), **counters}
    write_part(stage.part(table, bucket), to_table(rows, row_type), counters)
    return counters
