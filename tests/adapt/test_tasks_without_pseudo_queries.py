"""LaMP-1 (records are documents) and LaMP-7 (records have no input) go the same way as all other tasks."""

import json
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from builders import Rows, adapter_scores, examples_of, rows_of, run_config

from hydra_ray.adapt.answers import Scored, answer_user
from hydra_ray.adapt.gate import fit_gate, user_outcomes
from hydra_ray.evaluate.systems import HYDRA, PROMPT_SYSTEMS, VARIANTS
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.reranker_examples import reranker_examples
from hydra_ray.rows import AnsweredQuery, Query, Record, Request, User

PAPERS, TWEETS = TASKS["LaMP_1"], TASKS["LaMP_7"]
CONFIG = run_config()

AUTHOR = User(
    user_id="author",
    is_new=True,
    history=tuple(
        Record(record_id=str(n), input=f"We study {topic} in part {part}.", output=f"On {topic} {part}", date=n)
        for n, (topic, part) in enumerate(zip(("graphs", "trees", "graphs", "poems", "stars"), "abcde", strict=True))
    ),
    queries=(
        Query(query_id="q", input='"New graphs"\n[1]: "On graphs of old" [2]: "On cooking"', target="[1]"),
        Query(query_id="r", input='"New poems"\n[1]: "On cooking" [2]: "Poems"', target="[2]"),
    ),
)
TWEETER = User(
    user_id="tweeter",
    is_new=True,
    history=tuple(
        Record(record_id=str(n), input="", output=text)
        for n, text in enumerate(
            ("lol what fun", "so tired of mondays", "what a game!! lol", "ugh mondays", "coffee?", "i love cats lol")
        )
    ),
    queries=(Query(query_id="q", input="Mondays are tiring days.", target="ugh so tired of mondays"),),
)


def choosing(request: Request) -> list[str]:
    """The second option where records were shown and the first one otherwise; samples differ."""
    has_records = PAPERS.history_heading in request.messages[-1].content
    return ["[2]", "[1]", "?"] if request.temperature else ["[2]" if has_records else "[1]"]


def tweeting(request: Request) -> list[str]:
    """The last tweet shown, or the question again; samples differ."""
    shown = [message.content for message in request.messages if message.role == "assistant"]
    return ["mondays lol", "ugh", ""] if request.temperature else [(shown or [request.messages[-1].content])[-1]]


def answered(rows: Rows, task, preferred: str) -> tuple[AnsweredQuery, ...]:
    """The last steps: examples, scores, gate, answers."""
    (examples,) = examples_of(rows, task=task)
    scored = adapter_scores(rows.user, examples, dict.fromkeys(("personal", "shared", "shuffled", "routed"), preferred))
    (outcome,) = user_outcomes(rows.user, rows.drafted, [scored], task)
    assert (outcome.pseudo, outcome.num_pseudo, outcome.queries) == ((), 0, ())
    training = replace(outcome, is_new=False, queries=(0.1, 0.2, 0.4, 0.4))
    gate = fit_gate([training, outcome])
    row = Scored(user=rows.user, probed=rows.probed, drafted=rows.drafted, reranker=rows.scored, adapter=scored)
    return answer_user(row, task, gate).queries


@pytest.mark.parametrize(
    ("someone", "task", "write"), [(AUTHOR, PAPERS, choosing), (TWEETER, TWEETS, tweeting)], ids=["papers", "tweets"]
)
@pytest.mark.parametrize("is_new", [True, False])
def test_only_the_own_queries_are_asked_and_only_a_training_users_teach(someone: User, task, write, is_new: bool):
    rows = rows_of(replace(someone, is_new=is_new), write, task)
    own = [query.query_id for query in someone.queries]
    assert [query.query_id for query in rows.probed.queries] == own
    assert [query.query_id for query in rows.drafted.queries] == own
    assert all(len(query.probes) == CONFIG.probes.num_records for query in rows.probed.queries)
    records = reranker_examples(rows.user, rows.probed, task, CONFIG)
    (answers,) = examples_of(rows, task=task)
    for examples in (records, answers):
        assert {group.query_id for group in examples.groups} == set(own)
        qualities = [each.quality for group in examples.groups for each in group.candidates]
        assert all((quality is None) == is_new for quality in qualities)


def test_each_labels_text_is_its_own_options():
    rows = rows_of(AUTHOR, choosing, PAPERS)
    (examples,) = examples_of(rows, task=PAPERS)
    texts = {(group.query_id, each.candidate_id): each.text for group in examples.groups for each in group.candidates}
    assert texts == {
        ("q", "[1]"): "On graphs of old",
        ("q", "[2]"): "On cooking",
        ("r", "[1]"): "On cooking",
        ("r", "[2]"): "Poems",
    }


def test_a_papers_records_are_quoted_and_found_by_their_abstracts():
    rows = rows_of(AUTHOR, choosing, PAPERS)
    (request,) = [each.request for each in rows.asked if each.key == '["author", "q", "rag_k", 0.0]']
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.messages[-1].content.startswith('Papers by this author: "On graphs a", "On graphs c"')
    assert request.choices == ("[1]", "[2]")


def test_papers_are_answered_by_every_system_but_those_that_count_the_users_labels():
    queries = answered(rows_of(AUTHOR, choosing, PAPERS), PAPERS, "[1]")
    assert [query.query_id for query in queries] == ["q", "r"]
    for query in queries:
        found = {each.system: each.value for each in query.answers}
        assert set(found) == {*PROMPT_SYSTEMS, "vote", *VARIANTS, HYDRA}
        assert (found["zero_shot"], found["rag_k"], found["vote"]) == ("[1]", "[2]", "[2]")
        assert (query.choice, found["hydra"]) == ("hydra_shared", "[1]")
        assert query.pool == ("[2]", "[1]")


def test_tweets_are_examples_without_inputs_and_compete_as_drafts():
    rows = rows_of(TWEETER, tweeting, TWEETS)
    retrieved = [each.record_id for each in rows.probed.queries[0].retrieved]
    assert set(retrieved[:2]) == {"1", "3"}  # found by the tweets' own words
    (examples,) = examples_of(rows, task=TWEETS)
    candidates = [each.candidate_id for each in examples.groups[0].candidates]
    assert {
        "Mondays are tiring days.",
        "mondays lol",
        "ugh",
        *(TWEETER.history[int(n)].output for n in retrieved),
    } <= set(candidates)
    (query,) = answered(rows, TWEETS, "mondays lol")
    found = {each.system: each.value for each in query.answers}
    assert set(found) == {*PROMPT_SYSTEMS, "rag_cut", "knn", "vote", *VARIANTS, HYDRA}
    assert found["hydra"] == found["hydra_shared"] == "mondays lol"


@pytest.mark.lamp
@pytest.mark.parametrize("split", ["train", "dev"])
def test_real_tweeters_go_all_the_way(split: str):
    if "HYDRA_LAMP_DIR" not in os.environ:
        pytest.skip("HYDRA_LAMP_DIR is not set")
    root = Path(os.environ["HYDRA_LAMP_DIR"], "LaMP_7")
    golds = json.loads((root / f"{split}_outputs.json").read_text())["golds"]
    targets = {gold["id"]: gold["output"] for gold in golds}
    for sample in islice(read_samples(TWEETS, str(root), split, split == "dev"), 20):
        assert isinstance(sample, Sample)
        (query,) = sample.user.queries
        someone = replace(sample.user, queries=(replace(query, target=targets[query.query_id]),))
        rows = rows_numbered(someone)
        (examples,) = examples_of(rows, task=TWEETS)
        assert len(examples.groups) == (4 if someone.is_new else 1)
        for group in examples.groups:
            for each in group.candidates:
                target = someone.queries[0].target
                assert target is not None
                assert each.quality == (None if someone.is_new else quality(TWEETS, each.candidate_id, target))
        if someone.is_new:
            (answer,) = answered(rows, TWEETS, "mondays lol")
            assert all(each.value for each in answer.answers)


def rows_numbered(someone: User) -> Rows:
    """The rows of a user whose records get numbers for names, as the reranker's scores in tests need them."""
    history = tuple(replace(record, record_id=str(n)) for n, record in enumerate(someone.history))
    return rows_of(replace(someone, history=history), tweeting, TWEETS)
