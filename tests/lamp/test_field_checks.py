import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray.lamp.field_checks import MAX_REASON_CHARACTERS, MalformedError, id_of, seconds_of, text_of

MAX_SECONDS = 10**11 - 1


@examples(max_examples=100)
@given(st.integers(-MAX_SECONDS, MAX_SECONDS))
def test_dates_are_read_from_numbers_and_numeric_texts(seconds):
    assert seconds_of(seconds, "date") == seconds_of(str(seconds), "date") == seconds_of(Decimal(seconds), "date")
    assert seconds_of(seconds, "date") == seconds


@examples(max_examples=100)
@given(st.integers(10**9, 4 * 10**9), st.sampled_from([1000, 10**6, 10**9]))
def test_dates_in_smaller_units_than_seconds_are_told_by_their_size(seconds, units):
    assert seconds_of(seconds * units, "date") == seconds_of(str(seconds * units + units // 2), "date") == seconds


def test_a_month_is_its_first_day():
    assert (
        seconds_of("2021-07", "date") == seconds_of(" 2021-07-01 ", "date") == seconds_of("2021-07-01T00:00Z", "date")
    )


@examples(max_examples=100)
@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1)))
def test_dates_are_read_from_iso_texts_as_utc(moment):
    expected = math.floor((moment - datetime(1970, 1, 1)).total_seconds())
    assert seconds_of(moment.isoformat(), "date") == expected
    assert seconds_of(moment.replace(tzinfo=UTC), "date") == expected
    midnight = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    assert seconds_of(f"{moment:%Y-%m-%d}", "date") == int(midnight.timestamp())
    assert seconds_of(date(moment.year, moment.month, moment.day), "date") == int(midnight.timestamp())


def test_no_date_is_none_and_nonsense_is_malformed():
    assert seconds_of(None, "date") is None
    assert seconds_of("", "date") is None
    nested = []
    for _ in range(10_000):
        nested = [nested]
    wrongs = (True, "soon", "2021-13", "07/04/2021", float("nan"), "Infinity", "1e1000000000", 2**63, [1], nested)
    for wrong in wrongs:
        with pytest.raises(MalformedError):
            seconds_of(wrong, "date")


def test_half_a_character_is_malformed():
    with pytest.raises(MalformedError, match="Unicode"):
        text_of("\ud800", "text")


@examples(max_examples=100)
@given(st.integers() | st.integers(-(10**300), 10**300))
def test_whole_numbers_of_any_size_are_texts(number):
    assert text_of(number, "text") == str(number)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity")])
def test_what_is_no_number_is_no_text(number):
    with pytest.raises(MalformedError, match="not text"):
        text_of(number, "text")


@examples(max_examples=100)
@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_an_id_is_one_line_of_a_file_of_ids(text):
    try:
        found = id_of(text, "id")
    except MalformedError:
        assert (
            not text.strip()
            or text.splitlines() != [text]
            or any(ord(each) < 32 or 127 <= ord(each) < 160 for each in text)
        )
    else:
        assert found == text
        assert text.splitlines() == [text]


@given(st.text(max_size=1000))
def test_a_reason_is_short_and_keeps_its_beginning_and_its_end(text):
    error = MalformedError(f"start {text} end")
    assert len(error.reason) <= MAX_REASON_CHARACTERS
    assert error.reason.startswith("start ")
    assert error.reason.endswith(" end")
    assert len(str(error)) > MAX_REASON_CHARACTERS or error.reason == str(error)
