from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from hydra_ray.evaluate.baselines import consensus_answer, majority_answer, vote_answer

values = st.lists(st.sampled_from("abc"), min_size=1, max_size=12)


@settings(max_examples=60)
@given(values)
def test_the_majority_is_the_latest_of_the_most_frequent_outputs(outputs: list[str]) -> None:
    most = max(outputs.count(output) for output in outputs)
    expected = [output for output in outputs if outputs.count(output) == most][-1]
    assert majority_answer(outputs) == expected


@settings(max_examples=60)
@given(values)
def test_the_vote_is_the_first_drawn_of_the_most_frequent_answers(answers: list[str]) -> None:
    most = max(answers.count(answer) for answer in answers)
    assert vote_answer(answers) == next(answer for answer in answers if answers.count(answer) == most)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["a b c", "a b d", "a x d", "y z", "!"]), min_size=1, max_size=8))
def test_the_consensus_is_the_first_medoid_by_rouge_l(texts: list[str]) -> None:
    scorer = RougeScorer(["rougeL"])
    likeness = [sum(scorer.score(other, text)["rougeL"].fmeasure for other in texts) for text in texts]
    chosen = texts.index(consensus_answer(texts))
    assert likeness[chosen] == pytest.approx(max(likeness))
    assert all(each < likeness[chosen] + 1e-9 for each in likeness[:chosen])


@pytest.mark.parametrize("answer", [majority_answer, vote_answer, consensus_answer])
def test_nothing_to_choose_from_is_an_error(answer: Callable[[Sequence[str]], str]) -> None:
    with pytest.raises(ValueError, match="empty"):
        answer([])
