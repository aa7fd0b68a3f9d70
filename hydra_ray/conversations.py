"""Conversations as texts: lists of messages in the form that retrieval, encoders, prompts and pages use.

A conversation of several messages becomes

    Conversation, the newest message last:
    User: It rains.
    Assistant: Take an umbrella.
    User: And
      tomorrow?

Lines of a message after its first are indented, so that no content can forge the beginning of a message. A single
message of the user is a text like any other.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any, cast

HEADING = "Conversation, the newest message last:"
ROLES: Mapping[str, str] = {"system": "System", "user": "User", "assistant": "Assistant"}
"""Roles of messages, and how they are shown."""
_INDENT = "  "
MAX_CHARACTERS_PER_TOKEN = 50
"""Bound by which longer texts are cut or left out before they are tokenized: a whole book costs no more than a page."""
_START = re.compile(rf"\n(?={'|'.join(ROLES.values())}: )")

Message = Mapping[str, Any]
Conversation = Sequence[Message]
"""Messages as endpoints of chats take them: `role` and `content`, a text or a list of parts of text."""


def conversation_text(messages: object) -> str:
    """Return a conversation as a text.

    Args:
        messages: objects with `role` and `content`; or one object with a list of each, as columnar files hold them.

    Raises:
        ValueError: there is no message, or one has another role, or no text; tells which, and no content.
    """
    turns = [_turn(place, message) for place, message in enumerate(_listed(messages))]
    if not turns:
        raise ValueError("an empty list, expected at least one message")
    if len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    lines = [f"{ROLES[role]}: {_indented(content)}" for role, content in turns]
    return "\n".join([HEADING, *lines])


def last_answer(messages: object) -> str:
    """Return the content of the last message, which must be the assistant's.

    Raises:
        ValueError: as `conversation_text`, or the last message is another's.
    """
    turns = [_turn(place, message) for place, message in enumerate(_listed(messages))]
    if not turns:
        raise ValueError("an empty list, expected at least one message")
    role, content = turns[-1]
    if role != "assistant":
        raise ValueError(f"a list whose last message is of role {role}, expected assistant")
    return content


def is_conversation(text: str) -> bool:
    """Return whether a text was made of a conversation of several messages."""
    return text.startswith(f"{HEADING}\n")


def message_texts(text: str) -> list[str]:
    """Return the messages of a text for which `is_conversation` holds, each with its role, oldest first."""
    return _START.split(text)[1:]


def newest_messages(text: str, num_messages: int) -> str:
    """Return a text for which `is_conversation` holds with its newest messages only."""
    return "\n".join([HEADING, *message_texts(text)[-num_messages:]])


def newest_that_fit(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> str | None:
    """Return a text for which `is_conversation` holds with as many of its newest messages as fit; None where not even
    the last one does.

    Args:
        count_tokens: returns the length of a text in tokens.
    """
    lengths = accumulate(map(len, reversed(message_texts(text))))
    # Not even tokenized: longer than that many tokens can be.
    num_messages = sum(1 for _ in takewhile(lambda length: length <= max_tokens * MAX_CHARACTERS_PER_TOKEN, lengths))
    # Trying one message more at a time would take the square of their number.
    number = bisect_right(
        range(1, num_messages + 1), max_tokens, key=lambda each: count_tokens(newest_messages(text, each))
    )
    return newest_messages(text, number) if number else None


def _listed(messages: object) -> list[object]:
    if isinstance(messages, Mapping):
        columns = cast(Mapping[str, object], messages)
        roles, contents = columns.get("role"), columns.get("content")
        if not isinstance(roles, list) or not isinstance(contents, list) or len(roles) != len(contents):
            raise ValueError("an object, expected a text or a list of messages with role and content")
        pairs = zip(cast(list[object], roles), cast(list[object], contents), strict=True)
        return [{"role": role, "content": content} for role, content in pairs]
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise ValueError(f"{type(messages).__name__}, expected a text or a list of messages with role and content")
    return list(cast(Sequence[object], messages))


def _turn(place: int, message: object) -> tuple[str, str]:
    """Return the role and the content of a message."""
    if not isinstance(message, Mapping):
        raise ValueError(f"list, not text, and its message {place} is {type(message).__name__}, not an object")
    fields = cast(Message, message)
    role = fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        got = "no role" if role is None else "another role"
        raise ValueError(f"a list whose message {place} has {got}, expected one of {', '.join(ROLES)}")
    content = _content(fields.get("content"), place)
    if not content.strip():
        raise ValueError(f"a list whose message {place} has no content")
    return role, content.strip()


def _content(content: object, place: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        text = content
    elif isinstance(content, list):
        text = "".join(_part(part, place) for part in cast(list[object], content))
    else:
        raise ValueError(f"a list whose message {place} has a content of type {type(content).__name__}, expected text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a list whose message {place} is not valid Unicode") from error
    return text


def _part(part: object, place: int) -> str:
    fields = cast(Message, part) if isinstance(part, Mapping) else {}
    text = fields.get("text")
    if fields.get("type", "text") != "text" or not isinstance(text, str):
        raise ValueError(f"a list whose message {place} has a part that is no text, expected parts of type text")
    return text


def _indented(content: str) -> str:
    """Return a content whose lines, however they end, are indented but for the first."""
    return f"\n{_INDENT}".join(content.splitlines())
