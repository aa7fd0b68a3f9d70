from builders import user
from test_drafts import drafted

from hydra_ray.adapt.answers import answer_user, choose
from hydra_ray.config import Task
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.records import CandidateScore, ScoredGroup, ScoredUser, User

TASK = TASKS["planted"]


def scored(someone: User, best: dict[str, str], labels: tuple[str, ...] = TASK.labels) -> ScoredUser:
    """Adapter scores in which each variant's head prefers the label that `best` gives."""
    groups = tuple(
        ScoredGroup(
            group_id=f"q/{variant}",
            query_id="q",
            variant=variant,
            is_pseudo=False,
            candidates=tuple(
                CandidateScore(
                    candidate_id=label,
                    personal=float(label == best["personal"]),
                    shared=float(label == best["shared"]),
                    shuffled=float(label == best["shuffled"]),
                )
                for label in labels
            ),
        )
        for variant in best
    )
    return ScoredUser(user_id=someone.user_id, is_new=True, head="lowrank-16", groups=groups)


BEST = {"personal": "comedy", "shared": "romance", "shuffled": "classic"}


def answers(someone: User, *texts: str) -> dict[str, str | None]:
    _, row = drafted(someone, *texts)
    answered = answer_user(someone, row, scored(someone, BEST), scored(someone, BEST), TASK)
    (query,) = answered.queries
    return {answer.system: answer.value for answer in query.answers}


def test_each_hydra_system_answers_with_its_own_head():
    found = answers(user(8), "fantasy")
    assert (found["hydra"], found["hydra_shared"], found["hydra_shuffled"]) == ("comedy", "romance", "classic")


def test_baselines_answer_from_the_same_generations():
    found = answers(user(8), "fantasy", "violence", "violence")
    assert found["zero_shot"] == found["rag_1"] == found["rag_k"] == "fantasy"
    assert found["vote"] == "violence"
    assert found["majority"] in {"comedy", "romance"}


def test_what_cannot_be_answered_is_an_error_and_never_empty():
    someone = user(0)
    _, row = drafted(someone, "no such label")
    (query,) = answer_user(someone, row, scored(someone, BEST), scored(someone, {}), TASK).queries
    for answer in query.answers:
        assert answer.value is None
        assert answer.error


def test_a_text_task_has_no_majority():
    task = Task(name="titles", kind="text", instruction="Write a title:")
    _, row = drafted(user(8), "A story", task=task)
    texts = {"personal": "A story", "shared": "A story", "shuffled": "A story"}
    rows = scored(user(8), texts, labels=("A story",))
    (query,) = answer_user(user(8), row, rows, rows, task).queries
    assert "majority" not in {answer.system for answer in query.answers}
    assert query.pool == ("A story",)


def test_among_equal_scores_the_first_candidate_is_chosen():
    group = scored(user(8), {"personal": "none", "shared": "none", "shuffled": "none"}).groups[0]
    assert choose(group, "personal") == TASK.labels[0]
