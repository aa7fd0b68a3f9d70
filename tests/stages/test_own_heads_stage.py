"""Own heads fitted to all records, in a run with a generator."""

import json
from collections.abc import Sequence
from pathlib import Path

import in_process
import numpy as np
import pytest
from builders import ENCODER, run_config

from hydra_ray.adapt.label_features import PREFITTED_NAMES
from hydra_ray.adapt.own_labels import items_of_user
from hydra_ray.adapt.own_model import OwnModel, read_own_model
from hydra_ray.config import RunConfig
from hydra_ray.retrieve.dense import Encode, Floats
from hydra_ray.rows import User, UserExamples, UserLabelLogs, arrow_schema, from_table
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import load_scorer
from hydra_ray.stages.item_vectors import VECTORS, read_vectors
from hydra_ray.stages.own_heads import LABELS, open_label_encoder
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.stages.scorer import EXAMPLES
from hydra_ray.storage import read_part

NUM_FOLDS = 3


def config_at(root: Path) -> RunConfig:
    base = {"encoder": ENCODER, "max_text_tokens": 48, "num_epochs": 0}
    scorer = {"base": base}
    return run_config(str(root), users={"num_folds": NUM_FOLDS}, reranker=scorer, adapter=scorer)


@pytest.fixture(scope="module")
def encoded() -> list[list[str]]:
    """Texts that the label model and the adapter's examples of the run have encoded, by call."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoded: list[list[str]]) -> Plan:
    """A cross-fitted run in a data set whose histories predict a gain, by decree."""

    def open_counting(plan: Plan) -> Encode:
        encode = open_label_encoder(plan)

        def counting(texts: Sequence[str]) -> Floats:
            encoded.append(list(texts))
            return encode(texts)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        patch.setattr(OwnModel, "is_on", property(lambda _: True))
        patch.setattr("hydra_ray.stages.adapter.open_label_encoder", open_counting)
        return personalize(config_at(tmp_path_factory.mktemp("root")))


def rows_of(plan: Plan, stage: str, table: str, row_type: type) -> dict:
    parts = [read_part(location, arrow_schema(row_type)) for location in plan.stage(stage).parts(table)]
    return {row.user_id: row for part in parts for row in from_table(part, row_type)}


def test_the_adapter_reads_what_own_heads_add_by_whose_head_it_is(finished: Plan):
    names = finished.adapter.handcrafted_names
    assert names[-2:] == PREFITTED_NAMES
    labels = rows_of(finished, "adapter.codes", LABELS, UserLabelLogs)
    seen = set()
    for user_id, row in rows_of(finished, "adapter.examples", EXAMPLES, UserExamples).items():
        logs = {each.query_id: each for each in labels[user_id].queries}
        for group in row.groups:
            gains = [each.plain[-1] for each in group.candidates]
            own = logs[group.query_id]
            heads = {"shared": own.by_records, "shuffled": own.by_other}
            expected = np.subtract(heads.get(group.variant, own.by_own), own.by_records)
            assert gains == pytest.approx(expected.tolist(), abs=1e-6)
            seen.add((group.variant, group.is_pseudo))
    assert {variant for variant, _ in seen} == {"personal", "shared", "shuffled", "retrieved"}
    assert ("personal", True) in seen


def test_texts_whose_vectors_codes_keep_are_not_encoded_for_examples(finished: Plan, encoded: list[list[str]]):
    users = rows_of(finished, "users", "users", User).values()
    items = {item for user in users for item in items_of_user(finished.task, user)}
    of_label_model, *of_examples = encoded
    assert set(of_label_model) <= items
    assert len(of_examples) == finished.users.num_buckets
    assert items.isdisjoint(text for texts in of_examples for text in texts)
    encode = open_label_encoder(finished)
    for bucket in finished.users.buckets:
        part = read_part(finished.users.part("users", bucket), arrow_schema(User))
        location = finished.stage("adapter.codes").part(VECTORS, bucket)
        for user in from_table(part, User):
            kept = read_vectors(location, finished.task, [user])
            alone = np.concatenate([encode([text]) for text in kept])
            # What a text is encoded together with changes rounding alone; in bfloat16 that is a hundredth.
            cosines = np.einsum("nh,nh->n", alone, np.stack(list(kept.values())))
            assert cosines.min() > 0.999


def test_no_codes_are_fitted_to_pseudo_queries_beside_them(finished: Plan):
    assert finished.adapter.config.heads.kinds == ("shared",)
    assert "lowrank" in finished.reranker.config.heads.kinds


def test_every_fold_has_a_basis_that_its_users_did_not_teach(finished: Plan):
    model = read_own_model(finished.own_model.folder)
    assert len(model.bases_FDR) == NUM_FOLDS + 1
    for one in range(NUM_FOLDS + 1):
        for other in range(one):
            assert not np.allclose(model.bases_FDR[one], model.bases_FDR[other])


def test_systems_without_a_generator_are_in_every_report_of_labels(finished: Plan):
    metrics = json.loads(Path(finished.run_folder, "metrics.json").read_text())
    assert {"constant", "text_only", "records_only", "own_heads", "rag_k", "oracle"} <= set(metrics["systems"])
    assert set(metrics["differences"]["own_heads"]) == {"records_only"}


def test_an_export_scores_with_own_heads(finished: Plan, tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnModel, "is_on", property(lambda _: True))
        export_run(finished, str(tmp_path / "export"))
        scorer = load_scorer(tmp_path / "export")
        labels = rows_of(finished, "adapter.codes", LABELS, UserLabelLogs)
        user = next(row for row in labels.values() if row.queries)
        query = next(each for each in user.queries if not each.query_id.startswith("record:"))
        assert scorer._own_heads is not None
        text = users_query(finished, user.user_id, query.query_id)
        known = scorer._known.of(user.user_id)
        logs = scorer._own_heads.logs_of(scorer._asked(known, text, None), known)
        assert logs.queries[0].by_own == pytest.approx(query.by_own, abs=5e-3)
        assert logs.queries[0].by_records == pytest.approx(query.by_records, abs=5e-3)
        assert scorer.score(user.user_id, text, ["comedy"]).choice is not None


def users_query(plan: Plan, user_id: str, query_id: str) -> str:
    user = rows_of(plan, "users", "users", User)[user_id]
    return next(query.input for query in user.queries if query.query_id == query_id)
