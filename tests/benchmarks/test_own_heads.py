import numpy as np
import pytest
from own_heads import RIVALS, Answered, Source, by_user, figures_of, gain_text, rise, table
from quality_pieces import digest_of
from scipy import stats

USERS = np.repeat(np.arange(50), 2)


def answered(gain: float, records: str = "all") -> Answered:
    base_G = np.random.default_rng(0).uniform(0.2, 0.6, len(USERS))
    own_G = base_G + gain + np.random.default_rng(1).normal(0, 0.01, len(USERS))
    return Answered(
        kind="queries",
        num_records=records,
        user_G=USERS,
        qualities={"own": own_G, **dict.fromkeys(RIVALS, base_G)},
        losses={"own": base_G, "shared": own_G},
    )


def test_figures_are_by_user():
    found = answered(0.02)
    figures = figures_of(found)
    own_U, rival_U = (by_user(found, found.qualities[name])[0] for name in ("own", "shared"))
    shared = figures["rivals"]["shared"]
    assert shared["value"] == pytest.approx((own_U - rival_U).mean())
    assert shared["low"] < shared["value"] < shared["high"]
    assert shared["p_value"] == pytest.approx(stats.ttest_rel(own_U, rival_U).pvalue)
    assert figures["loss"]["value"] == pytest.approx(-shared["value"])
    assert figures["num_texts"] == 100


def test_the_rise_is_of_gains_of_the_same_users():
    figure = rise(answered(0.01, "5"), answered(0.03, "60")).figure
    assert figure.value == pytest.approx(0.02)
    assert figure.low == pytest.approx(0.02)  # the noise of both is the same


def test_the_table_has_a_line_for_each_number_of_records():
    figures = [figures_of(answered(0.01, "5")), figures_of(answered(0.03, "60"))]
    lines = table(figures).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["5", "60"]


def test_the_gain_is_told_with_what_follows():
    figure = {"value": 0.01, "low": 0.005, "high": 0.015}
    gain = {"num_users": 60, "num_records": 1200, "loss": figure, "quality": figure}
    text = gain_text({"predicted_gain": gain, "is_on": True})
    assert "1,200 held-out records of 60 training users" in text
    assert text.endswith("own heads are on.")


def test_settings_name_no_place():
    own = Source(task="LaMP_3", users=("/here/a.jsonl",))
    assert digest_of(own.settings()) == digest_of(Source(task="LaMP_3", users=("/there/a.jsonl",)).settings())
    assert digest_of(own.settings()) != digest_of(Source(task="LaMP_3", records=(5,)).settings())
