"""What is known of each user: the history, and the codes of the heads, as exported, pulled or learned in memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.lamp.changes import HandedIn, Joined, joined_history
from hydra_ray.lamp.users import USERS
from hydra_ray.rows import Record, User, arrow_schema, from_table
from hydra_ray.scorer.heads.store import HeadStore, Lineage, heads_table, row_groups_of
from hydra_ray.scorer.linear.groups import Floats
from hydra_ray.serving.export_folder import FOLD, Exported

CODES = "adapter.codes"
"""Name of the stage of own heads that are fitted to all records."""
SHARED = "shared"
"""Name of the kind of a head without a code."""
MAX_KEPT_USERS = 10_000
"""Number of users whose histories and codes stay in memory."""
MAX_LEARNED_USERS = 10_000
"""Number of users of whom something is learned in memory; of more, those who were asked for longest ago lose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownUser:
    """One user. Key: user.user_id."""

    user: User
    """User without queries; without records where the user is unknown."""
    heads: Mapping[str, pa.Table] = field(default_factory=dict[str, pa.Table])
    """The user's row of the heads table (HEADS_SCHEMA), where there is one, by the scorer's name: reranker, adapter."""
    code_R: Floats | None = None
    """Code of the own head that is fitted to all records; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What was learned in memory of one user."""

    changes: tuple[HandedIn, ...]
    """What was handed in, oldest first."""
    now: KnownUser


class Known:
    """Users of an export, of whom each is either as before something was learned or as after it; for any number of
    threads. They are read when they are first needed."""

    def __init__(
        self,
        layers: Sequence[Exported],
        lineages: Mapping[str, Lineage],
        fit: Callable[[User], Floats | None],
        is_forgotten: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Begin with nothing learned in memory.

        Args:
            layers: tables of users, newest first: whoever is in one is read from it alone.
            lineages: lineage of each table of heads, by the name of its stage.
            fit: fits the own head of a user to all records; returns None where there are no such heads.
            is_forgotten: whether a user is unknown, whatever is in the layers.
        """
        self._layers = [_Layer(each, lineages) for each in layers]
        self._fit, self._is_forgotten = fit, is_forgotten
        self._read = lru_cache(MAX_KEPT_USERS)(self._read_user)
        self._learned: OrderedDict[str, Learned] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, user_id: str) -> KnownUser:
        """Return what is known of a user.

        Raises:
            StorageError: a part is missing or damaged.
            HeadMismatchError: heads belong to another base or head prior.
        """
        with self._lock:
            learned = self._learned.get(user_id)
            if learned is not None:
                self._learned.move_to_end(user_id)
        return self._read(user_id) if learned is None else learned.now

    def learn(self, user_id: str, changes: HandedIn) -> KnownUser:
        """Take what is new of a user, unless the user was forgotten; no other thread may learn meanwhile.

        Raises:
            MalformedError: a record has the id of another one and is not to replace it.
        """
        known, before = self.of(user_id), self._learned.get(user_id)
        joined = joined_history(known.user.history, changes.history, changes.replaced, changes.withdrawn)
        if joined.is_changed and not self._is_forgotten(user_id):
            known = self._fitted(known, joined)
            self._keep(user_id, Learned(changes=(*(before.changes if before else ()), changes), now=known))
        return known

    def take_learned(self, other: "Known") -> None:
        """Learn again what `other` learned in memory, where it is not known by now; nobody may learn meanwhile.

        A record that was added there and is here with another content stays as it is here.
        """
        for user_id, learned in list(other._learned.items()):
            for changes in learned.changes:
                kept = _without_conflicts(changes, self.of(user_id).user.history)
                self.learn(user_id, kept)

    def _fitted(self, known: KnownUser, joined: Joined) -> KnownUser:
        # As in an update: whoever comes back is a new user.
        user = replace(known.user, is_new=True, fold=None, history=joined.history)
        return replace(known, user=user, code_R=self._fit(user))

    def _keep(self, user_id: str, learned: Learned) -> None:
        with self._lock:
            self._learned[user_id] = learned
            self._learned.move_to_end(user_id)
            if len(self._learned) > MAX_LEARNED_USERS:
                self._learned.popitem(last=False)

    def _read_user(self, user_id: str) -> KnownUser:
        if not self._is_forgotten(user_id):
            for layer in self._layers:
                if (found := layer.user(user_id)) is not None:
                    return found
        return KnownUser(user=User(user_id=user_id, is_new=True, history=(), queries=()))


class _Layer:
    """Tables of users of one folder."""

    def __init__(self, exported: Exported, lineages: Mapping[str, Lineage]) -> None:
        self._exported = exported
        self._stores = {
            name: HeadStore(stage=exported.stage(name), fold=FOLD, bucket_key=exported.bucket_key, lineage=lineage)
            for name, lineage in lineages.items()
        }

    def user(self, user_id: str) -> KnownUser | None:
        user = self._history(user_id)
        if user is None:
            return None
        rows = {name: table for name in self._stores if (table := self._head(name, user_id)) is not None}
        codes = rows.pop(CODES, None)
        return KnownUser(
            user=user,
            heads={name.removesuffix(".heads"): table for name, table in rows.items()},
            code_R=None if codes is None else np.array(codes["code"][0].as_py()),
        )

    def _history(self, user_id: str) -> User | None:
        location = self._exported.part_of(self._exported.stage(USERS), USERS, user_id)
        if location is None:
            return None
        for table in storage.read_row_groups(
            location, arrow_schema(User), choose=lambda file: row_groups_of(file, [user_id], location)
        ):
            user_ids = table["user_id"].to_pylist()
            if user_id in user_ids:
                return next(from_table(table.slice(user_ids.index(user_id), 1), User))
        return None

    def _head(self, name: str, user_id: str) -> pa.Table | None:
        store = self._stores[name]
        if self._exported.part_of(store.stage, heads_table(FOLD), user_id) is None:
            return None
        table = store.read_heads_of([user_id])
        return table if table.num_rows else None


def _without_conflicts(changes: HandedIn, history: Sequence[Record]) -> HandedIn:
    """Return the changes without the records to add that are there by now with another content."""
    there = {record.record_id: record for record in history if record.record_id not in changes.withdrawn}
    kept = HandedIn(is_update=True)
    for record_id in changes.withdrawn:
        kept.take("delete", Record(record_id=record_id, input="", output=""))
    for record in changes.history:
        if record.record_id in changes.replaced:
            kept.take("replace", record)
        elif there.get(record.record_id, record) == record:
            kept.take("add", record)
    return kept
