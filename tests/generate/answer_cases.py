# ruff: noqa: RUF001
"""Ways in which generators write an answer, and what becomes of each: the tests and docs/parsing.md."""

from dataclasses import dataclass

from hydra_ray.config import Task
from hydra_ray.generate.parsing import EMPTY, NEGATED_LABEL, NO_LABEL, SEVERAL_LABELS
from hydra_ray.lamp.tasks import TASKS


def labelled(name: str, *labels: str) -> Task:
    """A classification task with these labels."""
    return Task(name=name, kind="classification", instruction="?", labels=labels)


MOVIES, NEWS, RATINGS, TITLES = TASKS["LaMP_2M"], TASKS["LaMP_2N"], TASKS["LaMP_3"], TASKS["LaMP_4"]
MAILS = Task(name="mails", kind="text", instruction="?", max_tokens=256)
CHINESE = labelled("Chinese", "喜剧", "黑色喜剧", "剧情", "好")
JAPANESE = labelled("Japanese", "コメディ", "ブラックコメディ", "恋愛")
THAI = labelled("Thai", "ตลก", "ตลกร้าย", "รัก")
TURKISH = labelled("Turkish", "kırmızı", "iyi", "İstanbul")
FRENCH = labelled("French", "comédie", "comédie noire", "drame")
KOREAN = labelled("Korean", "긍정", "부정")
FOLDED = labelled("folded", "ﬁlm", "Straße", "c", "c++")
KINDS = {
    "one of LaMP's tags": MOVIES, "one of LaMP's categories": NEWS, "a rating of 1 to 5": RATINGS, "a title": TITLES,
    "a long text": MAILS, "labels 喜剧, 黑色喜剧, 剧情, 好": CHINESE,
    "labels コメディ, ブラックコメディ, 恋愛": JAPANESE,
    "labels ตลก, ตลกร้าย, รัก": THAI, "labels kırmızı, iyi, İstanbul": TURKISH,
    "labels comédie, comédie noire, drame": FRENCH, "labels ﬁlm, Straße, c, c++": FOLDED,
    "labels 긍정, 부정": KOREAN,
}  # fmt: skip
"""What is asked for, as the page says it."""
NAMES = {task.name: name for name, task in KINDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCase:
    """One way to write an answer. Key: (what, task)."""

    what: str
    task: Task
    text: str
    value: str | None = None
    """Answer; None where there is none."""
    error: str | None = None


def accepted(task: Task, what: str, text: str, value: str) -> AnswerCase:
    """A text that is read as an answer."""
    return AnswerCase(what=what, task=task, text=text, value=value)


def refused(task: Task, what: str, text: str, error: str) -> AnswerCase:
    """A text that is no answer."""
    return AnswerCase(what=what, task=task, text=text, error=error)


CASES = (
    accepted(TITLES, "a line that leads to the answer", 'Here is a headline for the article:\n\n"Rain"', "Rain"),
    accepted(TITLES, "in any language", "Voici un titre :\n\n« Pluie »", "Pluie"),
    accepted(TITLES, "in any language, with a full-width colon", "以下は見出しです：\n\n「雨」", "雨"),
    accepted(TITLES, "a polite line before it", "Sure!\n\nHere is the headline:\n\nRain\n\nIt fits.", "Rain"),
    accepted(TITLES, "a lead-in on the same line", "Sure! Here's a headline for the article: Rain", "Rain"),
    refused(TITLES, "a lead-in and nothing more", "Here is a headline for the article:", EMPTY),
    accepted(TITLES, "the name of the answer", "**Title:** Rain", "Rain"),
    accepted(TITLES, "the name of the answer, in other languages", "标题：雨", "雨"),
    accepted(TITLES, "a colon of its own", "Hydra: Weather for Cities", "Hydra: Weather for Cities"),
    accepted(TITLES, "a colon of its own after a lead-in's words", "Here's Why: Rain", "Here's Why: Rain"),
    accepted(TITLES, "explanation after it", "Rain\n\nExplanation:\nIt rains.", "Rain"),
    accepted(TITLES, "a fenced block", "```text\nRain\n```\nIt fits.", "Rain"),
    accepted(TITLES, "a fenced block of tildes that was cut off", "~~~\nRain", "Rain"),
    accepted(TITLES, "a fence on one line", "```Rain```", "Rain"),
    accepted(TITLES, "a numbered list: the first", "1. Rain\n2. Snow", "Rain"),
    accepted(TITLES, "a list with dots: the first", "- Rain\n- Snow", "Rain"),
    accepted(TITLES, "a list after a lead-in", "Some options:\n\n1. Rain", "Rain"),
    accepted(TITLES, "a dash of its own after a lead-in", "Here is a title:\n\nRain - A story", "Rain - A story"),
    accepted(
        TITLES,
        "markup and a remark after a lead-in",
        "Here's a headline:\n\n**Rain**\n\nTell me if you like it!",
        "Rain",
    ),
    accepted(TITLES, "a sentence that leads to a quotation", 'A good headline for it would be: "Rain"', "Rain"),
    accepted(TITLES, "a quotation after words of its own", 'Obama\'s Response: "Rain"', 'Obama\'s Response: "Rain"'),
    accepted(TITLES, "the name of the answer as a heading", "### Headline\nRain", "Rain"),
    accepted(
        TITLES, "the words of a lead-in, written as a title", "Here Are 5 Options: Rain", "Here Are 5 Options: Rain"
    ),
    accepted(TITLES, "a number that begins it", "1. FC Rain wins", "1. FC Rain wins"),
    accepted(TITLES, "options by number: the first", "Option 1: Rain\nOption 2: Snow", "Rain"),
    accepted(TITLES, "JSON with one value", '```json\n{"headline": "Rain"}\n```', "Rain"),
    accepted(TITLES, "JSON with one text and numbers", '{"headline": "Rain", "confidence": 0.9}', "Rain"),
    accepted(TITLES, "a JSON array of one text", '["Rain"]', "Rain"),
    accepted(TITLES, "a token of the template after it", "Rain<|eot_id|>", "Rain"),
    accepted(TITLES, "quotes of several characters", '"""Rain"""', "Rain"),
    accepted(TITLES, "half a character in JSON", r'{"headline": "Rain \ud83d"}', "Rain ?"),
    accepted(TITLES, "JSON with several values", '{"a": "Rain", "b": "Snow"}', '{"a": "Rain", "b": "Snow"}'),
    accepted(TITLES, "markup around it", "# **Rain**", "Rain"),
    accepted(TITLES, "a tag around it", "<title>Rain</title>", "Rain"),
    accepted(TITLES, "LaTeX's box around it", r"$\boxed{Rain}$", "Rain"),
    accepted(TITLES, "markup inside", "*sigh* another rain", "*sigh* another rain"),
    accepted(TITLES, "quotes of any language", "„Rain“", "Rain"),
    accepted(TITLES, "two quotations", '"Rain" and "Snow"', '"Rain" and "Snow"'),
    accepted(TITLES, "invisible characters around it", "\ufeff\u200bRain\u200f", "Rain"),
    refused(TITLES, "quotes and nothing more", '""', EMPTY),
    refused(TITLES, "invisible characters and nothing more", "\u200b\u2060", EMPTY),
    refused(TITLES, "half a character and nothing more", "\ufffd", EMPTY),
    accepted(MAILS, "a line that presents it", "Here is the mail:\n\nDear all:\n\nno.", "Dear all:\n\nno."),
    accepted(MAILS, "a first line with a colon of its own", "Dear all:\n\nno.", "Dear all:\n\nno."),
    accepted(MAILS, "a fenced block around all of it", "```\nDear all,\nno.\n```", "Dear all,\nno."),
    accepted(MAILS, "a fenced block in it", "```\nrun\n```\nDear all", "```\nrun\n```\nDear all"),
    accepted(MAILS, "a list", "1. Rain\n2. Snow", "1. Rain\n2. Snow"),
    accepted(RATINGS, "a share of the highest label", "4/5", "4"),
    accepted(RATINGS, "a share in words", "I give it 4.0 out of 5 stars.", "4"),
    accepted(RATINGS, "a share in other languages", "4 von 5 Sternen", "4"),
    accepted(RATINGS, "a share in brackets", "4 (out of 5)", "4"),
    accepted(RATINGS, "the highest label before it", "Rating (out of 5): 4", "4"),
    accepted(RATINGS, "a share in Chinese", "4分（满分5分）", "4"),
    accepted(RATINGS, "a share in Korean, the highest label first", "5점 만점에 4점", "4"),
    accepted(RATINGS, "a share in Japanese, the highest label first", "5点満点中4点", "4"),
    refused(RATINGS, "the highest label alone, as such, in Chinese", "满分5分", NO_LABEL),
    refused(RATINGS, "a time of day", "4:30", NO_LABEL),
    refused(RATINGS, "two ratings by name", "Score: 4\nScore: 3", SEVERAL_LABELS),
    refused(RATINGS, "a share with a decimal comma", "3,5/5", NO_LABEL),
    refused(RATINGS, "a share in number words", "four out of 5", NO_LABEL),
    accepted(RATINGS, "a name before it and an explanation that is called one", "Rating: 4/5\n\nReason: 2 flaws", "4"),
    refused(RATINGS, "an explanation that is not called one", "4\n\nIt has 2 flaws.", SEVERAL_LABELS),
    refused(RATINGS, "a share on another scale", "8/10", NO_LABEL),
    refused(RATINGS, "a share on another scale that begins with a label", "4/10", SEVERAL_LABELS),
    accepted(RATINGS, "a name and a unit", "Rating: 4 stars", "4"),
    accepted(RATINGS, "the scale beside it", "Rating (1-5): 4", "4"),
    refused(RATINGS, "the scale alone", "1-5", SEVERAL_LABELS),
    refused(RATINGS, "a range", "4-5", SEVERAL_LABELS),
    refused(RATINGS, "a range in words", "between 3 and 4", SEVERAL_LABELS),
    accepted(RATINGS, "markup", "**4**", "4"),
    accepted(RATINGS, "its meaning after it", "4 - good", "4"),
    accepted(RATINGS, "JSON", '{"rating": 4}', "4"),
    accepted(RATINGS, "stars that are drawn", "★★★★☆", "4"),
    refused(RATINGS, "two rows of stars", "★★ or ★★★", NO_LABEL),
    accepted(RATINGS, "digits of any script", "４", "4"),
    accepted(RATINGS, "a counter in Korean or Chinese", "评分是4分", "4"),
    refused(RATINGS, "a number that is no label", "4.5", NO_LABEL),
    refused(RATINGS, "a decimal comma", "4,0", NO_LABEL),
    refused(RATINGS, "a fraction", "4½", NO_LABEL),
    refused(RATINGS, "a fraction without a whole", ".4", NO_LABEL),
    refused(RATINGS, "a share in percent", "4%", NO_LABEL),
    refused(RATINGS, "a part of a word", "4th", NO_LABEL),
    refused(RATINGS, "a negative number", "-4", NO_LABEL),
    refused(RATINGS, "a number beyond all others", "1e999", NO_LABEL),
    refused(RATINGS, "number words", "four", NO_LABEL),
    refused(RATINGS, "a negated rating", "not 4", NEGATED_LABEL),
    accepted(MOVIES, "another case, quotes and a dot", '"Dark Comedy".', "dark comedy"),
    accepted(MOVIES, "a sentence around it", "It is a dark comedy, I think.", "dark comedy"),
    accepted(MOVIES, "the same label twice", "comedy; Comedy", "comedy"),
    accepted(MOVIES, "a line that leads to it and names another", "The tag of this action movie:\ncomedy", "comedy"),
    refused(MOVIES, "a label in place of that line", "comedy:\nromance", SEVERAL_LABELS),
    accepted(MOVIES, "a fenced block", "```\ncomedy\n```", "comedy"),
    accepted(MOVIES, "JSON", '{"label": "comedy"}', "comedy"),
    accepted(MOVIES, "JSON that names another in a text", '{"label": "comedy", "why": "no romance"}', "comedy"),
    accepted(
        MOVIES,
        "JSON in a fence after a lead-in",
        'The JSON:\n```json\n{"tag": "comedy", "why": "no romance, no action"}\n```',
        "comedy",
    ),
    accepted(MOVIES, "a conclusion", "It has action and romance.\n\n**Final answer:** comedy", "comedy"),
    accepted(MOVIES, "LaTeX's box after others", r"It has action. \boxed{\text{comedy}}", "comedy"),
    accepted(MOVIES, "a tag after others", "It has action. <answer>comedy</answer>", "comedy"),
    accepted(MOVIES, "an explanation that is called one", "Tag: comedy\n\nExplanation: no romance.", "comedy"),
    refused(MOVIES, "two answers by name", "Tag: comedy\nTag: romance", SEVERAL_LABELS),
    refused(MOVIES, "an answer that is taken back", "The tag is comedy.\nNo, it's romance.", SEVERAL_LABELS),
    accepted(MOVIES, "a token of the template after it", "comedy</s>", "comedy"),
    refused(MOVIES, "JSON with two labels", '{"first": "comedy", "second": "romance"}', SEVERAL_LABELS),
    refused(MOVIES, "a list of several", "1. comedy\n2. romance", SEVERAL_LABELS),
    refused(MOVIES, "two labels", "comedy, not dark comedy", SEVERAL_LABELS),
    refused(MOVIES, "a negated label", "It is not really a comedy.", NEGATED_LABEL),
    accepted(MOVIES, "a negation of something else", "Not sure, comedy", "comedy"),
    accepted(MOVIES, "markup inside it", "dark **comedy**", "dark comedy"),
    accepted(MOVIES, "a soft hyphen or zero-width characters inside", "com\u00ade\u200bdy", "comedy"),
    accepted(MOVIES, "direction marks around it", "\u202ecomedy\u202c", "comedy"),
    accepted(MOVIES, "another hyphen", "sci‑fi", "sci-fi"),
    accepted(MOVIES, "full-width letters", "ｃｏｍｅｄｙ", "comedy"),
    refused(MOVIES, "a part of a word", "comedies", NO_LABEL),
    refused(MOVIES, "a part of a compound", "non-violence", NO_LABEL),
    accepted(NEWS, "HTML's entities", "style &amp; beauty", "style & beauty"),
    refused(NEWS, "a label that was cut off", "healthy liv", NO_LABEL),
    accepted(CHINESE, "a language without spaces", "这是一部黑色喜剧。", "黑色喜剧"),
    accepted(CHINESE, "a name before it", "答案：喜剧", "喜剧"),
    refused(CHINESE, "two labels", "喜剧和剧情", SEVERAL_LABELS),
    refused(CHINESE, "a negated label", "不好", NEGATED_LABEL),
    accepted(JAPANESE, "a language without spaces", "これはコメディです", "コメディ"),
    refused(JAPANESE, "a part of a word in katakana", "コメディアン", NO_LABEL),
    refused(JAPANESE, "a negated label", "恋愛ではない", NEGATED_LABEL),
    accepted(THAI, "a language without spaces", "เป็นหนังตลกร้าย", "ตลกร้าย"),
    refused(THAI, "a negated label", "ไม่ตลก", NEGATED_LABEL),
    accepted(TURKISH, "capitals of Turkish", "KIRMIZI", "kırmızı"),
    accepted(TURKISH, "a capital i with a dot", "İYİ", "iyi"),
    accepted(FRENCH, "accents as marks of their own (NFD)", "come\u0301die", "comédie"),
    refused(FRENCH, "a negated label", "ce n'est pas une comédie", NEGATED_LABEL),
    accepted(KOREAN, "an ending of the language after it", "이 리뷰는 긍정입니다.", "긍정"),
    refused(KOREAN, "a negated label", "긍정은 아닙니다", NEGATED_LABEL),
    refused(KOREAN, "a part of a word", "부정확", NO_LABEL),
    accepted(FOLDED, "a ligature", "film", "ﬁlm"),
    accepted(FOLDED, "capitals that are two letters", "STRASSE", "Straße"),
    accepted(FOLDED, "marks that belong to the label", "c++.", "c++"),
)
"""One row for everything that is told apart."""


def page() -> str:
    """docs/parsing.md."""
    lines = [
        "# What becomes of an answer",
        "",
        "Each row is a test (`tests/generate/answer_cases.py`, from which this page is made). Nothing is guessed:",
        "where an answer to a closed task does not name exactly one label, it is an error, its text is kept, and",
        "it counts as failed. Answers are compared without case, Unicode form, invisible characters and markup. A",
        "label must stand as a word of its own; in scripts without spaces between words (Chinese, Japanese, Thai,",
        "Lao, Khmer, Burmese, Tibetan) it may stand anywhere, but a run of katakana is one word. Of labels inside",
        "each other the longest counts. A label that is negated is none: what is not a comedy may be anything",
        "else. A title is the first line of an answer that is no lead-in (tasks of at most 64 tokens); a longer",
        "text keeps its lines. What an answer itself presents as its answer (a last line or one before an",
        "explanation, `Answer:`, a box, a tag, a value of JSON) counts before what it names elsewhere.",
        "",
        "| asked for | the answer is written with | such as | what becomes of it |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        becomes = f"`{_shown(case.value)}`" if case.value is not None else f"error: {case.error}"
        lines.append(f"| {NAMES[case.task.name]} | {case.what} | `` {_shown(case.text)} `` | {becomes} |")
    return "\n".join([*lines, ""])


def _shown(text: str) -> str:
    """A text on one line, with its invisible characters written out."""
    shown = "".join(f"\\u{ord(each):04x}" if not (each.isprintable() or each == "\n") else each for each in text)
    return shown.replace("\n", "⏎").replace("|", "\\|")
