from pathlib import Path

import pytest
from builders import ENCODER, run_config
from model_files import write_model

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError
from hydra_ray.runs.root import receipt_location, root_key
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.stages.plan import plan_run


def fingerprints(config: RunConfig) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in plan_run(config).stages()}


BEFORE = fingerprints(run_config())


@pytest.mark.parametrize("scheme", ["gs", "abfs", "az", "hf", "https"])
@pytest.mark.parametrize("setting", ["storage.root", "lamp.users_files", "lamp.root"])
def test_a_store_that_is_not_supported_is_refused_by_name_wherever_it_is_given(setting: str, scheme: str):
    location = f"{scheme}://bucket/folder"
    own = {"task": "LaMP_2N", "planted": None, "users_files": [f"{location}/users.jsonl"]}
    lamp = {"task": "LaMP_2N", "planted": None, "root": location}
    config = {
        "storage.root": run_config(location),
        "lamp.users_files": run_config(lamp=own),
        "lamp.root": run_config(lamp=lamp),
    }[setting]
    with pytest.raises(ConfigError, match=f"{scheme}://bucket/folder.*s3://bucket/folder"):
        plan_run(config)


@pytest.fixture
def lamp_4(tmp_path: Path) -> str:
    """A folder with the files of a task; planning reads nothing of them but their fingerprints."""
    for name in ("train_questions", "train_outputs", "dev_questions"):
        (tmp_path / f"{name}.json").write_text("[]")
    return str(tmp_path)


def changed_stages(config: RunConfig) -> set[str]:
    return {name for name, value in fingerprints(config).items() if value != BEFORE[name]}


SCORER = ("examples", "base", "features", "heads")
AFTER_ADAPTER = {"gate", "answers", "report"}
AFTER_DRAFTS = {*(f"adapter.{step}" for step in SCORER), *AFTER_ADAPTER}
AFTER_RERANKER = {"drafts", *AFTER_DRAFTS}
AFTER_PROBES = {*(f"reranker.{step}" for step in SCORER), *AFTER_RERANKER}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"report": {"seed": 1}}, {"report"}),
        ({"answers": {"is_gated": False}}, {"answers", "report"}),
        ({"adapter": {"heads": {"ranks": [2]}}}, {"adapter.heads", *AFTER_ADAPTER}),
        ({"adapter": {"heads": {"prior_scale": 2}}}, {"adapter.heads", *AFTER_ADAPTER}),
        ({"drafts": {"temperatures": [0.5]}}, AFTER_RERANKER),
        ({"drafts": {"prompts": ["zero_shot", "rag_k"]}}, AFTER_RERANKER),
        ({"reranker": {"heads": {"ranks": [2]}}}, {"reranker.heads", *AFTER_RERANKER}),
        ({"reranker": {"has_plain_features": False}}, AFTER_PROBES),
        ({"adapter": {"has_plain_features": False}}, {"adapter.labeller", *AFTER_DRAFTS}),
        ({"adapter": {"has_own_labels": False}}, AFTER_DRAFTS),
        ({"probes": {"seed": 1}}, {"probes", *AFTER_PROBES}),
        ({"generator": {"seed": 1}}, {"profiles", "probes", *AFTER_PROBES}),
        ({"users": {"bucket_key": "other"}}, set(BEFORE)),
        ({"users": {"num_folds": 3}}, set(BEFORE)),
        ({"placement": {"generator_actors": 2}}, {"report"}),
    ],
)
def test_a_setting_changes_only_the_stages_that_depend_on_it(
    sections: dict[str, dict[str, object]], expected: set[str]
):
    assert changed_stages(run_config(**sections)) == expected


def test_who_was_forgotten_names_the_stages_only_where_that_is_asked_for(tmp_path: Path):
    plain, without = run_config(str(tmp_path)), run_config(str(tmp_path), users={"leaves_out_forgotten": True})
    before = fingerprints(plain)
    assert fingerprints(without)["adapter.heads"] == before["adapter.heads"]
    storage.write_json(receipt_location(str(tmp_path), "ab" * 16), {})
    assert fingerprints(plain) == before
    assert set(fingerprints(without).items()).isdisjoint(before.items())


def test_the_key_of_a_root_names_its_buckets_and_is_in_no_manifest(tmp_path: Path):
    plan = plan_run(run_config(str(tmp_path), users={"bucket_key": None}))
    key = root_key(str(tmp_path))
    assert plan.users.fingerprint != fingerprints(run_config(str(tmp_path)))["users"]
    plan.users.complete(0, {})
    assert key not in Path(plan.users.manifest_location).read_text()


def test_a_prior_as_it_was_estimated_is_no_setting_of_heads():
    assert "prior_scale" not in plan_run(run_config()).adapter.heads.plain_settings()["heads"]


def test_stages_are_in_the_order_they_run():
    assert tuple(dict.fromkeys(name.split(".")[0] for name in BEFORE)) == tuple(
        name
        for name in STAGE_NAMES
        if name != "candidates"  # of preferences alone
    )


def test_a_run_that_is_not_gated_makes_no_gate():
    assert set(BEFORE) - set(fingerprints(run_config(answers={"is_gated": False}))) == {"gate"}


def test_what_the_adapter_chooses_among_changes_nothing_that_is_asked():
    pool = {"candidates": "drafts", "num_probes": 1, "has_cuts": False}
    assert "drafts" not in changed_stages(run_config(drafts=pool))


def test_a_relative_root_is_refused():
    with pytest.raises(ConfigError, match=r"storage\.root is the relative path"):
        plan_run(run_config("outputs"))


def completions_of(**sections: dict[str, object]) -> str:
    return plan_run(run_config(**sections)).completions.folder


@pytest.mark.parametrize(
    "sections",
    [
        {"drafts": {"num_samples": 5}},
        {"probes": {"num_records": 4}},
        {"users": {"num_folds": 3}},
        {"generator": {"seed": 1}},
        {"generator": {"is_constrained": False, "prompt_form": "sentence"}},
        {"placement": {"generator_actors": 2}},
    ],
)
def test_runs_of_one_generator_share_what_it_has_answered(sections: dict[str, dict[str, object]]):
    assert completions_of(**sections) == completions_of()


def endpoint(**settings: object) -> dict[str, dict[str, object]]:
    """The section of a generator behind an endpoint."""
    return {
        "generator": {"engine": "openai", "api": {"base_url": "http://localhost/v1", "model": "small-1", **settings}}
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "https://elsewhere.example/v1"},
        {"api_key_env": "SOME_KEY"},
        {"requests_per_minute": 3, "tokens_per_minute": 100, "max_concurrent_requests": 5},
        {"max_attempts": 2, "request_deadline_seconds": 61, "breaker_seconds": 300},
        {"prompt_price": 1.5, "generated_price": 6},
        {"max_samples_per_call": 1, "length_field": "max_completion_tokens"},
    ],
)
def test_where_an_endpoint_is_and_how_it_is_asked_changes_no_stage(settings: dict[str, object]):
    before, after = (fingerprints(run_config(**endpoint(**each))) for each in ({}, settings))
    assert {name for name in before if before[name] != after[name]} == {"report"}
    assert completions_of(**endpoint(**settings)) == completions_of(**endpoint())


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "small-2"},
        {"model_version": "2025-06"},
        {"has_structured_outputs": True},
        {"has_log_probabilities": False},
    ],
)
def test_what_an_endpoint_serves_and_can_do_names_its_answers(settings: dict[str, object]):
    before, after = (fingerprints(run_config(**endpoint(**each))) for each in ({}, settings))
    assert {name for name in before if before[name] == after[name]} == {
        "users",
        "adapter.labeller",
        "adapter.own",
        "adapter.codes",
    }
    assert completions_of(**endpoint(**settings)) != completions_of(**endpoint())


def test_an_endpoint_gives_the_same_answers_whatever_fitted_the_prompts():
    other = endpoint()
    other["generator"] |= {"model": ENCODER, "max_model_tokens": 256, "dtype": "float32"}
    assert completions_of(**other) == completions_of(**endpoint())
    assert completions_of(**endpoint()) != completions_of()


@pytest.mark.parametrize(
    "sections",
    [
        {"generator": {"model": ENCODER}},
        {"generator": {"engine": "vllm"}},
        {"generator": {"dtype": "float32"}},
        {"generator": {"max_model_tokens": 1024}},
        {"users": {"num_buckets": 3}},
        {"users": {"bucket_key": "other"}},
    ],
)
def test_another_generator_or_other_buckets_share_nothing(sections: dict[str, dict[str, object]]):
    assert completions_of(**sections) != completions_of()


@pytest.mark.parametrize(
    ("num_folds", "num_epochs", "expected"),
    [(1, 2, [None]), (1, 0, [None]), (3, 0, [None, None, None]), (3, 2, [0, 1, 2])],
)
def test_a_trained_base_is_trained_for_each_fold_and_an_untrained_one_serves_all(
    num_folds: int, num_epochs: int, expected: list[int | None]
):
    scorer = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": num_epochs}}
    plan = plan_run(run_config(users={"num_folds": num_folds}, adapter=scorer, reranker=scorer))
    assert plan.adapter.base_folds == plan.reranker.base_folds == tuple(expected)


def test_only_where_one_label_is_right_is_the_rest_of_a_group_worth_nothing(lamp_4: str):
    closed = plan_run(run_config())
    text = plan_run(run_config(lamp={"task": "LaMP_4", "planted": None, "root": lamp_4}))
    assert (closed.reranker.has_soft_targets, closed.adapter.has_soft_targets, closed.adapter.interaction) == (
        True,
        False,
        "bilinear",
    )
    assert (text.reranker.has_soft_targets, text.adapter.has_soft_targets, text.adapter.interaction) == (
        True,
        True,
        "pair",
    )


def test_answers_of_a_closed_task_are_encoded_with_the_query_where_that_is_configured():
    usual = plan_run(run_config())
    as_usual, together = (
        plan_run(run_config(adapter={"base": {**run_config().adapter.base.model_dump(), "interaction": interaction}}))
        for interaction in ("bilinear", "pair")
    )
    assert together.adapter.interaction == "pair"
    assert as_usual.stage("adapter.base").fingerprint == usual.stage("adapter.base").fingerprint
    assert together.stage("adapter.base").fingerprint != usual.stage("adapter.base").fingerprint


def test_published_labels_are_other_examples():
    changed = {"labels": "published", "has_plain_features": False, "base": run_config().adapter.base.model_dump()}
    usual, plain = (
        plan_run(
            run_config(
                answers={"is_gated": False}, **{name: {**changed, "labels": labels} for name in ("reranker", "adapter")}
            )
        )
        for labels in ("quality", "published")
    )
    for name in ("reranker", "adapter"):
        assert usual.stage(f"{name}.examples").fingerprint != plain.stage(f"{name}.examples").fingerprint


def test_another_encoder_in_the_same_folder_changes_what_is_retrieved(tmp_path: Path):
    write_model(tmp_path)
    retrieve = {"retrieve": {"method": "dense", "encoder": str(tmp_path)}}
    before = fingerprints(run_config(**retrieve))
    assert before == fingerprints(run_config(**retrieve))
    write_model(tmp_path, seed=1)
    after = fingerprints(run_config(**retrieve))
    assert before["users"] == after["users"]
    assert before["probes"] != after["probes"]


def test_a_last_stage_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match=r"until is 'draft', expected one of users, .* drafts"):
        list(plan_run(run_config(str(tmp_path))).stages("draft"))
