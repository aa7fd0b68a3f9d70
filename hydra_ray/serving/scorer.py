"""Scorer of single requests by an exported run, in this process: without Ray, root or generator."""

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra_ray import storage
from hydra_ray.adapt.label_model import needs_label_model, read_label_model
from hydra_ray.adapt.own_labels import needs_own_heads
from hydra_ray.config import RunConfig, Task
from hydra_ray.conversations import Conversation
from hydra_ray.errors import InputError
from hydra_ray.extras import naming_extras
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.user_files import handed_in_records, read_record
from hydra_ray.rows import Query, Record, User
from hydra_ray.runs.root import absolute_root
from hydra_ray.scorer.base.encoder import open_encoder
from hydra_ray.scorer.linear.groups import Floats
from hydra_ray.serving.by_drafts import DraftsScorer, Models
from hydra_ray.serving.by_records import RecordsScorer
from hydra_ray.serving.encoding import ENCODING, KeptVectors
from hydra_ray.serving.export_folder import ENCODER, RETRIEVER, Exported, read_export
from hydra_ray.serving.known import Known, KnownUser
from hydra_ray.serving.outcomes import QUERY_ID, Chosen, Given, Scores
from hydra_ray.serving.own_heads import OwnHeadScorer
from hydra_ray.serving.prompts import ServedPrompt
from hydra_ray.serving.pull import Generation, generation_of, pull_generation
from hydra_ray.serving.texts import input_text, with_text
from hydra_ray.temporary import temporary_folder

History = Sequence[Record | Mapping[str, Any]]
"""Records of a user: each a `Record`, or a mapping as in users' files."""


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
    """Selects records and scores drafts for one request at a time, from any number of threads."""

    def __init__(self, exported: Exported) -> None:
        """Load everything but users and heads, which are read when they are first needed."""
        self.config: RunConfig = exported.config
        """Configuration of the exported run."""
        self.task: Task = task_of(exported.config.lamp)
        models = _models_of(exported, self.task)
        self._drafts = DraftsScorer(exported, self.task, models) if self.config.has_scorers else None
        scorer = self._drafts or RecordsScorer(self.task, _required(models.own_heads))
        self._scorer: DraftsScorer | RecordsScorer = scorer
        self._exported, self._own_heads = exported, models.own_heads
        self._known = Known([exported], scorer.lineages, self._fitted)
        self._generation = Generation()
        self._changing = threading.Lock()

    def score(
        self,
        user: str,
        query: str | Conversation,
        drafts: Given = (),
        *,
        history: History | None = None,
    ) -> Scores:
        """Score drafts of an answer by the user's head.

        Args:
            user: id as in the run; an unknown user is scored by the heads that codes add to: the shared head, and the
                routed ones mixed by the history.
            query: input without the task's instruction: a text, or a list of messages with role and content.
            drafts: answers of the generator: a text, or a list of messages whose last one, the assistant's, is the
                answer (those before it belong into the query). A text counts as a sample of a prompt of its own; a
                `Draft` also names its prompt, and so has all features that it had in the run; a `Probe` is an answer to
                a prompt with one record, which counts as it did in the run. In a preference task they are the
                candidates; a run without a generator scores the labels of a closed task without any.
            history: the user's records, each a `Record` or a mapping as in users' files (`{"input": ..., "output":
                ...}`, with an id and a date if known), whose inputs may be lists of messages; by default those that
                are known.

        Raises:
            InputError: the query, a draft or a record is a list of messages that is none.
        """
        known = self._known.of(user)
        return self._scorer.scores(self._asked(known, query, history), known, drafts)

    def choose(
        self,
        user: str,
        query: str | Conversation,
        drafts: Given = (),
        *,
        history: History | None = None,
    ) -> Chosen:
        """Choose the answer among drafts, as the run would have answered the query: by the system that its gate chose.

        The arguments are those of `score`. Drafts that `ServedPrompt.answered` makes of the answers to `prompts` have
        all that the run had; texts alone are samples of no known prompt.

        Raises:
            InputError: as in `score`, or an earlier version made the export, without the gate.
        """
        known = self._known.of(user)
        return self._scorer.chosen(self._asked(known, query, history), known, drafts)

    def prompts(self, user: str, query: str | Conversation, *, history: History | None = None) -> list[ServedPrompt]:
        """Return the prompts that the run would send for a query, as far as its answer depends on them: those of the
        drafts, with the records that the heads choose, and one-record prompts. None without a generator. The arguments
        are those of `score`.

        Raises:
            InputError: the query or a record is a list of messages that is none, or an earlier version made the export,
                without the generator's tokenizer.
            ConfigError: the query does not fit into the generator's context.
        """
        known = self._known.of(user)
        asked = self._asked(known, query, history)
        with ENCODING:  # the generator's tokenizer, too, is for one thread at a time
            return list(self._scorer.prompts(asked, known))

    def choose_records(self, user: str, query: str | Conversation, *, history: History | None = None) -> list[Record]:
        """Return the k records, best first, that the user's head of the reranker selects for the prompt.

        Raises:
            InputError: the run has no generator, and so neither prompts nor a reranker.
        """
        if self._drafts is None:
            raise InputError(f"the run {self.config.run} has no generator, and so no prompts to choose records for")
        known = self._known.of(user)
        return self._drafts.records(self._asked(known, query, history), known)

    def learn(self, user: str, records: Iterable[Record | Mapping[str, Any]]) -> None:
        """Learn new records of a user, in memory alone: nothing is written, and a process that starts later knows none
        of it. The user's own head is then fitted to the whole history; an unknown user becomes a known one.

        Heads that are fitted to the generator's answers (those of the reranker, and of the adapter in text tasks) stay
        as they are until the next update; prompts and features read the new records at once. What is learned of more
        than 10,000 users is lost again for those who were asked for longest ago.

        Args:
            user: id as in the run.
            records: as in the history of a row of users' files (`id`, `input`, `output`, `date`, `op`; of preferences
                `chosen` and `rejected`), or records, to add. Those without an id are named by their content, so that
                what is learned twice counts once.

        Raises:
            InputError: one is no record, or has the id of another one and is not to replace it.
        """
        with self._changing:
            try:
                self._known.learn(user, handed_in_records(self.task, records))
            except MalformedError as error:
                raise InputError(f"what is to be learned of a user cannot be used: {error.reason}.") from error

    def pull(self, run: str | Path | None = None) -> tuple[str, ...]:
        """Take what is new since the export: the histories and heads of everybody who came with an update of the run,
        and forget whoever was removed from the run's root. What was learned in memory stays, unless an update has it.

        Requests that are being answered meanwhile are answered as before. Nothing is changed in the exported folder.

        Args:
            run: the run's folder, `<storage.root>/runs/<run>`; by default where the export found it.

        Returns:
            Names of the updates that are known beside the export, oldest first.

        Raises:
            InputError: there is no such run, or it is not the exported one.
            StorageError: a part of an update is missing or damaged; what was known before stays.
        """
        folder = self._exported.run_folder if run is None else absolute_root(str(run))
        if folder is None:
            raise InputError(
                f"{self._exported.folder} was exported by an earlier version and does not know its run: give the run's "
                "folder, <storage.root>/runs/<run>"
            )
        with self._changing:
            generation = generation_of(self._exported, folder, self._generation)
            if generation != self._generation:
                self._known, self._generation = self._pulled(folder, generation)
        return self._generation.updates

    def _pulled(self, run_folder: str, generation: Generation) -> tuple[Known, Generation]:
        with ExitStack() as stack:
            folder = stack.enter_context(temporary_folder("pulled"))
            lineages = self._scorer.lineages
            pulled = pull_generation(self._exported, lineages, run_folder, generation, folder)
            layers = [self._exported] if pulled.layer is None else [pulled.layer, self._exported]
            known = Known(layers, lineages, self._fitted, pulled.is_forgotten)
            known.take_learned(self._known)
            # The folder is removed with the last request that reads it.
            weakref.finalize(known, stack.pop_all().close)
        return known, pulled.generation

    def _asked(self, known: KnownUser, query: str | Conversation, history: History | None) -> User:
        """Return the user with the one query of a request."""
        return User(
            user_id=known.user.user_id,
            is_new=True,
            history=known.user.history if history is None else self._given_records(history),
            queries=(Query(query_id=QUERY_ID, input=input_text(query, "the query"), target=None),),
        )

    def _given_records(self, history: History) -> tuple[Record, ...]:
        return tuple(
            with_text(each) if isinstance(each, Record) else read_record(self.task, place, each)
            for place, each in enumerate(history)
        )

    def _fitted(self, user: User) -> Floats | None:
        return None if self._own_heads is None else self._own_heads.fit(user)

    def history_of(self, user: str) -> tuple[Record, ...]:
        """Return the records of a user; none if the user is not known."""
        return self._known.of(user).user.history


def _models_of(exported: Exported, task: Task) -> Models:
    config = exported.config
    retrieve = config.retrieve
    encode = KeptVectors(open_encoder(exported.path(ENCODER), config.adapter.base.max_text_tokens))
    has_labels, has_own_heads = needs_label_model(task, config), needs_own_heads(task, config)
    labels = read_label_model(exported.stage("adapter.labeller").folder) if has_labels else None
    return Models(
        encode=encode,
        search=KeptVectors(open_encoder(exported.path(RETRIEVER), retrieve.max_text_tokens))
        if config.has_scorers and retrieve.needs_encoder
        else None,
        labels=labels,
        own_heads=OwnHeadScorer(exported, task, labels, encode) if labels is not None and has_own_heads else None,
    )


def _required(own_heads: OwnHeadScorer | None) -> OwnHeadScorer:
    assert own_heads is not None, "no generator and no own heads"
    return own_heads
