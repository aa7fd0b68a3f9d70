"""Reading of an endpoint's error: its codes, and the parameter or the reason that it names.

Providers write errors in forms of their own: `{"error": {...}}` as OpenAI does, FastAPI's `{"detail": [{"loc": ...}]}`,
flat objects, lists, HTML. What is read here are only codes and known names: the rest may repeat the prompt.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hydra_ray.rows import Request

CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What the code of an error, or a reason why an answer ended, looks like, and a text does not."""
_LONGEST = 20_000
"""Characters of an error that are looked at."""
_LONGEST_NAME = 40
_FLAGGED = re.compile(
    r"(?i)\bflagged\b|moderation|content[ _-]?(polic|filter|management|safety)|safety[ _-](system|filter|polic|reason)"
    r"|responsible ?ai|inappropriate content|prohibited_content|data_inspection_failed|sensitive[ _]content"
)
_TOO_LONG = re.compile(
    r"(?i)context[ _-]?(length|window|size)|maximum (context|input|prompt)"
    r"|(prompt|input|message)s? (is|are) too (long|large)|too many (input |prompt )?tokens|reduce the length"
    r"|exceed\w* (the )?(model'?s? )?(maximum|max|available) (context|input)"
)
_UNPAID = re.compile(
    r"(?i)insufficient[ _-](account )?(balance|credit|fund|quota)|not enough (credit|balance|fund)|out of credits?"
    r"|\u4f59\u989d\u4e0d\u8db3|\u6b20\u8d39"  # "the balance does not suffice", "in arrears"
)
_NO_MODEL = re.compile(
    r"(?i)not a valid model|model .{0,100}(not found|(does )?not exist|not supported by any provider)"
)
_REFUSAL = re.compile(
    r"(?i)unsupported|not support|unknown|unrecognized|unexpected|not permitted|not allowed|extra (inputs|fields)"
    r"|invalid|forbidden|not available|not accepted|deprecated|must be|only .{0,40}default|does not exist"
    r"|not recognized|no longer|cannot be (used|set|specified)|should be|incompatible"
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)+")
"""What the name of a field looks like and an ordinary word does not."""
_LACK = re.compile(r"(?i)missing|require|must be (set|provided|specified|given)|please (set|specify)")
_LACKED = re.compile(
    r"\b(?P<plain>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+)\b"
    r"|['\"`](?P<quoted>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+)['\"`]"
    r"|\b(?P<told>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+) (?:query|header|parameter)"
)
"""A field, header or parameter of the URL that a message says the request lacks; an ordinary word may have a hyphen."""
_ORDINARY = ("n", "model", "input", "content", "prompt")
"""Names that are ordinary words too, and count only in quotes or after the word parameter."""
_ABOUT_PROMPT = ("messages", "prompt", "input", "content")
"""Names by which an endpoint tells that the prompt is what it refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """What an error says, without any text of the endpoint's own."""

    codes: tuple[str, ...] = ()
    """Codes, types and the like, in lower case, the most specific one first."""
    parameter: str | None = None
    """Field of the request that it refuses; None where it names none, or names the messages."""
    wanted: str | None = None
    """Field, header or parameter of the URL that the request lacks; None where it names none."""
    is_flagged: bool = False
    """Whether a moderation or a content policy refused the prompt."""
    is_too_long: bool = False
    """Whether the prompt does not fit the model's context."""
    is_unpaid: bool = False
    """Whether the account has no credit."""
    has_no_model: bool = False
    """Whether the endpoint does not serve the model."""


def read_error(text: str, request: Request, sent: Mapping[str, Any]) -> ErrorReply:
    """Return what the body of an error says.

    Args:
        request: the refused request, whose texts the endpoint may repeat.
        sent: fields of the body that was sent.
    """
    parts = list(_parts(_json(text[:_LONGEST])))
    message = _without_texts(" ".join(_messages(parts)) if parts else text[:_LONGEST], request)
    codes = tuple(dict.fromkeys(_codes(parts)))
    is_flagged = any(_FLAGGED.search(each) for each in (*codes, message)) or any(
        "flagged_input" in each for each in parts
    )
    is_too_long = bool(_TOO_LONG.search(message)) or any("context" in code for code in codes)
    is_about_prompt = is_flagged or is_too_long
    return ErrorReply(
        codes=codes,
        parameter=None if is_about_prompt else _named_parameter(parts, message, sent),
        wanted=None if is_about_prompt else _wanted(parts, message, sent),
        is_flagged=is_flagged,
        is_too_long=is_too_long,
        is_unpaid=bool(_UNPAID.search(message)),
        has_no_model=bool(_NO_MODEL.search(message)),
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parts(body: Any, depth: int = 4) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of an error, the inner ones first: they are the more specific."""
    if depth and isinstance(body, list):
        for each in cast(list[Any], body)[:10]:
            yield from _parts(each, depth - 1)
    elif depth and isinstance(body, dict):
        found = cast(dict[str, Any], body)
        for name in ("error", "errors", "message", "detail", "innererror", "metadata"):
            yield from _parts(found.get(name), depth - 1)
        yield found


def _codes(parts: list[Mapping[str, Any]]) -> Iterator[str]:
    for name in ("code", "type", "status", "reason", "error", "error_code"):
        for part in parts:
            value = part.get(name)
            if isinstance(value, str) and CODE.fullmatch(value) and not value.isdecimal():
                yield value.lower()


def _messages(parts: list[Mapping[str, Any]]) -> Iterator[str]:
    for part in parts:
        for name in ("message", "msg", "detail", "error"):
            if isinstance(part.get(name), str):
                yield part[name]


def _without_texts(message: str, request: Request) -> str:
    """Return a message without the prompt's texts, which could name a parameter or a policy themselves."""
    for text in sorted((each.content for each in request.messages), key=len, reverse=True):
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
            if form.strip():
                message = message.replace(form, " ")
    return message


def _named_parameter(parts: list[Mapping[str, Any]], message: str, sent: Mapping[str, Any]) -> str | None:
    for part in parts:
        for named in _named_by(part):
            if named in _ABOUT_PROMPT:
                return None
            if named in sent:
                return named
    if not _REFUSAL.search(message):
        return None
    found = [(place, name) for name in (*sent, *_ABOUT_PROMPT) if (place := _place(name, message)) is not None]
    first = min(found, default=(0, None))[1]
    return None if first in _ABOUT_PROMPT else first


def _wanted(parts: list[Mapping[str, Any]], message: str, sent: Mapping[str, Any]) -> str | None:
    """Return the first name that an error tells of something which the request lacks."""
    told = [name for part in parts if part.get("type") == "missing" for name in _named_by(part)]
    told += [part["param"] for part in parts if isinstance(part.get("param"), str)]
    if _LACK.search(message):
        told += [name for found in _LACKED.finditer(message) for name in found.groups() if name]
    names = (name for name in told if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name))
    return next((name for name in names if name not in sent and name not in _ABOUT_PROMPT), None)


def _named_by(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that the `param` and the `loc` of an error name: the outermost of `a.b[0]`, and all of `loc`."""
    param = part.get("param")
    if isinstance(param, str):
        yield re.split(r"[.\[]", param.removeprefix("body."))[0]
    location = part.get("loc")
    if isinstance(location, list):
        yield from (each for each in cast(list[Any], location)[:8] if isinstance(each, str) and each != "body")


def _place(name: str, message: str) -> int | None:
    """Return where a message names a field; an ordinary word counts only in quotes or after a word for field."""
    quoted = rf"['\"`]{re.escape(name)}(['\"`]|[.\[])"
    told = rf"(?i:parameters?|arguments?|fields?|property|supplied|inputs?)\s*:?\s*{re.escape(name)}\b"
    plain = rf"(?<![\w.-]){re.escape(name)}(?![\w-])"
    found = re.search(f"{quoted}|{told}" if name in _ORDINARY else f"{quoted}|{told}|{plain}", message)
    return None if found is None else found.start()
