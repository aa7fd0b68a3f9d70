"""Everything wrong that can be handed in as users, and what becomes of each: the tests and docs/bad-input.md."""

import gzip
import io
import json
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from csv import DictWriter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LAMP, JSONL, PARQUET, CSV = "LaMP", ".jsonl", ".parquet", ".csv"
ACCEPTED, REJECTED, ERROR = "accepted", "rejected", "error"

Files = dict[str, bytes]
"""Contents by file name: the questions and outputs of a split in LaMP's format, or one file of own users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that can be wrong. Key: (wrong, formats)."""

    wrong: str
    formats: tuple[str, ...]
    make: Callable[[str], Files]
    """The files in a format, which hold the user in question and one good user."""
    outcome: str
    """ACCEPTED: the user is taken in. REJECTED: the user is in the rejected table. ERROR: the file is refused."""
    detail: str = ""
    """Outcome: the user, or a part of the reason or of the message."""
    field: str = ""
    """Location of an accepted value: record_id, input, output, date, query or target; empty: not checked."""
    value: Any = None
    """Value at that location."""


def user_row(user_id: Any = "bad", **changes: Any) -> dict[str, Any]:
    """A good user of the task `tags`, in the form of own files, with some of its fields replaced."""
    row = {
        "user_id": user_id,
        "history": [{"id": "r", "input": "a text", "output": "comedy", "date": 1_600_000_000}],
        "queries": [{"id": "q", "input": "a query", "target": "romance"}],
    }
    return {**row, **changes}


def sample(row: dict[str, Any]) -> dict[str, Any]:
    """The same user in LaMP's format."""
    profile = row["history"]
    if isinstance(profile, list):
        profile = [
            {{"input": "text", "output": "tag"}.get(name, name): value for name, value in each.items()}
            if isinstance(each, dict)
            else each
            for each in profile
        ]
    question = row["queries"][0]["input"]
    asked = f"Which tag? text:{question}" if isinstance(question, str) else question
    return {"id": row["user_id"], "input": asked, "profile": profile}


def lamp_files(rows: Iterable[dict[str, Any]]) -> Files:
    """Own rows as LaMP's files."""
    rows = list(rows)
    golds = [{"id": row["user_id"], "output": row["queries"][0]["target"]} for row in rows]
    return {
        "dev_questions.json": json.dumps([sample(row) for row in rows]).encode("utf-8"),
        "dev_outputs.json": json.dumps({"task": "tags", "golds": golds}).encode("utf-8"),
    }


def jsonl(rows: Iterable[Any]) -> bytes:
    """Rows as JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def csv(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as CSV of single events."""
    file = io.StringIO()
    writer = DictWriter(file, ["user_id", "is_new", "id", "input", "output", "date", "target"])
    writer.writeheader()
    for row in rows:
        for event in (*row["history"], *row["queries"]):
            writer.writerow({"user_id": row["user_id"], "is_new": row.get("is_new"), **event})
    return file.getvalue().encode()


def files_of(format_: str, rows: Iterable[dict[str, Any]]) -> Files:
    """Rows in a format."""
    if format_ == LAMP:
        return lamp_files(rows)
    if format_ == CSV:
        return {"users.csv": csv(rows)}
    return {"users.jsonl": jsonl(rows)} if format_ == JSONL else {"users.parquet": parquet(rows)}


GOOD = user_row("good")
(RECORD,), (QUERY,) = GOOD["history"], GOOD["queries"]


def _user(**changes: Any) -> Callable[[str], Files]:
    return lambda format_: files_of(format_, [user_row(**changes), GOOD])


def _record(**changes: Any) -> Callable[[str], Files]:
    return _user(history=[{**user_row()["history"][0], **changes}])


def _query(**changes: Any) -> Callable[[str], Files]:
    return _user(queries=[{**user_row()["queries"][0], **changes}])


def _alike(**changes: Any) -> Callable[[str], Files]:
    """Two users with the same change: a column of Parquet holds one type."""
    return lambda format_: files_of(format_, [user_row(**changes), user_row("good", **changes)])


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[str], Files]:
    """The good files, their main file's bytes changed."""

    def make(format_: str) -> Files:
        files = files_of(format_, [user_row(), GOOD])
        name = next(iter(files))
        return {**files, name: change(files[name])}

    return make


def _lines(*lines: bytes) -> Callable[[str], Files]:
    return lambda _: {"users.jsonl": b"\n".join([*lines, jsonl([GOOD])])}


def _outputs(golds: Any) -> Callable[[str], Files]:
    def make(format_: str) -> Files:
        return {**files_of(format_, [user_row(), GOOD]), "dev_outputs.json": json.dumps({"golds": golds}).encode()}

    return make


def _unreadable_text(_: str) -> Files:
    ids = pa.array([b"b\xe9d", b"good"], pa.binary()).cast(pa.string(), safe=False)
    rows = pa.Table.from_pylist([user_row(), GOOD])
    file = io.BytesIO()
    pq.write_table(rows.set_column(rows.schema.get_field_index("user_id"), "user_id", ids), file)
    return {"users.parquet": file.getvalue()}


def _named(name: str, change: Callable[[bytes], bytes] = lambda content: content) -> Callable[[str], Files]:
    """The good file under another name, its bytes changed."""
    return lambda format_: {name: change(next(iter(files_of(format_, [user_row(), GOOD]).values())))}


def _packed_lamp(_: str) -> Files:
    files = lamp_files([user_row(), GOOD])
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def _sequences(history: dict[str, Any]) -> Callable[[str], Files]:
    """Histories as objects of lists, also the good user's."""
    good = {"id": ["r"], "input": ["x"], "output": ["comedy"]}
    return lambda format_: files_of(format_, [user_row(history=history), user_row("good", history=good)])


def _archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("users.jsonl", content)
    return file.getvalue()


def _without_comma(format_: str) -> Files:
    return _bytes(lambda content: content.replace(b'", "', b'" "', 1))(format_)


def _uuids(_: str) -> Files:
    rows = pa.Table.from_pylist([user_row(), GOOD])
    ids = pa.array([bytes(15) + b"\1", bytes(15) + b"\2"], pa.binary(16))
    names = pa.array([user_row()["user_id"], "good"])
    record = pa.struct({"id": pa.binary(16), "input": pa.string(), "output": pa.string()})
    histories = [[{"id": each, "input": "a text", "output": "comedy"}] for each in ids.to_pylist()]
    records = pa.array(histories, pa.list_(record))
    rows = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", names)
    file = io.BytesIO()
    pq.write_table(rows.set_column(rows.schema.get_field_index("history"), "history", records), file)
    return {"users.parquet": file.getvalue()}


def _events(text: str) -> Callable[[str], Files]:
    return lambda format_: {"users.csv": files_of(format_, [GOOD])["users.csv"] + text.encode()}


def _replaced(old: bytes, new: bytes) -> Callable[[str], Files]:
    return _bytes(lambda content: content.replace(old, new, 1))


ALL, TEXT, OWN = (LAMP, JSONL, PARQUET), (LAMP, JSONL), (JSONL, PARQUET)
HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
TALK = [{"role": "user", "content": "It rains."}, {"role": "assistant", "content": "Take an umbrella."}]
TALK_TEXT = "Conversation, the newest message last:\nUser: It rains.\nAssistant: Take an umbrella."
MEGABYTE = "word " * 200_000
STRANGE = "bell \x07, right to left \u202eabc\u202c, zero width \u200b, emoji \U0001f642"
GOLD_OF_GOOD = {"id": "good", "output": "comedy"}

CASES = (
    # Files.
    Case(wrong="a byte order mark of UTF-8", formats=TEXT, make=_bytes(lambda b: b"\xef\xbb\xbf" + b),
         outcome=ACCEPTED, detail="the mark is skipped"),
    Case(wrong="Windows line ends", formats=TEXT, make=_bytes(lambda b: b.replace(b"\n", b"\r\n")), outcome=ACCEPTED),
    Case(wrong="UTF-16 or UTF-32", formats=TEXT, make=_bytes(lambda b: b.decode().encode("utf-16")),
         outcome=ERROR, detail="Write it again as UTF-8"),
    Case(wrong="Latin-1, or any bytes that are no UTF-8", formats=(LAMP,), make=_replaced(b"a text", b"caf\xe9"),
         outcome=ERROR, detail="invalid bytes in UTF8 string"),
    Case(wrong="Latin-1, or any bytes that are no UTF-8", formats=(JSONL,), make=_replaced(b"a text", b"caf\xe9"),
         outcome=REJECTED, detail="the line is not UTF-8"),
    Case(wrong="Latin-1, or any bytes that are no UTF-8", formats=(PARQUET,), make=_unreadable_text,
         outcome=REJECTED, detail="the row cannot be read"),
    Case(wrong="a web page in the file's place", formats=(LAMP,), make=_bytes(lambda _: HTML),
         outcome=ERROR, detail="an error page in its place"),
    Case(wrong="a web page in the file's place", formats=(JSONL,), make=_bytes(lambda _: HTML),
         outcome=ERROR, detail="is a web page or XML"),
    Case(wrong="a web page in the file's place", formats=(PARQUET,), make=_bytes(lambda _: HTML),
         outcome=ERROR, detail="cannot be read as Parquet"),
    Case(wrong="a file that was cut off", formats=(LAMP,), make=_bytes(lambda b: b[:-20]),
         outcome=ERROR, detail="it may be cut off"),
    Case(wrong="a file that was cut off", formats=(PARQUET,), make=_bytes(lambda b: b[:-20]),
         outcome=ERROR, detail="cannot be read as Parquet"),
    Case(wrong="a line that was cut off", formats=(JSONL,), make=_lines(jsonl([user_row()])[:-20]),
         outcome=REJECTED, detail="the line is not JSON"),
    Case(wrong="an empty file", formats=(LAMP,), make=_bytes(lambda _: b""), outcome=ERROR, detail="is not valid JSON"),
    Case(wrong="an empty file", formats=(JSONL,), make=_bytes(lambda _: b""), outcome=ERROR, detail="holds no row"),
    Case(wrong="a file without a row", formats=(PARQUET,), make=_bytes(lambda _: parquet([GOOD][:0])),
         outcome=ERROR, detail="holds no row"),
    Case(wrong="JSON of another shape", formats=(LAMP,), make=_bytes(lambda _: b'{"error": "no such file"}'),
         outcome=ERROR, detail="expected a JSON array of samples"),
    Case(wrong="a list where an object is expected", formats=(JSONL,), make=_lines(b"[1]"),
         outcome=REJECTED, detail="not an object"),
    Case(wrong="JSON that is nested a hundred thousand deep", formats=(LAMP,),
         make=_replaced(b'"a text"', b"[" * 100_000 + b"]" * 100_000), outcome=ERROR, detail="nested more than 100"),
    Case(wrong="JSON that is nested a hundred thousand deep", formats=(JSONL,),
         make=_replaced(b'"a text"', b"[" * 100_000 + b"]" * 100_000), outcome=REJECTED, detail="recursion"),
    Case(wrong="NaN or Infinity, which JSON has not", formats=(LAMP,), make=_record(input=float("nan")),
         outcome=ERROR, detail="is not valid JSON"),
    Case(wrong="NaN or Infinity, which JSON has not", formats=(JSONL,), make=_record(input=float("nan")),
         outcome=REJECTED, detail="NaN is no value"),
    Case(wrong="NaN in the place of a text", formats=(PARQUET,),
         make=lambda f: files_of(f, [user_row(history=[{"input": float("nan"), "output": "comedy"}])]),
         outcome=REJECTED, detail="is nan, not text"),
    Case(wrong="a whole number of 30 digits as an id", formats=(LAMP,), make=_user(user_id=10**29),
         outcome=ERROR, detail="integer overflow"),
    Case(wrong="a whole number of 30 digits as an id", formats=(JSONL,), make=_user(user_id=10**29),
         outcome=ACCEPTED, detail="its digits"),
    Case(wrong="a number of 5000 digits", formats=(LAMP,), make=_replaced(b'"a text"', b"1" * 5000),
         outcome=ERROR, detail="integer overflow"),
    Case(wrong="a number of 5000 digits", formats=(JSONL,), make=_replaced(b'"a text"', b"1" * 5000),
         outcome=REJECTED, detail="the line is not JSON"),
    Case(wrong="a file packed with gzip (or zstd, bzip2, xz, lz4), under whatever name", formats=(JSONL, CSV),
         make=_bytes(gzip.compress), outcome=ACCEPTED, detail="unpacked as it is read"),
    Case(wrong="a file packed with gzip (or zstd, bzip2, xz, lz4), under whatever name", formats=(LAMP,),
         make=_packed_lamp, outcome=ACCEPTED, detail="unpacked as it is read, also under the name with `.gz`"),
    Case(wrong="a packed file that was cut off", formats=(JSONL, CSV), make=_bytes(lambda b: gzip.compress(b)[:-9]),
         outcome=ERROR, detail="it may be cut off or damaged"),
    Case(wrong="a packed table", formats=(PARQUET,), make=_named("users.parquet.gz", gzip.compress), outcome=ERROR,
         detail="tables are compressed inside"),
    Case(wrong="a zip archive", formats=(JSONL, CSV), make=_bytes(_archive), outcome=ERROR, detail="a zip archive"),
    Case(wrong="another ending of the name, such as `.json`, `.ndjson`, `.txt`, or none", formats=(*OWN, CSV),
         make=_named("users"), outcome=ACCEPTED, detail="told by the content"),
    Case(wrong="a JSON array of users in the place of lines", formats=(JSONL,),
         make=_named("users.json", lambda b: b"[" + b.strip().replace(b"\n", b",") + b"]"), outcome=ACCEPTED),
    Case(wrong="a JSON array under the name of JSON lines", formats=(JSONL,),
         make=_bytes(lambda b: b"[\n" + b.strip().replace(b"\n", b",\n") + b"\n]\n"), outcome=ACCEPTED),
    Case(wrong="JSON objects over several lines", formats=(JSONL,),
         make=_bytes(lambda b: b"\n".join(json.dumps(json.loads(line), indent=2).encode() for line in b.splitlines())),
         outcome=ERROR, detail="expected one object a line, or a JSON array"),
    Case(wrong="a file that is packed twice", formats=(JSONL, CSV),
         make=_bytes(lambda b: gzip.compress(gzip.compress(b))), outcome=ERROR, detail="is packed twice"),
    Case(wrong="one missing comma", formats=(LAMP,), make=_without_comma, outcome=ERROR,
         detail="(after key and value, inside map, I expect ',' or '}')"),
    Case(wrong="one missing comma", formats=(JSONL,), make=_without_comma, outcome=REJECTED,
         detail="the line is not JSON: Expecting ',' delimiter at character"),
    Case(wrong="an object of lists in the place of a list of objects (a `Sequence` of Hugging Face)", formats=OWN,
         make=_sequences({"id": ["r"], "input": ["a text"], "output": ["comedy"]}), outcome=ACCEPTED,
         field="input", value="a text"),
    Case(wrong="an object of lists of unequal lengths", formats=OWN,
         make=_sequences({"id": ["r", "s"], "input": ["a text"], "output": ["comedy"]}), outcome=REJECTED,
         detail="is an object of lists of the lengths [1, 2]"),
    # Single events.
    Case(wrong="a row of CSV with more cells than the header", formats=(CSV,), make=_events("bad,,,a,comedy,,,more\n"),
         outcome=REJECTED, detail="the row has 8 cells, the header 7"),
    Case(wrong="a quote inside a quoted cell of CSV", formats=(CSV,), make=_events('bad,,,"a" b,comedy,,\n'),
         outcome=REJECTED, detail="the row is not CSV"),
    Case(wrong="a quote of CSV that is never closed", formats=(CSV,), make=_events('bad,,,"a,comedy,,\n'),
         outcome=ERROR, detail="that does not end"),
    Case(wrong="the header of CSV once more, where files were joined", formats=(CSV,),
         make=_bytes(lambda b: b + b.partition(b"\n")[0] + b"\n"), outcome=ACCEPTED, detail="left out"),
    Case(wrong="Excel's line `sep=,` before the header", formats=(CSV,), make=_bytes(lambda b: b"sep=,\r\n" + b),
         outcome=ACCEPTED),
    Case(wrong="columns without a name", formats=(CSV,), make=_bytes(lambda b: b.replace(b"\r\n", b",,\r\n")),
         outcome=ACCEPTED),
    Case(wrong="`\\N` in the place of an empty cell", formats=(CSV,), make=_bytes(lambda b: b.replace(b",,", b",\\N,")),
         outcome=ACCEPTED),
    Case(wrong="CSV without a header", formats=(CSV,), make=_bytes(lambda b: b.partition(b"\n")[2]), outcome=ERROR,
         detail="whose first line names the columns user_id, input and output"),
    Case(wrong="an event with an output and a target", formats=(CSV,), make=_events("bad,,,a,comedy,,comedy\n"),
         outcome=REJECTED, detail="say in `kind` whether it is a record or a query"),
    Case(wrong="events of one user that call the user new and not new", formats=(CSV,),
         make=_events("bad,true,,a,comedy,,\nbad,false,,b,comedy,,\n"), outcome=REJECTED,
         detail="is_new is true in one row of the user and false in another"),
    Case(wrong="one event of a user that cannot be used", formats=(CSV,),
         make=_events("bad,,,a,comedy,,\nbad,,,b,horror,,\n"), outcome=REJECTED, detail="is not a label of tags"),
    # Ids.
    Case(wrong="bytes of fixed width as an id, such as a UUID", formats=(PARQUET,), make=_uuids, outcome=ACCEPTED,
         detail="hexadecimal digits, those of 16 bytes as a UUID", field="record_id",
         value="00000000-0000-0000-0000-000000000001"),
    Case(wrong="a user id in another Unicode form (decomposed)", formats=ALL,
         make=_user(user_id=unicodedata.normalize("NFD", "Zo\xe9")), outcome=ACCEPTED,
         detail="as it is: another user than in composed letters"),
    Case(wrong="the same user twice", formats=ALL, make=lambda f: files_of(f, [GOOD, user_row("bad"), user_row("bad")]),
         outcome=REJECTED, detail="the same id as sample 1"),
    Case(wrong="the same record id twice", formats=ALL, make=_user(history=[user_row()["history"][0]] * 2),
         outcome=REJECTED, detail="record 'r' comes twice"),
    Case(wrong="the same query id twice", formats=OWN, make=_user(queries=[user_row()["queries"][0]] * 2),
         outcome=REJECTED, detail="query 'q' comes twice"),
    Case(wrong="a query named as a record's own query (`record:` and its id)", formats=OWN, make=_query(id="record:r"),
         outcome=REJECTED, detail="rename it"),
    Case(wrong="no user id, or null", formats=ALL,
         make=_user(user_id=None), outcome=REJECTED, detail="is missing"),
    Case(wrong="an empty or blank user id", formats=ALL, make=_user(user_id=" "), outcome=REJECTED, detail="is empty"),
    Case(wrong="a user id with NUL, a line break or another control character", formats=ALL,
         make=_user(user_id="b\x00d"), outcome=REJECTED, detail="holds the control character U+0000"),
    Case(wrong="true or false as a user id", formats=TEXT, make=_user(user_id=True), outcome=REJECTED,
         detail="is bool, not text"),
    Case(wrong="a list or an object as a user id", formats=TEXT, make=_user(user_id=["b"]), outcome=REJECTED,
         detail="is list, not text"),
    Case(wrong="a number as a user id", formats=TEXT, make=_user(user_id=7.0), outcome=ACCEPTED, detail="`7`"),
    Case(wrong="a number as a user id whose last digits are lost, such as a floating-point one beyond 2^53",
         formats=(LAMP, JSONL), make=_user(user_id=1.8074732405130088e18), outcome=REJECTED,
         detail="write ids as text"),
    Case(wrong="a spreadsheet's `1.80747E+18` as a user id", formats=ALL, make=_user(user_id="1.80747E+18"),
         outcome=REJECTED, detail="write ids as text"),
    Case(wrong="the user id `../../etc/passwd`", formats=ALL, make=_user(user_id="../../etc/passwd"),
         outcome=ACCEPTED, detail="no id ever becomes a path"),
    Case(wrong="a user id of 10 kB", formats=ALL, make=_user(user_id="b" * 10_000), outcome=ACCEPTED),
    Case(wrong="a user id with spaces around it", formats=ALL, make=_user(user_id=" bad "), outcome=ACCEPTED,
         detail="as it is: another user than without them"),
    # Targets.
    Case(wrong="a user who is not in the outputs", formats=(LAMP,), make=_outputs([GOLD_OF_GOOD]), outcome=REJECTED,
         detail="no target in the outputs file"),
    Case(wrong="an output that nobody asked for", formats=(LAMP,),
         make=_outputs([{"id": "bad", "output": "comedy"}, GOLD_OF_GOOD, {"id": "nobody", "output": "comedy"}]),
         outcome=ACCEPTED, detail="that output is left out, and the log says so"),
    Case(wrong="two different outputs of one user", formats=(LAMP,),
         make=_outputs([{"id": "bad", "output": "comedy"}, {"id": "bad", "output": "romance"}, GOLD_OF_GOOD]),
         outcome=REJECTED, detail="2 different targets"),
    Case(wrong="a training user's query without a target", formats=OWN,
         make=_user(is_new=False, queries=[{"id": "q", "input": "a query", "target": None}]), outcome=REJECTED,
         detail="has no target"),
    Case(wrong="`is_new` that is neither true nor false", formats=(JSONL,), make=_user(is_new="no"), outcome=REJECTED,
         detail="is_new is 'no', not true or false"),
    # Histories and texts.
    Case(wrong="an empty history", formats=TEXT, make=_user(history=[]), outcome=ACCEPTED,
         detail="the shared heads answer"),
    Case(wrong="no history, or null", formats=TEXT, make=_user(history=None), outcome=REJECTED, detail="is missing"),
    Case(wrong="null among the records", formats=TEXT, make=_user(history=[None]), outcome=REJECTED,
         detail="not an object"),
    Case(wrong="null in a record's text", formats=ALL, make=_record(input=None), outcome=REJECTED, detail="is missing"),
    Case(wrong="a list in a record's text", formats=TEXT, make=_record(input=["a"]), outcome=REJECTED,
         detail="is list, not text"),
    Case(wrong="a list of messages as a record's input", formats=OWN, make=_alike(history=[{**RECORD, "input": TALK}]),
         outcome=ACCEPTED, detail="[a line for each message](own-data.md)", field="input", value=TALK_TEXT),
    Case(wrong="a list of messages as a query's input", formats=OWN, make=_alike(queries=[{**QUERY, "input": TALK}]),
         outcome=ACCEPTED, detail="[a line for each message](own-data.md)", field="query", value=TALK_TEXT),
    Case(wrong="a list of one message of the user", formats=OWN, make=_alike(queries=[{**QUERY, "input": TALK[:1]}]),
         outcome=ACCEPTED, detail="its text", field="query", value="It rains."),
    Case(wrong="an object with lists of roles and contents", formats=OWN,
         make=_alike(queries=[{**QUERY, "input": {name: [each[name] for each in TALK] for name in TALK[0]}}]),
         outcome=ACCEPTED, detail="a list of messages", field="query", value=TALK_TEXT),
    Case(wrong="a message whose content is a list of parts", formats=(JSONL,),
         make=_query(input=[{"role": "user", "content": [{"type": "text", "text": "It "}, {"text": "rains."}]}]),
         outcome=ACCEPTED, detail="the text parts, joined", field="query", value="It rains."),
    Case(wrong="a message with a part that is no text, such as an image", formats=(JSONL,),
         make=_query(input=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]),
         outcome=REJECTED, detail="the input of query 0 is a list whose message 0 has a part that is no text"),
    Case(wrong="a message of the role `tool`, or another unknown one", formats=(JSONL,),
         make=_query(input=[*TALK, {"role": "tool", "content": "x"}]), outcome=REJECTED,
         detail="message 2 has another role, expected one of system, user, assistant"),
    Case(wrong="a message without a role", formats=(JSONL,), make=_query(input=[{"content": "x"}]), outcome=REJECTED,
         detail="message 0 has no role"),
    Case(wrong="a message without content, or null", formats=(JSONL,),
         make=_query(input=[*TALK, {"role": "user", "content": None}]), outcome=REJECTED,
         detail="message 2 has no content"),
    Case(wrong="an empty list of messages", formats=(JSONL,), make=_query(input=[]), outcome=REJECTED,
         detail="is an empty list, expected at least one message"),
    Case(wrong="a list of messages as a target", formats=(JSONL,), make=_query(target=TALK), outcome=REJECTED,
         detail="is list, not text"),
    Case(wrong="an empty input of a record", formats=ALL, make=_record(input=" "), outcome=ACCEPTED,
         detail="a record with an output only", field="input", value=""),
    Case(wrong="an empty output of a record", formats=ALL, make=_record(output=" "), outcome=REJECTED,
         detail="the output of record 'r' is empty"),
    Case(wrong="an empty query", formats=ALL, make=_query(input=" "), outcome=REJECTED, detail=""),
    Case(wrong="a text of 1 MB", formats=ALL, make=_record(input=MEGABYTE), outcome=ACCEPTED,
         detail="whole in the tables; prompts show its first `generator.max_text_tokens`", field="input",
         value=MEGABYTE.strip()),
    Case(wrong="a label of 1 MB", formats=ALL, make=_record(output=MEGABYTE), outcome=REJECTED,
         detail="is not a label of tags"),
    Case(wrong="control characters, bidirectional and invisible ones in a text", formats=ALL,
         make=_record(input=STRANGE), outcome=ACCEPTED, detail="as they are; escaped in logs", field="input",
         value=STRANGE),
    Case(wrong="NUL in a text", formats=ALL, make=_record(input="a\x00b"), outcome=ACCEPTED, field="input",
         value="a\x00b"),
    Case(wrong="half a character (a lone surrogate) in a text", formats=(LAMP,), make=_record(input="a \ud800 b"),
         outcome=ACCEPTED, detail="a high half becomes `?`", field="input", value="a ? b"),
    Case(wrong="half a character (a lone low surrogate) in a text", formats=(LAMP,), make=_record(input="\udc00"),
         outcome=ERROR, detail="is not valid JSON"),
    Case(wrong="half a character (a lone surrogate) in a text", formats=(JSONL,), make=_record(input="a \ud800 b"),
         outcome=REJECTED, detail="is not valid Unicode"),
    # Labels and ratings.
    Case(wrong="a label in another case or with spaces around it", formats=ALL, make=_record(output=" Dark COMEDY "),
         outcome=ACCEPTED, detail="`dark comedy`, as the task writes it", field="output", value="dark comedy"),
    Case(wrong="a label in another Unicode form (decomposed, full-width)", formats=ALL,
         make=_record(output="".join(chr(ord(letter) + 0xFEE0) for letter in "comedy")), outcome=ACCEPTED,
         detail="the label, as the task writes it", field="output", value="comedy"),
    Case(wrong="a label with a dot after it", formats=ALL, make=_record(output="comedy."), outcome=REJECTED,
         detail="is not a label of tags"),
    Case(wrong="a label with two spaces inside", formats=ALL, make=_record(output="dark  comedy"), outcome=REJECTED,
         detail="is not a label of tags"),
    Case(wrong="a label that the task has not", formats=ALL, make=_query(target="horror"), outcome=REJECTED,
         detail="is not a label of tags"),
    # Dates.
    Case(wrong="a date in seconds since 1970, as a number", formats=ALL, make=_record(date=1_600_000_000),
         outcome=ACCEPTED, field="date", value=1_600_000_000),
    Case(wrong="a date in seconds since 1970, as a text", formats=TEXT, make=_record(date="1600000000"),
         outcome=ACCEPTED, detail="seconds", field="date", value=1_600_000_000),
    Case(wrong="a date in milliseconds, microseconds or nanoseconds", formats=ALL, make=_record(date=1_600_000_000_123),
         outcome=ACCEPTED, detail="seconds; told by its size", field="date", value=1_600_000_000),
    Case(wrong="an ISO date", formats=TEXT, make=_record(date="2020-09-13"), outcome=ACCEPTED,
         detail="midnight in UTC", field="date", value=1_599_955_200),
    Case(wrong="an ISO date with a time zone", formats=TEXT, make=_record(date="2020-09-13T14:26:40+02:00"),
         outcome=ACCEPTED, detail="the moment", field="date", value=1_600_000_000),
    Case(wrong="a month such as `2021-07`", formats=TEXT, make=_record(date="2021-07"), outcome=ACCEPTED,
         detail="its first day", field="date", value=1_625_097_600),
    Case(wrong="no date, null or an empty text", formats=TEXT, make=_record(date=" "), outcome=ACCEPTED,
         detail="a record without a date", field="date", value=None),
    Case(wrong="any other date, such as `yesterday` or `07/04/2021`", formats=TEXT, make=_record(date="yesterday"),
         outcome=REJECTED, detail="neither seconds since 1970 nor an ISO date"),
    Case(wrong="an object as a date", formats=TEXT, make=_record(date={"year": 2021}), outcome=REJECTED,
         detail="neither a number nor a text"),
)  # fmt: skip
"""One row for everything that can be wrong, for tasks of labels."""

RATINGS: tuple[tuple[Any, str | None], ...] = (
    ("4.0", "4"), (4, "4"), (4.0, "4"), (" 5 ", "5"), ("4 stars", None), ("4,0", None), ("0", None), ("five", None),
    ("nan", None), ("", None),
)  # fmt: skip
"""Ways to write a rating of 1 to 5, and what each becomes; None where the user is rejected."""


def page() -> str:
    """docs/bad-input.md."""
    lines = [
        "# What becomes of bad input",
        "",
        "Each row is a test (`tests/lamp/bad_input.py`, from which this page is made). *accepted*: the user is taken",
        "in. *rejected*: the user is in the table `rejected` beside the users, with file, position, id and reason, and",
        "in the log; more than `users.max_rejected_fraction` of them stop the run. *error*: the file is refused as a",
        "whole, by name, before anything is written. What stands behind a colon is what a value becomes, or a part of",
        "the reason or message.",
        "",
        "| what is wrong | in | what becomes of it |",
        "|---|---|---|",
    ]
    for case in CASES:
        detail = f": {case.detail}" if case.detail else ""
        lines.append(f"| {case.wrong} | {', '.join(case.formats)} | {case.outcome}{detail} |")
    for written, rating in RATINGS:
        becomes = f"{ACCEPTED}: `{rating}`" if rating is not None else f"{REJECTED}: not a label, or empty"
        lines.append(f"| the rating `{json.dumps(written)}`, of 1 to 5 | {', '.join(TEXT)} | {becomes} |")
    return "\n".join([*lines, ""])
