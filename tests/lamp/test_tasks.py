import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hydra_ray.config import LampConfig, Sentences, Task
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.lamp.tasks import TASKS, task_of

OFFICIAL_WORD_BEFORE_INPUT = {
    "LaMP_2N": " article: ",
    "LaMP_2M": " description: ",
    "planted": " description: ",
    "LaMP_3": " review: ",
    "LaMP_4": " ",
    "LaMP_5": " ",
    "LaMP_6": " ",
    "LaMP_7": " ",
}
LAMP_1_INPUT = (
    'For an author who has written the paper with the title "{title}", which reference is related? Just answer with '
    '[1] or [2] without explanation. [1]: "{first}" [2]: "{second}"'
)
titles = st.text(alphabet='ab"[]12: ,\n', min_size=1, max_size=20).map(lambda title: f"T{title}T")


@pytest.mark.parametrize("name", sorted(OFFICIAL_WORD_BEFORE_INPUT))
def test_the_instruction_is_stripped_and_nothing_else(name):
    text = "A text: with a colon,\nand a second line."
    task = TASKS[name]
    assert task.bare_input(task.instruction + OFFICIAL_WORD_BEFORE_INPUT[name] + text) == text


@pytest.mark.parametrize("name", sorted(OFFICIAL_WORD_BEFORE_INPUT))
def test_an_input_without_instruction_or_without_content_is_none(name):
    task = TASKS[name]
    assert task.bare_input("A lone hero returns.") is None
    assert task.bare_input(task.instruction + OFFICIAL_WORD_BEFORE_INPUT[name]) is None


def test_every_task_of_lamp_is_there():
    names = {"LaMP_1", "LaMP_2N", "LaMP_2M", "LaMP_3", "LaMP_4", "LaMP_5", "LaMP_6", "LaMP_7"}
    assert set(TASKS) == names | {"planted"}
    official = {name: TASKS[name].prediction_name for name in names}
    assert official == {name: name.rstrip("MN") for name in names}


@given(title=titles, first=titles, second=titles)
def test_a_citation_querys_bare_input_is_its_title_and_its_two_references(title, first, second):
    task = TASKS["LaMP_1"]
    query = task.bare_input(LAMP_1_INPUT.format(title=title, first=first, second=second))
    assert query is not None
    first_line, _ = query.split("\n")
    assert first_line == '"' + " ".join(title.split()) + '"'
    if '"' not in first + second:
        assert task.option_text(query, "[1]") == " ".join(first.split())
        assert task.option_text(query, "[2]") == " ".join(second.split())
    assert task.bare_input(LAMP_1_INPUT.format(title=title, first=first, second=second) + " and more") is None


def test_quotes_in_a_reference_stay_in_it():
    query = TASKS["LaMP_1"].bare_input(LAMP_1_INPUT.format(title="T", first='On "x"', second='"Y" and [1]: "z"'))
    assert query is not None
    assert TASKS["LaMP_1"].option_text(query, "[1]") == 'On "x"'
    assert TASKS["LaMP_1"].option_text(query, "[2]") == '"Y" and [1]: "z"'


def test_where_a_task_has_no_options_a_label_stands_for_itself():
    assert TASKS["LaMP_2M"].option_text("[1]: a [2]: b", "comedy") == "comedy"


def test_a_query_without_the_options_that_its_task_needs_is_an_error():
    with pytest.raises(InputError, match="option_pattern"):
        TASKS["LaMP_1"].option_text('[1]: "only one"', "[1]")


def test_records_with_input_and_answer_can_be_pseudo_queries():
    without = {name for name, task in TASKS.items() if not task.has_pseudo_queries}
    assert without == {"LaMP_1", "LaMP_7"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_pattern": "(.+)"},
        {"input_pattern": "(?P<input>.+"},
        {"option_pattern": "A: (.+)"},
        {"option_pattern": "A: (.+"},
        {"sentences": {"record": "{input}"}},
        {"sentences": {"record": "{output} {title}"}},
        {"sentences": {"record": "{output.__class__}"}},
        {"sentences": {"record": "{output"}},
        {"sentences": {"record": "{output:>9}"}},
        {"sentences": {"records": "all"}},
        {"sentences": {"query": "{input}"}},
        {"sentences": {"query": "{records}{first_line}"}},
    ],
)
def test_a_task_whose_patterns_or_words_cannot_work_is_refused(wrong):
    right = {"name": "own", "kind": "classification", "instruction": "?", "labels": ("A", "B")}
    assert Task.model_validate(right).sentences == Sentences()
    with pytest.raises(ValidationError):
        Task.model_validate({**right, **wrong})


def test_an_unknown_task_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match="LaMP_2N"):
        task_of(LampConfig(task="LaMP_99", root="/nowhere"))
