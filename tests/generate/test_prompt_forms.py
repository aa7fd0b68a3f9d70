"""The sentence form is LaMP's own: each expected text is a transcription of its prompts.py, without trailing spaces."""

import pytest

from hydra_ray.config import GeneratorConfig
from hydra_ray.generate.prompt_forms import Contents, Example, form_of
from hydra_ray.lamp.tasks import TASKS

FIRST, SECOND = Example(input="x1", output="y1"), Example(input="x2", output="y2")

LAMP_1_QUERY = '"Own Paper"\n[1]: "Reference A" [2]: "Reference B"'


def official_prompt(name: str, records: list[tuple[str, str]], official_input: str) -> str:
    """LaMP's prompt; records as (input, output), best first."""
    if name == "LaMP_1":
        titles = ", and ".join(f'"{y}"' for _, y in records)
        end = official_input.find("title") + len("title")
        return f"{official_input[:end]}, and {titles}{official_input[end:]}"
    sentence = {
        "LaMP_2N": 'the category for the article: "{x}" is "{y}"',
        "LaMP_2M": 'the tag for the movie: "{x}" is "{y}"',
        "LaMP_3": '{y} is the score for "{x}"',
        "LaMP_4": '"{y}" is the title for "{x}"',
        "LaMP_5": '"{y}" is a title for "{x}"',
        "LaMP_6": '"{y}" is the title for "{x}"',
        "LaMP_7": '"{y}"',
    }[name]
    joined = ", and ".join(sentence.format(x=x, y=y) for x, y in records)
    if name == "LaMP_5":
        return f"{joined}. Following the given patterns {official_input}"
    if name == "LaMP_7":
        return f"{joined} are written by a person. Following the given patterns {official_input}"
    return f"{joined}. {official_input}"


OFFICIAL_INPUTS = {
    "LaMP_1": 'For an author who has written the paper with the title "Own Paper", which reference is related? Just '
    'answer with [1] or [2] without explanation. [1]: "Reference A" [2]: "Reference B"',
    "LaMP_2N": f"{TASKS['LaMP_2N'].instruction} article: a text",
    "LaMP_2M": f"{TASKS['LaMP_2M'].instruction} description: a text",
    "LaMP_3": f"{TASKS['LaMP_3'].instruction} review: a text",
    "LaMP_4": "Generate a headline for the following article: a text",
    "LaMP_5": "Generate a title for the following abstract of a paper: a text",
    "LaMP_6": "Generate a subject for the following email: a text",
    "LaMP_7": "Paraphrase the following tweet without any explanation before or after it: a text",
}


def rendered(name: str, prompt_form: str, contents: Contents) -> list[tuple[str, str]]:
    config = GeneratorConfig(model="none", engine="fake", prompt_form=prompt_form)  # pyright: ignore[reportArgumentType]
    return [(each.role, each.content) for each in form_of(TASKS[name], config).render(TASKS[name], contents)]


@pytest.mark.parametrize("name", sorted(OFFICIAL_INPUTS))
def test_the_sentence_form_is_that_of_lamp(name):
    query = TASKS[name].bare_input(OFFICIAL_INPUTS[name])
    assert query is not None
    best_last = Contents(examples=(SECOND, FIRST), query=query)
    expected = official_prompt(name, [("x1", "y1"), ("x2", "y2")], OFFICIAL_INPUTS[name])
    assert rendered(name, "sentence", best_last) == [("user", expected)]
    assert rendered(name, "sentence", Contents(query=query)) == [("user", OFFICIAL_INPUTS[name])]


def test_a_record_without_input_is_quoted_in_a_sentence_that_would_show_one():
    examples = (Example(input="", output="y1"),)
    ((_, text),) = rendered("LaMP_4", "sentence", Contents(examples=examples, query="q"))
    assert text.startswith('"y1". Generate')


def test_braces_in_a_users_texts_stay_as_they_are():
    examples = (Example(input="{output}", output="{0} }{"),)
    ((_, text),) = rendered("LaMP_4", "sentence", Contents(examples=examples, query="{records}"))
    assert text == '"{0} }{" is the title for "{output}". Generate a headline for the following article: {records}'


def test_in_a_chat_records_that_are_no_answers_are_quoted_in_the_querys_turn():
    assert rendered("LaMP_1", "chat", Contents(examples=(SECOND, FIRST), query=LAMP_1_QUERY)) == [
        ("system", TASKS["LaMP_1"].instruction),
        ("user", f'Papers by this author: "y2", "y1"\n\n{LAMP_1_QUERY}'),
    ]
    assert rendered("LaMP_1", "chat", Contents(query=LAMP_1_QUERY))[1] == ("user", LAMP_1_QUERY)
