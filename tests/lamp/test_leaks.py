import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.lamp.leaks import is_leaking
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Query, Record, User

texts = st.sampled_from(["", "a", "A ", " a\n", "a  b", "A\tb", "ab", "c"])


def user_of(records, queries):
    return User(
        user_id="u",
        is_new=True,
        history=tuple(Record(record_id=str(n), input=x, output=y) for n, (x, y) in enumerate(records)),
        queries=tuple(Query(query_id=str(n), input=x, target=y) for n, (x, y) in enumerate(queries)),
    )


@pytest.mark.parametrize(("name", "place"), [("LaMP_4", 1), ("LaMP_7", 1), ("LaMP_2M", 0), ("LaMP_3", 0)])
@given(
    records=st.lists(st.tuples(texts, texts), max_size=4),
    queries=st.lists(st.tuples(texts, st.one_of(st.none(), texts)), max_size=3),
)
def test_a_text_leaks_by_its_target_and_a_label_by_its_querys_input(name, place, records, queries):
    expected = False
    for record in records:
        for query in queries:
            told, asked = record[place], query[place]
            if asked is not None and asked.strip() and told.lower().split() == asked.lower().split():
                expected = True
    assert is_leaking(TASKS[name], user_of(records, queries)) == expected
