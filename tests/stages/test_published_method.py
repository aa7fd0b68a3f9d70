"""The published method from end to end: paper.yaml with a few users, a tiny encoder, narrow heads and a generator that
copies."""

import json
from collections.abc import Sequence
from pathlib import Path

import in_process
import pytest
from builders import GENERATOR

from hydra_ray.config import load_config
from hydra_ray.rows import UserExamples, arrow_schema, from_table
from hydra_ray.runs.user_answers import all_answers
from hydra_ray.scorer.heads.store import HEADS_SCHEMA, heads_table
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.stages.scorer import EXAMPLES
from hydra_ray.storage import read_part, read_row_groups

PAPER = Path(__file__).parents[2] / "jobs" / "configs" / "paper.yaml"
SCORERS = ("reranker", "adapter")
WIDTH = 8
SMALL = (
    f"generator={{engine: fake, model: '{GENERATOR}', max_model_tokens: 512, max_text_tokens: 64}}",
    "users.num_buckets=1",
    "probes={num_records: 3, num_pseudo_queries: 2}",
    "drafts.num_records=2",
    "drafts.num_samples=3",
    "drafts.num_pseudo_queries=2",
    "report.num_resamples=200",
    *(f"{name}.base.width={WIDTH}" for name in SCORERS),
    *(f"{name}.base.max_text_tokens=32" for name in SCORERS),
    *(f"{name}.heads.paper_width={WIDTH}" for name in SCORERS),
    *(f"{name}.heads.paper_epochs=3" for name in SCORERS),
    *(f"{name}.heads.num_folds=2" for name in SCORERS),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "about", "cats", "day", "news", "old", "rain", "sea", "text"]
    (folder / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), **sizes), add_pooling_layer=False).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def run(root: Path, encoder: str, *overrides: str) -> Plan:
    encoders = [f"{name}.base.encoder={encoder}" for name in SCORERS]
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        return personalize(load_config(PAPER, [f"storage.root={root}", *SMALL, *encoders, *overrides]))


def examples_of(plan: Plan, name: str) -> list[UserExamples]:
    location = plan.stage(f"{name}.examples").part(EXAMPLES, 0)
    return list(from_table(read_part(location, arrow_schema(UserExamples)), UserExamples))


def check_scorers(plan: Plan) -> None:
    """Every base was trained to its last epoch, and every user has a network of three layers of numbers."""
    for name in SCORERS:
        scorer = getattr(plan, name)
        assert scorer.interaction == "pair"
        for fold in range(scorer.num_folds):
            base = "base" if scorer.num_folds == 1 else f"base-{fold}"
            description = json.loads(Path(scorer.base.folder, base, "base.json").read_text())
            assert (description["training"]["best_epoch"], description["training"]["holdout_losses"]) == (2, [])
            for table in read_row_groups(scorer.heads.part(heads_table(fold), 0), HEADS_SCHEMA):
                assert set(table["configuration"].to_pylist()) == {"paper"}
                assert {len(code) for code in table["code"].to_pylist()} == {WIDTH * WIDTH + 3 * WIDTH + 2}
        qualities = {c.quality for user in examples_of(plan, name) for g in user.groups for c in g.candidates}
        assert qualities == {0.0, 1.0, None}


@pytest.mark.integration
def test_ratings_are_chosen_among_drafts_by_networks_that_were_trained_with_the_base(
    tmp_path: Path, encoder: str
) -> None:
    users = users_at(tmp_path, ["1", "3", "4", "5"])
    plan = run(tmp_path, encoder, f"lamp={{task: LaMP_3, users_files: ['{users}']}}")
    check_scorers(plan)
    for user in all_answers(plan.answers):
        for query in user.queries:
            (answer,) = [each.value for each in query.answers if each.system == "hydra"]
            assert answer in query.pool


@pytest.mark.integration
def test_targets_teach_the_adapter_of_texts_and_answer_nobody(tmp_path: Path, encoder: str) -> None:
    users = users_at(tmp_path, ["news of the day", "a walk by the sea", "old songs", "rain again"])
    plan = run(tmp_path, encoder, f"lamp={{task: LaMP_4, users_files: ['{users}']}}", "users.num_folds=2")
    check_scorers(plan)
    for user in examples_of(plan, "adapter"):
        for group in user.groups:
            right = [each.candidate_id for each in group.candidates if each.quality == 1]
            assert len(right) == (1 if group.is_pseudo else 0)
            assert not any("secret" in each.candidate_id for each in group.candidates)
    answers = [each.value or "" for user in all_answers(plan.answers) for q in user.queries for each in q.answers]
    assert answers
    assert not any("secret" in answer for answer in answers)


def users_at(folder: Path, outputs: Sequence[str]) -> Path:
    """A file of six users, three of them new, each with a query whose target is a text of its own, or a rating."""
    path = folder / "users.jsonl"
    is_rating = outputs[0].isdigit()
    with path.open("w") as file:
        for user in range(6):
            history = [
                {"id": f"r{n}", "input": f"text {n} of {user} about cats and rain", "output": outputs[(n * user) % 4]}
                for n in range(6)
            ]
            target = outputs[user % 4] if is_rating else f"secret {user}"
            queries = [{"id": "q", "input": "a text about rain", "target": target}]
            row = {"user_id": f"u{user}", "is_new": user > 2, "history": history, "queries": queries}
            file.write(json.dumps(row) + "\n")
    return path
