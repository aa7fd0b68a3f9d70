"""Thoughts of reasoning models: found at the beginning of a generated text, and separated from the answer.

A thought is what stands between the marks of a model family before the answer. Templates that open the thought
themselves leave only its closing mark in the text. Marks within an answer are text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra_ray.rows import Generation

_NAMES = "think", "thinking", "thought", "thoughts", "reasoning", "reflection", "mm:think", "seed:think"
_BY_SIGN = (
    *((f"<{name}>", f"</{name}>", True) for name in _NAMES),
    (r"\[THINK\]", r"\[/THINK\]", True),
    ("◁think▷", "◁/think▷", True),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", True),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>", True),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>", True),
    (r"<\|channel>thought", r"<channel\|>", True),
    (r"<\|open\|>think<\|sep\|>", r"<\|close\|>think<\|sep\|>", True),
    # Harmony, the format of gpt-oss: its closing mark ends messages of any kind, and of others' formats.
    (r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<]{0,200}<\|message\|>", r"<\|end\|>", False),
)
_SIGNS = "<[◁"
"""First characters of the marks of these families."""
_BY_WORDS = (
    # Harmony, where the control tokens were left out of the text.
    (r"(?-i:\Aanalysis(?=[A-Z]))", r"(?<!\s)assistantfinal", False),
    (r"\A\s*Here(?:'s| is) my thought process:", r"Here(?:'s| is) my response:", False),
)
_FAMILIES = (*_BY_SIGN, *_BY_WORDS)
"""Opening and closing marks by family, and whether a closing mark alone ends a thought that the template opened."""


def _any_of(families: Sequence[tuple[str, str, bool]]) -> str:
    """Return a pattern of all marks of some families."""
    first = _FAMILIES.index(families[0])
    return "|".join(
        f"(?P<open{number}>{opening})|(?P<close{number}>{closing})"
        for number, (opening, closing, _) in enumerate(families, start=first)
    )


# One look tells at most characters that no mark begins there.
_MARKS = re.compile(rf"(?=[<\[◁])(?:{_any_of(_BY_SIGN)})|(?=[ah\s])(?:{_any_of(_BY_WORDS)})", re.IGNORECASE)
_OPENING_WORDS = re.compile("|".join(opening for opening, _, _ in _BY_WORDS), re.IGNORECASE)
_BEFORE_ANSWER = re.compile(
    r"\s*(?:(?:<\|start\|>assistant)?<\|channel\|>final[^<]{0,200}<\|message\|>|<\|START_RESPONSE\|>"
    r"|<\|begin_of_solution\|>|<\|open\|>response<\|sep\|>|<answer>|<response>)?\s*"
)
_AFTER_ANSWER = re.compile(
    r"\s*(?:<\|return\|>|<\|end\|>|<\|END_RESPONSE\|>|<\|end_of_solution\|>|<\|close\|>response<\|sep\|>|</answer>"
    r"|</response>)?\s*\Z"
)
_FINAL = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>final[^<]{0,200}<\|message\|>")
_ANY = -1
_LEAD = r"\s*(?:(?:ok(?:ay)?|alright|all right|hmm+|well|got it|first|right|so|now|here)[,.]?\s+)*"
_CHINESE_LEAD = "\\s*(?:\u597d\u7684?|\u55ef|\u9996\u5148)?[\uff0c,\u3002]?\\s*(?:\u73b0\u5728)?"
_ABOUT_USER = re.compile(
    rf"{_LEAD}(?:the user(?:'s|\b)|thinking process\b)|{_CHINESE_LEAD}\u7528\u6237",  # "the user"
    flags=re.IGNORECASE,
)
_ABOUT_TASK = re.compile(
    rf"{_LEAD}(?:the (?:question|prompt|task|instruction)s? (?:is|are|was|want|ask|need|gave|has|have|provide|say)"
    r"|(?:we|i) (?:need|have) to\b|(?:we|i)(?:'m| am| are|'re) (?:given|asked|trying to)\b"
    r"|let(?:'s|\u2019s| me| us) (?:think|see|figure|analy[sz]e|tackle|break|start|look|consider|parse|recall|try)\b)"
    rf"|{_CHINESE_LEAD}(?:\u6211\u4eec?\u9700\u8981|\u6211\u6765|\u8ba9\u6211)",  # "we need", "let me"
    flags=re.IGNORECASE,
)
"""Beginnings of texts that speak of the user or of the task, as thoughts do that have no opening mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A generated text, divided into thought and answer."""

    thought: str
    answer: str
    """The text itself where there is no thought."""
    start: int
    """Offset of the answer in the text."""
    is_finished: bool = True
    """Whether the thought ended; then what follows it is the answer."""

    @property
    def has_thought(self) -> bool:
        """Whether the text begins with a thought, even an empty one."""
        return self.start > 0 or not self.is_finished


def split_thought(text: str, *, is_opened: bool = False) -> Split:
    """Return the thought at the beginning of a text, and the answer after it.

    Args:
        is_opened: whether the prompt ends with an opening mark, so that the text begins inside a thought.
    """
    if is_opened or _may_have_mark(text):
        return _split_at_marks(text, is_opened)
    return Split(thought="", answer=text, start=0)


def _may_have_mark(text: str) -> bool:
    """Return whether a text that does not begin inside a thought may have a mark that divides it; most have none."""
    return any(sign in text for sign in _SIGNS) or _OPENING_WORDS.match(text) is not None


def _split_at_marks(text: str, is_opened: bool) -> Split:
    inside, start, end = (_ANY if is_opened else None), 0, len(text)
    last = len(text.rstrip())
    for mark in _MARKS.finditer(text):
        is_opening, family = _read_mark(mark)
        if inside is not None:
            if not is_opening and inside in (_ANY, family):
                inside, start = None, mark.end()
        elif is_opening:
            if text[start : mark.start()].strip():
                break
            inside = family
        elif _FAMILIES[family][2]:
            if start and mark.end() == last:
                end = mark.start()
                break
            start = mark.end()
    if inside is not None:
        return Split(thought=text, answer="", start=len(text), is_finished=False)
    if start == 0 and not _FINAL.match(text):
        return Split(thought="", answer=text, start=0)
    begin = _BEFORE_ANSWER.match(text, start).end()  # pyright: ignore[reportOptionalMemberAccess]
    after = _AFTER_ANSWER.search(text, begin, end)
    return Split(thought=text[:start], answer=text[begin : after.start() if after else end], start=begin)


def opens_thought(prompt: str) -> bool:
    """Return whether a rendered prompt ends inside a thought, which the model continues."""
    tail = prompt[-200:].rstrip()
    marks = [mark for mark in _MARKS.finditer(tail) if mark.end() == len(tail)]
    return bool(marks) and _read_mark(marks[-1])[0]


def speaks_of_task(text: str, *, is_closed: bool = False) -> bool:
    """Return whether a text begins as a thought whose opening mark stands in the prompt: it speaks of the user, or, as
    no label does, of the task.

    Args:
        is_closed: whether a label is asked for; other answers may speak of a task of their own.
    """
    return bool(_ABOUT_USER.match(text) or (is_closed and _ABOUT_TASK.match(text)))


def has_marks(token: str) -> bool:
    """Return whether a token is or contains a mark of a thought, or a part of the Harmony format."""
    marks = map(_read_mark, _MARKS.finditer(token))
    return any(is_opening or _FAMILIES[family][2] for is_opening, family in marks) or token in (
        "<|channel|>",
        "<|channel>",
        "<channel|>",
        "<|open|>",
        "<|close|>",
    )


def answer_token(tokens: Sequence[str], answer: str, *, is_opened: bool = False) -> int | None:
    """Return the index of the first token of an answer that follows a thought.

    Args:
        tokens: texts of the generated tokens, those of the thought included where they are known.

    Returns:
        None where the tokens do not show where the answer begins.
    """
    text, answer = "".join(tokens), answer.strip()
    if not answer:
        return None
    # The last token may be the end of the turn, which is no part of the answer.
    ends = ("", tokens[-1].strip()) if tokens else ("",)
    start = split_thought(text, is_opened=is_opened).start
    start += len(text[start:]) - len(text[start:].lstrip())
    if not text.startswith(answer, start) or text[start + len(answer) :].strip() not in ends:
        start = text.rfind(answer)
        if start < 0 or text[start + len(answer) :].strip() not in ends:
            return None
    offset = 0
    for place, token in enumerate(tokens):
        if offset + len(token) > start:
            return place if not token[: max(start - offset, 0)].strip() else None
        offset += len(token)
    return None


def without_thought(generation: Generation) -> Generation:
    """Return a generation without the thought that its text begins with. Its log-probabilities are dropped with it:
    whether they are those of the answer is not known."""
    split = split_thought(generation.text)
    if not split.has_thought:
        return generation
    thought_tokens = thought_length(generation.num_tokens, 0, split.thought, split.answer)
    return Generation(
        text=split.answer,
        num_tokens=max(generation.num_tokens, thought_tokens),
        finish_reason=generation.finish_reason,
        thought_tokens=thought_tokens,
    )


def thought_length(num_tokens: int, told_tokens: int, thought: str, answer: str) -> int:
    """Return the number of tokens of a thought, at least 1: as told, or else its share of the characters.

    Args:
        num_tokens: tokens of thought and answer.
        told_tokens: the known number; 0 where it is not known.
    """
    share = round(num_tokens * len(thought) / max(len(thought) + len(answer), 1))
    return max(1, min(told_tokens or share, num_tokens))


def _read_mark(mark: re.Match[str]) -> tuple[bool, int]:
    """Return whether a mark opens a thought, and its family."""
    name = mark.lastgroup or ""
    is_opening = name.startswith("open")
    return is_opening, int(name.removeprefix("open").removeprefix("close"))
