import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from builders import ENCODER, completion, run_config, user

from hydra_ray.rows import ProbedUser, User, arrow_schema, from_table, to_table
from hydra_ray.stages.plan import plan_run
from hydra_ray.stages.probes import ProbesPart
from hydra_ray.storage import read_part, write_part


@pytest.fixture
def install_encoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Puts a random encoder in the place of the real one; the list says how many texts each call had."""

    def install(seed: int) -> list[int]:
        calls: list[int] = []

        def encode(texts: Sequence[str]) -> np.ndarray:
            calls.append(len(texts))
            return np.random.default_rng(seed).normal(size=(len(texts), 4))

        encoder = SimpleNamespace(open_encoder=lambda spec, max_text_tokens, device: encode, CPU="cpu")
        monkeypatch.setitem(sys.modules, "hydra_ray.scorer.base.encoder", encoder)
        return calls

    return install


def test_records_are_ranked_once_even_if_another_machine_s_encoder_disagrees(tmp_path, install_encoder):
    retrieve = {"method": "dense", "encoder": ENCODER}
    plan = plan_run(run_config(str(tmp_path), retrieve=retrieve, users={"num_buckets": 1}))
    write_part(plan.users.part("users", 0), to_table([user(8)], User))
    calls = install_encoder(1)
    asked = ProbesPart(plan).requests(0)
    assert calls == [8 + 1]
    other_calls = install_encoder(2)
    assert ProbesPart(plan).requests(0) == asked
    ProbesPart(plan).commit(0, {each.key: completion(each.request, "comedy") for each in asked}, {})
    assert other_calls == []
    (row,) = from_table(read_part(plan.probes.part("probes", 0), arrow_schema(ProbedUser)), ProbedUser)
    assert len([probe for query in row.queries for probe in query.probes]) == len(asked)


def test_no_encoder_is_opened_for_a_retriever_without_one(tmp_path, install_encoder):
    plan = plan_run(run_config(str(tmp_path), retrieve={"encoder": ENCODER}, users={"num_buckets": 1}))
    write_part(plan.users.part("users", 0), to_table([user(8)], User))
    calls = install_encoder(1)
    assert ProbesPart(plan).requests(0)
    assert calls == []
