"""Scorer of single requests by an exported run, in this process: without Ray, root or generator.

The features are computed exactly as in the run (`adapt/adapter_examples.py`), from the user's history, the records
retrieved for the query, the reranker's weights of them, and the drafts. So the scores are the run's own, up to the
rounding of the encoder, which depends slightly on the texts in its batch.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hydra_ray import storage
from hydra_ray.adapt.adapter_examples import Drafted, adapter_examples
from hydra_ray.adapt.choosing import choose
from hydra_ray.adapt.label_model import needs_label_model, read_label_model
from hydra_ray.adapt.own_labels import needs_own_heads
from hydra_ray.config import RunConfig, Task
from hydra_ray.conversations import Conversation, conversation_text, last_answer
from hydra_ray.errors import InputError
from hydra_ray.extras import naming_extras
from hydra_ray.generate.parsing import failed_answer, parse_answer
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import USERS
from hydra_ray.rerank.reranker_examples import reranker_examples, select_records
from hydra_ray.retrieve.dense import Encode, Floats
from hydra_ray.retrieve.methods import Search, score_records
from hydra_ray.retrieve.ranking import rank
from hydra_ray.rows import (
    Answer,
    CandidateScore,
    Draft,
    DraftedQuery,
    DraftedUser,
    Generation,
    Group,
    Probe,
    ProbedQuery,
    ProbedUser,
    Query,
    Record,
    Retrieved,
    ScoredGroup,
    ScoredUser,
    User,
    arrow_schema,
    from_table,
)
from hydra_ray.scorer.base.encoder import open_encoder
from hydra_ray.scorer.heads.store import row_groups_of
from hydra_ray.serving.export_folder import ENCODER, RETRIEVER, Exported, read_export
from hydra_ray.serving.group_scores import GroupScorer, OwnHead
from hydra_ray.serving.own_heads import OwnHeadScorer

MAX_KEPT_TEXTS = 100_000
"""Number of texts whose vectors stay in memory."""
MAX_KEPT_USERS = 10_000
"""Number of users whose histories stay in memory."""
_GIVEN = "given"
"""Name of the prompt of drafts that are given as text only."""
_QUERY_ID = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of the candidates for a query by the user's head."""

    head: str
    """Name of the adapter's head kind; "shared" for a user without a code."""
    by_answer: dict[str, float]
    """Score of each candidate answer, higher is better: every label of a closed task; of a text task each distinct
    draft, and its truncated versions if the run used these (`drafts.has_cuts`).
    """
    choice: str | None
    """Answer with the highest expected quality; None without candidates."""


@naming_extras()
def load_scorer(folder: str | Path) -> "ServedScorer":
    """Load the scorer in a local folder made by `hydra-ray export`.

    Raises:
        InputError: it is no such folder.
        ModelError: an encoder cannot be loaded.
        StorageError: a part of it is missing or damaged.
    """
    if storage.is_uri(str(folder)):
        raise InputError(f"{folder} is a URI; encoders are loaded from local folders: copy the export first")
    return ServedScorer(read_export(str(Path(folder).expanduser().resolve())))


class ServedScorer:
    """Selects records and scores drafts for one request at a time; not thread-safe."""

    def __init__(self, exported: Exported) -> None:
        """Load everything but users and heads, which are read when they are first needed."""
        self.config: RunConfig = exported.config
        """Configuration of the exported run."""
        self.task: Task = task_of(exported.config.lamp)
        self._exported = exported
        self._reranker, self._adapter = GroupScorer(exported, "reranker"), GroupScorer(exported, "adapter")
        base, retrieve = self.config.adapter.base, self.config.retrieve
        self._encode = _Vectors(open_encoder(exported.path(ENCODER), base.max_text_tokens))
        self._search = (
            _Vectors(open_encoder(exported.path(RETRIEVER), retrieve.max_text_tokens))
            if retrieve.needs_encoder
            else None
        )
        has_labels = needs_label_model(self.task, self.config)
        self._label_model = read_label_model(exported.stage("adapter.labeller").folder) if has_labels else None
        self._own_heads = (
            OwnHeadScorer(exported, self.task, self._label_model, self._encode)
            if self._label_model is not None and needs_own_heads(self.task, self.config)
            else None
        )
        self._users: OrderedDict[str, User | None] = OrderedDict()

    def score(
        self,
        user: str,
        query: str | Conversation,
        drafts: Sequence[str | Conversation | Draft],
        *,
        history: Sequence[Record] | None = None,
        probes: Sequence[Probe] = (),
    ) -> Scores:
        """Score drafts of an answer by the user's head.

        Args:
            user: id as in the run; an unknown user is scored by the heads that codes add to: the shared head, and the
                routed ones mixed by the history.
            query: input without the task's instruction: a text, or a list of messages with role and content.
            drafts: answers of the generator: a text, or a list of messages whose last one, the assistant's, is the
                answer (those before it belong into the query). A text counts as a sample of a prompt of its own; a
                `Draft` also names its prompt, and so has all features that it had in the run.
            history: the user's records, whose inputs may be lists of messages; by default those that were exported.
            probes: the generator's answers with one retrieved record each, if there are any.
        """
        asked, probed = self._asked(user, query, history, probes)
        # The reranker is only used to weight probes, and encoding its pairs of texts takes longer than everything else.
        reranked = self._reranked(asked, probed) if probes else _unranked(user)
        drafted = _drafted(asked, [self._draft(place, draft) for place, draft in enumerate(drafts)])
        stored = self._stored(user)
        labels = self._own_heads.logs_of(asked, stored) if self._own_heads and stored else None
        row = Drafted(user=asked, probed=probed, scored=reranked, drafted=drafted, labels=labels)
        settings = self.config.drafts
        config = self.config.model_copy(
            update={"drafts": settings.model_copy(update={"sampled_prompts": (*settings.sampled_prompts, _GIVEN)})}
        )
        (examples,) = adapter_examples([row], self.task, config, self._encode, self._label_model)
        head = self._adapter.head_of(user)
        if not examples.groups:
            return Scores(head=head.name, by_answer={}, choice=None)
        scored = _scored_group(examples.groups[0], examples.history, self._adapter, head)
        by_answer = {each.candidate_id: each.personal for each in scored.candidates}
        return Scores(head=head.name, by_answer=by_answer, choice=choose(scored, "personal", self.task))

    def choose_records(
        self, user: str, query: str | Conversation, *, history: Sequence[Record] | None = None
    ) -> list[Record]:
        """Return the k records, best first, that the user's head of the reranker selects for the prompt."""
        asked, probed = self._asked(user, query, history, ())
        reranked = self._reranked(asked, probed)
        if not reranked.groups:
            return []
        scores = {each.candidate_id: each.personal for each in reranked.groups[0].candidates}
        by_id = {record.record_id: record for record in asked.history}
        return [by_id[record_id] for record_id in select_records(scores, self.config.drafts.num_records)]

    def history_of(self, user: str) -> tuple[Record, ...]:
        """Return the exported records of a user; none if the user is not in the export."""
        stored = self._stored(user)
        return stored.history if stored else ()

    def _stored(self, user: str) -> User | None:
        """Return a user as exported, without queries; None if the user is not in the export."""
        if user not in self._users:
            self._users[user] = self._read_user(user)
            if len(self._users) > MAX_KEPT_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(user)
        return self._users[user]

    def _asked(
        self, user_id: str, query: str | Conversation, history: Sequence[Record] | None, probes: Sequence[Probe]
    ) -> tuple[User, ProbedUser]:
        """Return the user and the query with its retrieved records."""
        asked = User(
            user_id=user_id,
            is_new=False,  # only evaluated users have the variants of the controls
            history=self.history_of(user_id) if history is None else tuple(map(_with_text, history)),
            queries=(Query(query_id=_QUERY_ID, input=_text(query, "the query"), target=None),),
        )
        retrieved = self._retrieved(asked)
        by_record = {probe.record_id: probe for probe in probes}
        query_row = ProbedQuery(
            query_id=_QUERY_ID,
            is_pseudo=False,
            retrieved=retrieved,
            probes=tuple(by_record.get(each.record_id) or self._no_probe(each.record_id) for each in retrieved),
        )
        return asked, ProbedUser(user_id=user_id, is_new=False, queries=(query_row,))

    def _reranked(self, asked: User, probed: ProbedUser) -> ScoredUser:
        """Return the reranker's scores of the retrieved records."""
        head = self._reranker.head_of(asked.user_id)
        examples = reranker_examples(asked, probed, self.task, self.config)
        scored = tuple(_scored_group(group, examples.history, self._reranker, head) for group in examples.groups)
        return ScoredUser(user_id=asked.user_id, is_new=False, head=head.name, groups=scored)

    def _retrieved(self, user: User) -> tuple[Retrieved, ...]:
        eligible = range(len(user.history))
        if not eligible:
            return ()
        search = Search(query=user.queries[0], is_pseudo=False, eligible=eligible)
        (scores,) = score_records(user, [search], self.config.retrieve, self._search)
        best = rank(scores, eligible, self.config.probes.num_records)
        return tuple(Retrieved(record_id=user.history[p].record_id, score=float(scores[p])) for p in best)

    def _no_probe(self, record_id: str) -> Probe:
        """Return a placeholder for a missing probe: it is evidence for or against no label."""
        labels = self.task.labels
        nothing = replace(
            failed_answer("not asked"), label_probabilities=(1 / len(labels),) * len(labels) if labels else ()
        )
        return Probe(record_id=record_id, answer=nothing, quality=None)

    def _draft(self, place: int, draft: str | Conversation | Draft) -> Draft:
        if isinstance(draft, Draft):
            return draft
        if not isinstance(draft, str):
            draft = _given(last_answer, draft, f"draft {place}")
        return Draft(prompt=_GIVEN, temperature=1.0, sample=place, answer=self._parsed(draft), quality=None)

    def _parsed(self, text: str) -> Answer:
        return parse_answer(self.task, Generation(text=text, num_tokens=len(text.split()), finish_reason="stop"))

    def _read_user(self, user_id: str) -> User | None:
        location = self._exported.part_of(self._exported.stage("users"), USERS, user_id)
        if location is None:
            return None
        for table in storage.read_row_groups(
            location, arrow_schema(User), choose=lambda file: row_groups_of(file, [user_id], location)
        ):
            user_ids = table["user_id"].to_pylist()
            if user_id in user_ids:
                return next(from_table(table.slice(user_ids.index(user_id), 1), User))
        return None


class _Vectors:
    """Encoder with a cache of the vectors of recent texts."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._kept: OrderedDict[str, Floats] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> Floats:
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if new:
            self._kept.update(zip(new, self._encode(new), strict=True))
        found = np.stack([self._kept[text] for text in texts])
        for text in texts:
            self._kept.move_to_end(text)
        while len(self._kept) > MAX_KEPT_TEXTS:
            self._kept.popitem(last=False)
        return found


def _with_text(record: Record) -> Record:
    return replace(record, input=_text(record.input, f"the input of record {record.record_id!r}"))


def _text(given: str | Conversation, what: str) -> str:
    return given if isinstance(given, str) else _given(conversation_text, given, what)


def _given(read: Callable[[object], str], given: Conversation, what: str) -> str:
    try:
        return read(given)
    except ValueError as error:
        raise InputError(f"{what} is {error}.") from error


def _unranked(user_id: str) -> ScoredUser:
    return ScoredUser(user_id=user_id, is_new=False, head="", groups=())


def _drafted(user: User, drafts: Sequence[Draft]) -> DraftedUser:
    query = DraftedQuery(query_id=_QUERY_ID, is_pseudo=False, prompts=(), drafts=tuple(drafts))
    return DraftedUser(user_id=user.user_id, is_new=False, queries=(query,))


def _scored_group(group: Group, history: Sequence[float], scorer: GroupScorer, head: OwnHead) -> ScoredGroup:
    scores = scorer.scores(group, history, head)
    scores["shuffled"] = scores["personal"]  # there is no other user
    candidates = (
        CandidateScore(candidate_id=each.candidate_id, **{name: float(own[place]) for name, own in scores.items()})
        for place, each in enumerate(group.candidates)
    )
    return ScoredGroup(
        group_id=group.group_id,
        query_id=group.query_id,
        variant=group.variant,
        is_pseudo=group.is_pseudo,
        candidates=tuple(candidates),
    )
