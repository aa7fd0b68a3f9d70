"""What `make fuzz` does with 20,000 mutated replies, here with a few hundred."""

from fuzz_targets import TARGETS
from reply_bodies import mutated, shapes
from seeded_replies import outcomes

from hydra_ray.generate.replies import read_answers


def test_mutated_replies_are_answers_or_reply_errors_and_what_is_stored_is_found():
    counts = outcomes(range(300))
    assert set(counts) == {"answered", "failed with ReplyError"}
    assert min(counts.values()) > 50


def test_the_replies_that_are_mutated_are_themselves_answers_but_the_error():
    *answers, _ = shapes()
    assert all(len(read_answers(body, 2, 20).generations) == 2 for body in answers)


def test_a_seed_makes_the_same_reply_again():
    assert [mutated(seed) for seed in range(20)] == [mutated(seed) for seed in range(20)]
    assert len({mutated(seed) for seed in range(20)}) == 20


def test_a_finding_is_counted_with_its_seed(monkeypatch):
    def raising(_: bytes) -> None:
        raise KeyError

    monkeypatch.setitem(TARGETS, "replies", raising)
    assert outcomes([7]) == {"CRASHED with KeyError at seed 7": 1}
