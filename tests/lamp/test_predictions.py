import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray.lamp.predictions import official_predictions, read_predictions


@examples(max_examples=20)
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_the_file_is_what_json_dump_would_write(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("predictions") / "predictions.json"
    assert official_predictions("LaMP_2", iter(answers), str(path)) == len(answers)
    assert read_predictions(str(path)) == ("LaMP_2", answers)
    golds = [{"id": query_id, "output": output} for query_id, output in answers]
    assert json.loads(path.read_text(encoding="utf-8")) == {"task": "LaMP_2", "golds": golds}


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def answers() -> Iterator[tuple[str, str]]:
        yield "1", "comedy"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        official_predictions("LaMP_2", answers(), str(tmp_path / "predictions.json"))
    assert list(tmp_path.iterdir()) == []
