# ruff: noqa: RUF001
"""Removal of what generators wrap an answer in: lead-ins, fences, quotes, lists, markup, JSON.

Everything here takes time linear in the answer: a bounded number of passes over it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from hydra_ray.generate.folding import strip_invisible

_OPENING, _CLOSING = "\"'`“„‘«‚‹「『《", "\"'`”“’»‘›」』》"
_FENCE = re.compile(r"(?P<marks>`{3,}+|~{3,}+)[^\n`]*+\n")
_FENCE_IN_LINE = re.compile(r"(`{3,}+|~{3,}+)(?P<inside>[^\n`~]++)\1")
_TAGS = "answer|title|headline|subject|tweet|output|response|final|b|i|em|strong|p"
_TAG = re.compile(rf"<(?P<name>{_TAGS})>", flags=re.IGNORECASE)
_BOXED = re.compile(r"\$*\\(?:boxed|text|textbf)\{(?P<inside>[^{}]*)\}\$*")
_EMPHASIS = ("***", "**", "__", "*", "_", '"""', "'''", '""', "''")
_STOP_TOKEN = re.compile(r"(?:<\|[A-Za-z0-9_]{1,30}\|>|</s>|<end_of_turn>|<eos>)\Z")
"""Token by which a template ends a turn, where the server left it in the text."""
_STOP_TOKEN_CHARACTERS = 40

_NOUN = (
    r"titles?|headlines?|headings?|subject(?:\s+line)?s?|tweets?|paraphrase[ds]?|rewrites?|versions?|captions?|answers?|"
    r"outputs?|responses?|suggestions?|options?|titres?|titel|titeln|überschrift|schlagzeile|betreff|antwort|títulos?|"
    r"titular(?:es)?|asunto|respuesta|réponse|titol[oi]|oggetto|risposta|assunto|manchete|resposta|başlık|cevap|tytuł|"
    r"nagłówek|odpowiedź|заголов\w+|тема|ответ|назва|العنوان|عنوان|الإجابة|शीर्षक|उत्तर|제목|헤드라인|답변|답"
)
_NOUN_UNSPACED = "标题|標題|题目|題目|答案|回答|推文|主题|タイトル|見出し|件名|ツイート|หัวข้อ|พาดหัว|ชื่อเรื่อง|คำตอบ"
_IS_NAMED = re.compile(rf"\b(?:{_NOUN})\b|{_NOUN_UNSPACED}", flags=re.IGNORECASE)
_ADJECTIVE = (
    r"(?:(?:the|my|an?|your|our|suggested|possible|proposed|generated|final|best|new|rewritten|rephrased|"
    r"paraphrased)\s+)"
)
_NAME = re.compile(
    rf"(?:\#+\s+)?(?P<mark>\*\*|__|\*)?(?:{_ADJECTIVE}{{0,3}}(?:{_NOUN})(?:\s\#?\d{{1,2}})?(?:\s+is)?|{_NOUN_UNSPACED})"
    r"(?:\s*(?P=mark))?\s*[:：](?:\s*(?P=mark))?\s*",
    flags=re.IGNORECASE,
)
"""Name of an answer before it: "Title:", "**My headline**:", "Titre :"."""
_NAME_ALONE = re.compile(
    rf"(?:\#+\s+)?(?P<mark>\*\*|__|\*)?(?:{_ADJECTIVE}{{0,3}}(?:{_NOUN})|{_NOUN_UNSPACED})(?(mark)(?P=mark))",
    flags=re.IGNORECASE,
)
"""Name of an answer on a line of its own, such as a heading."""
_SAYING = re.compile(r"\b(?:is|are|be|ist|sind|wäre|lautet|est|sont|serait|es|sería|è|é|seria)\s*\Z")
"""Verb before the colon of a sentence that leads to an answer; that of a title is often capitalized."""
_NAME_OF_TEXT = re.compile(r"(?:(?:title|headline|answer|output|response|tweet)\s*:\s*)+", flags=re.IGNORECASE)
"""Names before a long text; other words with a colon may be its own."""
_POLITE = (
    r"sure(?:\s+thing)?|certainly|absolutely|of\s+course|okay|ok|great|gladly|yes|no\s+problem|natürlich|gerne?|klar|sicher|"
    r"bien\s+sûr|certainement|voilà|d'accord|claro(?:\s+que\s+sí)?|por\s+supuesto|certo|certamente|com\s+certeza|natuurlijk|"
    r"tabii|elbette|конечно|oczywiście|بالتأكيد|ज़रूर|물론(?:입니다|이죠)?|네|当然(?:可以)?|好的|もちろん(?:です)?|はい|承知しました|แน่นอน|ได้เลย"
)
_POLITENESS = re.compile(rf"(?:{_POLITE})\s*[!.,;。！，、]+\s*", flags=re.IGNORECASE)
_PRESENTING = re.compile(
    r"(?:here(?:['’]s|\s+is|\s+are|\s+you\s+go)|below\s+(?:is|are)|this\s+is|hier\s+(?:ist|sind|kommt)|voici|voilà|aquí\s+"
    r"(?:está|tienes?|hay)|este\s+es|ecco|aqui\s+está|eis|hier\s+is|işte|вот|oto|إليك|यहाँ|다음은|여기|以下(?:是|为|は|が)?|"
    r"这是|這是|下面是|こちら(?:は|が)?|次(?:は|が)|นี่คือ|ต่อไปนี้)",
    flags=re.IGNORECASE,
)
_COLON = re.compile("[:：]")
_MAX_LAYERS = 100
"""Largest number of wrappings around each other that are taken off."""
_MAX_LEAD_IN = 300
"""Longest lead-in, in characters."""
_NUMBER = re.compile(r"(\d{1,3})([.)])\s+(?=\S)")
_BULLET = re.compile(r"([-*+•‣▪◦–])\s+(?=\S)")
_ITEM = re.compile(rf"(?:{_NUMBER.pattern}|{_BULLET.pattern})")
_HEADING = re.compile(r"(?:\#{1,6}\s+|>\s+)+(?=\S)")


def unfenced(text: str) -> str:
    """Return the inside of a fenced block that is the whole of `text`, or begins it and was cut off; else `text`."""
    return _unfenced(strip_invisible(_without_stop_token(text)), is_line=False)


def after_lead_in(text: str) -> tuple[str, str]:
    """Return the line or the lines before an answer that end with a colon, and what follows; the first is empty where
    there is none."""
    text = strip_invisible(text)
    start = _lead_in_end(text)
    return text[:start], strip_invisible(text[start:])


class _Digits(str):
    """A number of JSON, as it was written."""

    __slots__ = ()


def json_values(text: str) -> dict[str, str]:
    """Return the texts and numbers of a JSON object that is the whole of `text`, as texts, by key; none where it is
    not one."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return {}
    values: dict[str, Any] = _json(text) or {}
    return {key: _encodable(value) for key, value in values.items() if isinstance(value, str)}


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_Digits, parse_float=_Digits)
    except (ValueError, RecursionError):
        return None


def _encodable(value: str) -> str:
    """Return a value without half characters, which only an escape in JSON can make."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def bare_text(text: str, *, is_line: bool) -> str:
    """Return a text answer without what it is wrapped in; nothing is taken off its own words.

    Args:
        is_line: whether the answer is one line (a title, a headline), so that what follows it is explanation.
    """
    for _ in range(_MAX_LAYERS):
        inner = next((inner for inner in _peeled(text, is_line=is_line) if inner != text), text)
        if inner == text:
            break
        text = inner
    return text


def _peeled(text: str, *, is_line: bool) -> Iterator[str]:
    """Yield `text` without each wrapping that may be around it."""
    yield strip_invisible(text)
    yield _without_stop_token(text)
    yield _unfenced(text, is_line=is_line)
    yield _only_value(text)
    yield _unquoted(text)
    if not is_line:
        yield _without_long_lead_in(text)
        named = _NAME_OF_TEXT.match(text)
        yield text[named.end() :] if named else text
        return
    lead_in_end = _lead_in_end(text)
    yield _without_mark(text[lead_in_end:].lstrip(), _ITEM) if lead_in_end else text
    yield _first_item(text)
    yield text[_name_end(text) :]
    yield _without_sentence(text)
    yield next(iter(text.splitlines()), "")
    yield _without_mark(text, _HEADING)


def _without_stop_token(text: str) -> str:
    """Return `text` without the template's token at its end."""
    start = max(0, len(text.rstrip()) - _STOP_TOKEN_CHARACTERS)
    token = _STOP_TOKEN.search(text[start:].rstrip())
    return text[: start + token.start()] if token else text


def _unfenced(text: str, *, is_line: bool) -> str:
    opening = _FENCE.match(text)
    if opening is None:
        whole = _FENCE_IN_LINE.fullmatch(text)
        return whole["inside"] if whole else text
    marks = opening["marks"]
    closing = re.compile(rf"^[ ]{{0,3}}{re.escape(marks[0])}{{{len(marks)},}}[ \t]*$", flags=re.MULTILINE)
    end = closing.search(text, opening.end())
    if end is None:
        return text[opening.end() :]
    return text[opening.end() : end.start()] if is_line or not text[end.end() :].strip() else text


def _only_value(text: str) -> str:
    """Return the only text among the values of a JSON object, or in a JSON array, that is the whole of `text`; else
    `text`."""
    if text.startswith('["') and text.endswith('"]'):
        items = _json(text)
        return _encodable(items[0]) if isinstance(items, list) and len(items) == 1 else text
    values = [value for value in json_values(text).values() if not isinstance(value, _Digits)]
    return values[0] if len(values) == 1 else text


def _unquoted(text: str) -> str:
    """Return the inside of quotes, emphasis or a tag around the whole of `text`; else `text`."""
    for marks in _EMPHASIS:
        inside = text[len(marks) : -len(marks)]
        if text.startswith(marks) and text.endswith(marks) and inside.strip() and marks not in inside:
            return inside
    if len(text) > 1 and text[0] in _OPENING and text[-1] in _CLOSING:
        # Else they belong to two different quotations, as in '"a" and "b"'.
        return text if any(quote in text[1:-1] for quote in {text[0], text[-1]}) else text[1:-1]
    tag = _TAG.match(text)
    if tag and text.lower().endswith(f"</{tag['name'].lower()}>"):
        inside = text[tag.end() : -len(tag["name"]) - 3]
        return text if tag[0].lower() in inside.lower() else inside
    boxed = _BOXED.fullmatch(text)
    return boxed["inside"] if boxed else text


def _lead_in_end(text: str) -> int:
    """Return where, in a text with several lines, the first lines that only lead to an answer end; 0 where none do.

    Such a line ends with a colon, in whatever language, is polite only or only the name of an answer; something must
    follow it.
    """
    lines = text.splitlines(keepends=True)
    start = place = 0
    for line in lines:
        bare = line.strip(" \t\r\n*_\"'")
        place += len(line)
        if not bare:
            continue
        is_leading = bare.endswith((":", "：")) or (
            len(bare) <= 40 and (_POLITENESS.fullmatch(bare) or _NAME_ALONE.fullmatch(line.strip()))
        )
        if len(bare) > _MAX_LEAD_IN or not is_leading:
            return start
        start = place
    # All lines lead on: the last of them is the answer.
    return 0


def _without_long_lead_in(text: str) -> str:
    """Return a long text without a first line that presents it, such as "Here is the mail:"."""
    line, _, rest = text.partition("\n")
    line = line.strip(" \t\r*_")
    if not rest.strip() or len(line) > _MAX_LEAD_IN or not line.endswith((":", "：")):
        return text
    polite = _POLITENESS.match(line)
    return rest if polite or _PRESENTING.match(line) else text


def _name_end(text: str) -> int:
    """Return where the names before an answer end, as in "Sure! Here is a title: Rain"; 0 where there are none."""
    start = 0
    while True:
        end = start
        if polite := _POLITENESS.match(text, start):
            end = polite.end()
        if presenting := _PRESENTING.match(text, end):
            colon = _COLON.search(text, presenting.end(), presenting.end() + _MAX_LEAD_IN)
            # "Here Is ..." is how a title is written.
            is_title = presenting[0].split()[-1].istitle() and " " in presenting[0]
            if colon is None or is_title or not _IS_NAMED.search(text, presenting.end(), colon.start()):
                return start
            start = colon.end()
        elif name := _NAME.match(text, end):
            start = name.end()
        else:
            return start


def _without_sentence(text: str) -> str:
    """Return the quotation to which a sentence leads, as in 'A good headline would be: "Rain"'; else `text`."""
    colon = _COLON.search(text, 0, _MAX_LEAD_IN)
    if colon is None:
        return text
    sentence, rest = text[: colon.start()], text[colon.end() :].partition("\n")[0].strip()
    is_leading = "\n" not in sentence and _SAYING.search(sentence) and _IS_NAMED.search(sentence)
    return rest if is_leading and _unquoted(rest) != rest else text


def _first_item(text: str) -> str:
    """Return the first of several items of a list, each on a line of its own; else `text`."""
    if (number := _NUMBER.match(text)) is not None:
        second = f"{int(number[1]) + 1}{number[2]}"
        return _first_line_of(text, second, number.end())
    bullet = _BULLET.match(text)
    return _first_line_of(text, bullet[1] + " ", bullet.end()) if bullet else text


def _first_line_of(text: str, second: str, start: int) -> str:
    """Return the first line of `text` from `start` on, if the beginning of a later one is `second`; else `text`."""
    first, *lines = text.splitlines()
    return first[start:] if any(line.lstrip().startswith(second) for line in lines) else text


def _without_mark(text: str, mark: re.Pattern[str]) -> str:
    """Return `text` without a mark at its beginning, such as that of a heading or of an item of a list."""
    found = mark.match(text)
    return text[found.end() :] if found else text
