from builders import user
from test_drafts import drafted, ranked_user

from hydra_ray.adapt.examples import adapter_examples, greedy_answer, plain_names, sampled_answers
from hydra_ray.config import Task
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.records import Candidate, Group, User

PLANTED = TASKS["planted"]
TEXT = Task(name="titles", kind="text", instruction="Write a title:")


def examples(someone: User, *texts: str, task: Task = PLANTED):
    _, row = drafted(someone, *texts, task=task)
    return adapter_examples(someone, ranked_user(someone)[1], row, task)


def plain(candidate: Candidate, task: Task) -> dict[str, float]:
    return dict(zip(plain_names(task), candidate.plain, strict=True))


def own_group(groups: tuple[Group, ...], variant: str = "personal") -> Group:
    return next(group for group in groups if not group.is_pseudo and group.variant == variant)


def test_all_labels_are_candidates_of_a_closed_task():
    for group in examples(user(8), "comedy", "romance", "comedy").groups:
        assert [candidate.candidate_id for candidate in group.candidates] == list(PLANTED.labels)


def test_votes_mentions_and_history_are_features_of_each_label():
    someone = user(6)  # two records each of comedy, romance, fantasy; the query mentions comedy and romance
    group = own_group(examples(someone, "comedy", "romance", "comedy").groups)
    features = {candidate.text: plain(candidate, PLANTED) for candidate in group.candidates}
    assert {label: f["vote_share"] for label, f in features.items() if f["vote_share"]} == {
        "comedy": 2 / 3,
        "romance": 1 / 3,
    }
    assert {label for label, f in features.items() if f["is_mentioned"]} == {"comedy", "romance"}
    assert {label: f["history_share"] for label, f in features.items() if f["history_share"]} == {
        "comedy": 1 / 3,
        "romance": 1 / 3,
        "fantasy": 1 / 3,
    }
    assert all(
        f[f"label={label}"] == 1 and sum(f[f"label={o}"] for o in PLANTED.labels) == 1 for label, f in features.items()
    )


def test_a_pseudo_querys_own_record_does_not_count_in_its_features():
    someone = user(6)
    for group in examples(someone, "comedy").groups:
        if group.is_pseudo:
            shares = {c.text: plain(c, PLANTED)["history_share"] for c in group.candidates}
            target = next(r.output for r in someone.history if f"record:{r.record_id}" == group.query_id)
            assert shares[target] == 1 / 5


def test_every_drafted_variant_of_an_evaluated_query_is_a_group_without_qualities():
    groups = [group for group in examples(user(8), "comedy").groups if not group.is_pseudo]
    assert {group.variant for group in groups} == {"personal", "shared", "shuffled"}
    assert all(candidate.quality is None for group in groups for candidate in group.candidates)


def test_a_training_user_learns_from_the_target():
    group = own_group(examples(user(8, is_new=False), "comedy").groups)
    assert {c.text for c in group.candidates if c.quality == 1} == {"comedy"}


def test_the_distinct_drafts_are_the_candidates_of_a_text_task():
    groups = examples(user(8), "A story", "Another one", "A story", task=TEXT).groups
    for group in groups:
        assert [c.candidate_id for c in group.candidates] == ["A story", "Another one"]
        shares = [plain(c, TEXT)["vote_share"] for c in group.candidates]
        assert shares == [2 / 3, 1 / 3]


def test_the_greedy_answer_to_the_retrievers_prompt_is_always_a_candidate_of_a_text_task():
    _, row = drafted(user(8), "A story", task=TEXT)
    query = next(query for query in row.queries if not query.is_pseudo)
    assert greedy_answer(query, "rag_k") == "A story"
    assert sampled_answers(query, "personal") == ["A story"] * 3


def test_ratings_are_compared_with_the_users_mean():
    task = TASKS["LaMP_3"]
    names = plain_names(task)
    assert {"history_distance", "retrieved_distance", "vote_distance"} < set(names)
    assert len(names) == len(set(names))
