"""Chat templates by their behaviour: whatever one does, each text of a prompt is rendered once, or it is refused."""

# ruff: noqa: E501

import re
from dataclasses import dataclass
from functools import cache

import pytest
from chat_templates import FAMILIES, Family, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.generate.chat_template import open_template
from hydra_ray.generate.prompts import count_prompt_tokens, fit_messages, profile_messages, render_prompt
from hydra_ray.generate.requests import ask
from hydra_ray.generate.template_arguments import THINKING_SWITCHES
from hydra_ray.rows import Message, Record

TASK = Task(name="t", kind="text", instruction="Write the headline.")
RECORDS = tuple(Record(record_id=str(number), input=f"story {number}", output=f"title {number}") for number in range(3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A template by its behaviour, and how it must be used. Key: name."""

    name: str
    template: str
    has_system: bool = True
    has_parts: bool = False
    answer_start: str = ""
    special: tuple[str, ...] = ("<|im_start|>", "<|im_end|>", "</s>")


def turns(turn: str, start: str = "", end: str = "") -> str:
    """A template that writes each message as `turn`, and `end` where the answer is to begin."""
    return f"{start}{{% for m in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{end}{{% endif %}}"


CHATML = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
ANSWER = "<|im_start|>assistant\n"
PARTS = "<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>\n"
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)
THINKS = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="ChatML", template=turns(CHATML, end=ANSWER)),
        Kind(
            name="system dropped without an error",
            template=turns("{% if m.role != 'system' %}" + CHATML + "{% endif %}", end=ANSWER),
            has_system=False,
        ),
        Kind(
            name="system refused, roles must alternate",
            template=ALTERNATE + turns("{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}</s>{% endif %}"),
            has_system=False,
        ),
        Kind(
            name="system merged into the first user turn",
            template="{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
            "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}<|im_start|>{{ m.role }}\n"
            "{{ (first if loop.first else '') + m.content }}<|im_end|>{% endfor %}" + ANSWER,
        ),
        Kind(
            name="system put into the last user turn",
            template="{% if messages[0].role == 'system' %}{% set text = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
            "{% else %}{% set text = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}"
            "[INST] {{ text if loop.last else '' }}{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
            has_system=False,
        ),
        Kind(
            name="system taken from the first turn alone, as a role that has no name",
            template="{{ messages[0].content }}\n" + turns("{% if not loop.first %}" + CHATML + "{% endif %}", end=ANSWER),
        ),
        Kind(name="contents as parts, strings render nothing", template=turns(PARTS, end=ANSWER), has_parts=True),
        Kind(
            name="contents as parts, strings are refused",
            template=turns("{% if m.content is string %}{{ raise_exception('parts') }}{% endif %}" + PARTS, end=ANSWER),
            has_parts=True,
        ),
        Kind(
            name="contents as parts, system dropped",
            template=turns("{% if m.role != 'system' %}" + PARTS + "{% endif %}", end=ANSWER),
            has_system=False,
            has_parts=True,
        ),
        Kind(name="add_generation_prompt ignored", template=turns(CHATML), answer_start=ANSWER),
        Kind(
            name="thoughts of earlier turns removed, switch of thinking",
            template=turns(
                "<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|im_end|>\n"
            ).replace("{% if add_generation_prompt %}{% endif %}", "")
            + THINKS,
            special=("<|im_start|>", "<|im_end|>", "</think>"),
        ),
        Kind(
            name="a thought opened in the generation prompt",
            template=turns(CHATML, end=ANSWER + "<think>\n"),
        ),
        Kind(
            name="harmony: system turns become a developer's, answers have a channel",
            template=turns(
                "{% if m.role == 'system' %}<|start|>developer<|message|># Instructions\n\n{{ m.content }}<|end|>"
                "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
                "{% else %}<|start|>user<|message|>{{ m.content }}<|end|>{% endif %}",
                start="<|start|>system<|message|>You are a model. Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>",
                end="<|start|>assistant",
            ),
            special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
        ),
        Kind(
            name="turns marked by ordinary text at the start of a line",
            template="{% for m in messages %}{% if not loop.first %}\n\n{% endif %}{{ {'system': 'System', 'user': 'User', 'assistant': 'Falcon'}[m.role] }}: "
            "{{ m.content }}{% endfor %}{% if add_generation_prompt %}\n\nFalcon:{% endif %}",
        ),
        Kind(
            name="turns marked by ordinary text within a line",
            template=turns("{{ m.content if m.role == 'system' else (m.role | upper) + ': ' + m.content }} ", end="ASSISTANT:"),
        ),
        Kind(
            name="turns marked by ordinary text and ended by a control token",
            template=turns("GPT4 Correct {{ m.role | title }}: {{ m.content }}<|im_end|>", end="GPT4 Correct Assistant:"),
        ),
        Kind(
            name="a tag around what a model learns from, loops that break off",
            template="{% for m in messages %}{% if loop.index > 999 %}{% break %}{% endif %}<|im_start|>{{ m.role }}\n{% generation %}"
            "{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}" + ANSWER,
        ),
        Kind(name="contents without surrounding space", template=turns("<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>", end=ANSWER)),
    )
}  # fmt: skip

REFUSED = {
    "raises for everything": ("{{ raise_exception('not a chat model') }}", "not a chat model"),
    "drops answers": (turns("{% if m.role != 'assistant' %}" + CHATML + "{% endif %}", end=ANSWER), "leaves out the assistant turn"),
    "drops all but the last turn": ("<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n" + ANSWER, "leaves out"),
    "drops users": (turns("{% if m.role != 'user' %}" + CHATML + "{% endif %}", end=ANSWER), "leaves out"),
    "writes turns twice": (turns(CHATML + CHATML, end=ANSWER), "2 times"),
    "turns the order": (turns(CHATML, end=ANSWER).replace("in messages", "in messages | reverse"), "changes the order"),
    "writes nothing": ("hello", "leaves out"),
    "takes one paragraph of a turn": (turns(CHATML.replace("m['content']", "m['content'].split('\n')[0]"), end=ANSWER), "leaves out"),
    "takes system turns' first paragraph": (
        turns(CHATML.replace("m['content']", "(m['content'].split('\n')[0] if loop.first else m['content'])"), end=ANSWER), "leaves out"),
    "takes the first three turns": (turns(CHATML, end=ANSWER).replace("in messages", "in messages[:3]"), "leaves out"),
    "syntax error": ("{% for %}", "no template that can be read"),
    "unknown filter": ("{{ messages | nope }}", "nope"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "a loop that hardly ends": ("{% for a in range(90000) %}{% for b in range(90000) %}{% set c = b %}{% endfor %}{% endfor %}", "too many steps"),
    "divides by zero": ("{{ 1 // 0 }}", "zero"),
    "type error": ("{{ messages + 1 }}", "concatenate"),
    "an answer begins where no other does": (
        "{% for m in messages %}{% if m.role == 'assistant' %}" + ANSWER + "{{ m.content }}<|im_end|>{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if loop.last %}<|im_end|></s>{% else %}<|im_end|>{% endif %}{% endif %}{% endfor %}", "does not write where an answer begins"),
}  # fmt: skip


@cache
def tokenizer_with(template, special=("<|im_start|>", "<|im_end|>", "</s>")):
    return make_tokenizer(Family(name="own", template=template, special=special))


def tokenizer_of_kind(name):
    return tokenizer_with(KINDS[name].template, KINDS[name].special)


def config_of(**settings):
    return GeneratorConfig.model_validate({"model": "m", "max_model_tokens": 4000, **settings})


def texts_of(task, records, query, profile):
    """What each prompt must hold, in order."""
    instruction = [task.instruction, *([profile] if profile else [])]
    shown = [text for record in reversed(records) for text in (record.input, record.output)]
    return [*instruction, *shown, query]


@pytest.mark.parametrize("name", KINDS)
def test_templates_are_used_by_what_they_do(name):
    kind, template = KINDS[name], open_template(tokenizer_of_kind(name), config_of())
    assert (template.has_system, template.has_parts) == (kind.has_system, kind.has_parts)
    assert template.answer_start == kind.answer_start


@pytest.mark.parametrize("form", ["chat", "sentence"])
@pytest.mark.parametrize("name", [*KINDS, *FAMILIES])
@pytest.mark.parametrize("profile", [None, "Likes short words."])
def test_every_text_is_rendered_once_and_in_order(name, profile, form):
    tokenizer = tokenizer_of_kind(name) if name in KINDS else make_tokenizer(FAMILIES[name])
    config = config_of(prompt_form=form)
    messages = fit_messages(TASK, RECORDS, "the query", tokenizer, config, profile=profile)
    text = render_prompt(messages, tokenizer, config)
    expected = texts_of(TASK, RECORDS, "the query", profile)
    if form == "chat":
        places = [text.index(each) for each in expected]
        assert places == sorted(places)
    assert [text.count(each) for each in expected] == [1] * len(expected)
    assert count_prompt_tokens(messages, tokenizer, config) == len(
        tokenizer(text, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("name", KINDS)
def test_profiles_are_asked_for_with_all_records(name):
    tokenizer, config = tokenizer_of_kind(name), config_of()
    text = render_prompt(profile_messages(TASK, RECORDS, tokenizer, config), tokenizer, config)
    assert [text.count(each.input) + text.count(each.output) for each in RECORDS] == [2] * 3
    assert text.count("what one person wrote or chose") == 1


@pytest.mark.parametrize("name", REFUSED)
def test_templates_that_lose_something_are_refused_by_name(name):
    template, reason = REFUSED[name]
    tokenizer = tokenizer_with(template)
    tokenizer.name_or_path = "/models/own"
    with pytest.raises(ModelError, match=reason) as caught:
        fit_messages(TASK, RECORDS, "the query", tokenizer, config_of())
    assert "/models/own" in str(caught.value)


def test_a_template_without_answers_serves_prompts_of_one_turn():
    tokenizer = tokenizer_with(REFUSED["drops answers"][0])
    config = config_of(prompt_form="sentence")
    (message,) = fit_messages(TASK, RECORDS, "the query", tokenizer, config)
    assert all(each.output in render_prompt([message], tokenizer, config) for each in RECORDS)


def test_of_several_templates_the_one_named_default_is_used():
    tokenizer = make_tokenizer(Family(name="own", template="", special=("<|im_end|>",)))
    tokenizer.chat_template = {"default": KINDS["ChatML"].template, "rag": "{{ raise_exception('no') }}"}  # pyright: ignore
    assert "the query" in render_prompt(fit_messages(TASK, RECORDS, "the query", tokenizer, config_of()), tokenizer)


@pytest.mark.parametrize(
    ("template", "reason"),
    [({"a": "x", "b": "y"}, "templates a, b"), (7, "type int"), (["x"], "type list"), (None, "no chat template"), ("", "no chat template"), ({}, "no chat template|templates  and none")],
)  # fmt: skip
def test_what_is_no_template_is_refused(template, reason):
    tokenizer = make_tokenizer(Family(name="own", template="", special=("<|im_end|>",)))
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=reason):
        fit_messages(TASK, RECORDS, "the query", tokenizer, config_of())


def test_the_beginning_of_a_text_is_written_once():
    from tokenizers.processors import TemplateProcessing

    for template in (
        "<s><s>" + turns(CHATML, end=ANSWER),
        "{{ bos_token }}" + turns(CHATML, start="<s>", end=ANSWER),
        turns(CHATML, start="<s>", end=ANSWER),
    ):
        tokenizer = make_tokenizer(Family(name="own", template=template, special=("<s>", "<|im_start|>", "<|im_end|>")))
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        number = tokenizer.convert_tokens_to_ids("<s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", number)]
        )  # pyright: ignore
        text = render_prompt(fit_messages(TASK, RECORDS, "q", tokenizer, config_of()), tokenizer, config_of())
        assert tokenizer(text, add_special_tokens=False)["input_ids"].count(number) == 1  # pyright: ignore


@pytest.mark.parametrize("switch", THINKING_SWITCHES)
def test_thinking_is_off_unless_a_setting_wants_it(switch):
    off = THINKING_SWITCHES[switch]
    template = turns(
        CHATML, end=ANSWER + f"{{% if {switch} is defined and {switch} == {off!r} %}}<think></think>{{% endif %}}"
    )
    tokenizer = tokenizer_with(template)
    wanted = "enabled" if isinstance(off, str) else 99
    for settings_, is_off in (
        ({}, True),
        ({"thinking_tokens": 500}, False),
        ({"chat_template_kwargs": {switch: wanted}}, False),
    ):
        config = config_of(**settings_)
        text = render_prompt(fit_messages(TASK, (), "q", tokenizer, config), tokenizer, config)
        assert text.endswith("<think></think>") == is_off


def test_arguments_reach_the_template_wherever_prompts_are_measured():
    tokenizer = tokenizer_with("{{ 'word ' * (num_words | default(0)) }}" + KINDS["ChatML"].template)
    lengths = []
    for arguments in ({}, {"num_words": 100}):
        config = config_of(chat_template_kwargs=arguments)
        messages = fit_messages(TASK, RECORDS, "q", tokenizer, config)
        lengths.append(count_prompt_tokens(messages, tokenizer, config))
    assert lengths[1] == lengths[0] + 500
    tight = config_of(chat_template_kwargs={"num_words": 100}, max_model_tokens=lengths[1] + TASK.max_tokens - 1)
    messages = fit_messages(TASK, RECORDS, "q", tokenizer, tight)
    assert count_prompt_tokens(messages, tokenizer, tight) + TASK.max_tokens <= tight.max_model_tokens


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"enable_thinkin": False}, "did you mean enable_thinking"), ({"colour": 1}, "no argument colour"), ({"messages": []}, "set by hydra_ray"), ({"tokenize": True}, "set by hydra_ray")],
)  # fmt: skip
def test_arguments_that_a_template_does_not_know_are_refused(arguments, reason):
    tokenizer = tokenizer_of_kind("thoughts of earlier turns removed, switch of thinking")
    with pytest.raises(ConfigError, match=reason):
        fit_messages(TASK, (), "q", tokenizer, config_of(chat_template_kwargs=arguments))


def test_arguments_for_an_endpoints_template_may_be_unknown_to_the_local_one():
    api = {"base_url": "http://localhost/v1", "model": "m"}
    config = config_of(engine="openai", api=api, chat_template_kwargs={"colour": 1}, is_constrained=False)
    assert fit_messages(TASK, (), "q", tokenizer_of_kind("ChatML"), config)


@pytest.mark.parametrize(
    ("template", "is_known"),
    [
        ("{% set thinking = thinking | default(true) %}", True),
        ("{% if thinking is not defined %}{% set thinking = true %}{% endif %}", True),
        ("{% set thinking = true %}", False),
    ],
)  # fmt: skip
def test_a_switch_is_one_that_a_template_reads_before_it_sets_it(template, is_known):
    found = open_template(tokenizer_with(template + KINDS["ChatML"].template), config_of())
    assert ("thinking" in found.arguments) == is_known


def request_id(template, **settings_):
    config = config_of(**settings_)
    request = ask(
        user_id="u", examples=(), query_input="q", task=TASK, tokenizer=tokenizer_with(template), config=config
    )
    return request.request_id


def test_answers_to_prompts_that_were_rendered_with_a_loss_are_not_reused():
    plain = request_id(KINDS["ChatML"].template)
    assert request_id(turns(PARTS, end=ANSWER)) != plain
    assert request_id(turns(CHATML)) != plain
    assert request_id(turns(CHATML, end=ANSWER) + THINKS.replace("<|im_start|>assistant", "")) != plain
    assert request_id(KINDS["contents without surrounding space"].template) == plain


WRITTEN = {
    "turns marked by ordinary text at the start of a line": r"(?im)^(?:system|user|falcon):",
    "turns marked by ordinary text within a line": r"(?i)\b(?:user|assistant):",
    "turns marked by ordinary text and ended by a control token": r"(?i)gpt4 correct (?:user|assistant):",
}
"""How turns are marked in these templates."""


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=40)
@given(draw=st.data())
def test_no_text_forges_a_turn_that_is_marked_by_ordinary_text(name, draw):
    tokenizer, config = tokenizer_of_kind(name), config_of()
    marks = [
        "User:",
        "\nUser: ",
        "\n\nFalcon:",
        "USER: ",
        " ASSISTANT: ",
        "GPT4 Correct User: ",
        "GPT4 Correct Assistant:",
    ]
    pieces = st.sampled_from(
        [*marks, *(mark.lower() for mark in marks), "a", "\n", " ", "\u200b", "U\u0301ser:", "\r", "\n\u00adUser:"]
    )
    text = st.lists(pieces, max_size=6).map("".join)
    records = [Record(record_id="1", input=draw.draw(text) or "x", output=draw.draw(text) or "x")]
    messages = fit_messages(TASK, records, draw.draw(text), tokenizer, config, profile=draw.draw(text))
    plain = [Message(role=each.role, content="x") for each in messages]
    found, expected = (re.findall(WRITTEN[name], render_prompt(each, tokenizer, config)) for each in (messages, plain))
    assert len(found) == len(expected)
