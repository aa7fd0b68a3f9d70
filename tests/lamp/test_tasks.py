import pytest

from hydra_ray.config import LampConfig
from hydra_ray.errors import ConfigError
from hydra_ray.lamp.tasks import TASKS, task_of

OFFICIAL_WORD_BEFORE_INPUT = {
    "LaMP_2N": " article: ",
    "LaMP_2M": " description: ",
    "planted": " description: ",
    "LaMP_3": " review: ",
    "LaMP_4": " ",
    "LaMP_5": " ",
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_instruction_is_stripped_and_nothing_else(name):
    text = "A text: with a colon,\nand a second line."
    task = TASKS[name]
    assert task.bare_input(task.instruction + OFFICIAL_WORD_BEFORE_INPUT[name] + text) == text


@pytest.mark.parametrize("name", sorted(TASKS))
def test_an_input_without_instruction_or_without_content_is_none(name):
    task = TASKS[name]
    assert task.bare_input("A lone hero returns.") is None
    assert task.bare_input(task.instruction + OFFICIAL_WORD_BEFORE_INPUT[name]) is None


def test_an_unknown_task_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match="LaMP_2N"):
        task_of(LampConfig(task="LaMP_99", root="/nowhere"))
