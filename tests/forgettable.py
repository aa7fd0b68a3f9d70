"""Small roots with users to forget."""

from builders import user

from hydra_ray import storage
from hydra_ray.generate.completion_store import asker_of
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Completion, SystemAnswer, User, to_table
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.plan import Plan


def person(user_id: str, fold: int | None = None, is_new: bool = False) -> User:
    """A user with one query."""
    someone = user(is_new=is_new)
    return User(user_id=user_id, is_new=is_new, fold=fold, history=someone.history, queries=someone.queries)


def answered(someone: User) -> AnsweredUser:
    """Answers to a user's query, with a reason of the user's own."""
    answers = (SystemAnswer(system="hydra", value="comedy", error=None),)
    query = AnsweredQuery(query_id="q", answers=answers, pool=(), reason=f"because of {someone.user_id}")
    return AnsweredUser(
        user_id=someone.user_id, num_history=4, reranker_head="shared", adapter_head="shared", queries=(query,)
    )


def completion_of(user_id: str) -> Completion:
    """Nothing that the generator wrote."""
    return Completion(request_id=f"request of {user_id}", user_id=user_id, prompt_tokens=1, generations=(), error=None)


def fill(plan: Plan, *people: User) -> None:
    """Put people into one bucket of some tables of a run, and complete the stages that have manifests."""
    counters = {"users": len(people), "train_users": sum(not each.is_new for each in people)}
    storage.write_part(plan.users.part("users", 0), to_table(people, User), counters)
    storage.write_part(plan.answers.part("answers", 0), to_table(map(answered, people), AnsweredUser))
    asker = asker_of(plan.probes.name, plan.probes.fingerprint)
    plan.completions.write(0, asker, [completion_of(each.user_id) for each in people])
    for stage in plan.stages():
        stage.complete(0, counters if stage == plan.users else {})


def teach(stage: Stage, *names: str) -> None:
    """Put something that was learned into folders of a stage."""
    for name in names:
        storage.write_bytes(storage.join(stage.folder, name), b"weights")
