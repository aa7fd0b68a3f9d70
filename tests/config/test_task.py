import pytest

from hydra_ray.config import Task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "text", "labels": ("a",)}, "labels"),
        ({"kind": "rating"}, "labels"),
        ({"labels": ("a", "a")}, "distinct"),
        ({"kind": "rating", "labels": ("low", "high")}, "are numbers, got 'low'"),
        ({"kind": "rating", "labels": ("1", "nan")}, "are numbers, got 'nan'"),
        ({"input_pattern": "(?P<input>.{99999999999})"}, "regular expression"),
        ({"input_pattern": "(?:" * 5000 + "(?P<input>.)" + ")" * 5000}, "regular expression"),
        ({"input_pattern": "("}, "regular expression"),
        ({"input_pattern": ".+"}, "group named 'input'"),
    ],
)
def test_an_impossible_task_is_refused(changes, message):
    settings = {"name": "t", "kind": "classification", "instruction": "?", "labels": ("a", "b"), **changes}
    with pytest.raises(ValueError, match=message):
        Task.model_validate(settings)
