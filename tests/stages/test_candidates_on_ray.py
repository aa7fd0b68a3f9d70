"""Candidates drafted by Ray's workers, by records that an encoder retrieves: the stage alone."""

import json
from pathlib import Path

import pytest
from builders import ENCODER, run_config
from planted_preferences import ASKED, PREFERENCE, preferences

from hydra_ray.rows import AnsweredUser, DraftedUser, ProbedUser, arrow_schema, from_table
from hydra_ray.stages.probes import RETRIEVED
from hydra_ray.stages.run import personalize
from hydra_ray.stages.tables import CANDIDATES
from hydra_ray.storage import read_part

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray"), pytest.mark.filterwarnings("default")]


def test_drafts_are_made_and_chosen_among(tmp_path: Path):
    asked = [{"id": "q", "input": f"{ASKED} Any."}]
    rows = [*preferences(12, 6, 1, seed=0, is_new=False)]
    rows += [{**row, "queries": asked} for row in preferences(4, 5, 0, seed=1, is_new=True)]
    (tmp_path / "users.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = PREFERENCE.model_dump(exclude_defaults=True)
    plan = personalize(
        run_config(
            str(tmp_path / "root"),
            lamp={"task": task, "planted": None, "users_files": [str(tmp_path / "users.jsonl")]},
            retrieve={"method": "dense", "encoder": ENCODER},
            drafts={"prompts": ["zero_shot", "rag_k"], "num_records": 2, "num_samples": 3},
        )
    )
    stage = plan.stage(CANDIDATES)

    def rows_of(location: str, row_type: type) -> list:
        return list(from_table(read_part(location, arrow_schema(row_type)), row_type))

    drafted = {row.user_id: row for part in stage.parts(CANDIDATES) for row in rows_of(part, DraftedUser)}
    retrieved = [row for part in stage.parts(RETRIEVED) for row in rows_of(part, ProbedUser)]
    answered = [row for part in plan.answers.parts("answers") for row in rows_of(part, AnsweredUser)]
    assert {row.user_id for row in answered} == {row.user_id for row in retrieved} == set(drafted)
    assert all(len(query.retrieved) == 2 for row in retrieved for query in row.queries)
    for row in answered:
        (query,) = drafted[row.user_id].queries
        written = {draft.answer.value for draft in query.drafts}
        assert len(query.drafts) == 2 + 3
        assert {each.value for each in row.queries[0].answers} <= written
    assert stage.manifest()["counters"]["requests"] == 4 * 3
