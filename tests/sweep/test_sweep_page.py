import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest
from parsed_page import ParsedPage

from hydra_ray.sweep.config import Range, Sweep, SweepConfig
from hydra_ray.sweep.results import Outcome, Results, gather
from hydra_ray.sweep.stage_reuse import StageUse
from hydra_ray.sweep.sweep_page import render_sweep_page
from hydra_ray.sweep.sweep_plots import importance_plot, parallel_plot
from hydra_ray.sweep.trial import Worth

SPACE = {"probes.num_records": [4, 6], "adapter.heads.prior_scale": {"low": 0.1, "high": 10.0, "log": True}}
SWEEP = Sweep(
    config=SweepConfig.model_validate({"sweep": "s", "base": "b", "space": SPACE, "search": "random", "num_trials": 4}),
    base={},
)
USES = [
    StageUse(name="users", wanted=4, distinct=1, complete=1),
    StageUse(name="drafts", wanted=4, distinct=2, complete=2),
]


def worth(quality: float, tokens: int) -> Worth:
    return Worth(
        run=f"s-{tokens}",
        quality=quality,
        quality_low=quality - 0.05,
        quality_high=quality + 0.05,
        generated_tokens=tokens,
        prompt_tokens=9000,
        requests=10,
        seconds=2.0,
        num_computed=1,
    )


def gathered(figures: list[tuple[float, int]]) -> Results:
    points = [{"probes.num_records": 4 + 2 * (at % 2), "adapter.heads.prior_scale": 0.1 * 4**at} for at in range(4)]
    outcomes = [
        Outcome(settings=point, worth=worth(*each), error=None) for point, each in zip(points, figures, strict=False)
    ]
    failed: dict[str, Any] = {"probes.num_records": 6, "adapter.heads.prior_scale": 9.0}
    return gather(SWEEP, [*outcomes, Outcome(settings=failed, worth=None, error="<b>no room</b>")])


FOUR = [(0.5, 1000), (0.6, 3000), (0.55, 2500), (0.4, 4000)]


def test_the_page_opens_offline_with_every_plot_drawn():
    computed = Counter({("users", "a"): 1, ("drafts", "b"): 1, ("drafts", "c"): 1})
    page = render_sweep_page(SWEEP, gathered(FOUR), "run: s-3000", USES, computed)
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawn) == 3
    for each in drawn:
        assert len(list(ElementTree.fromstring(each).iter())) > 20
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "each exactly once" in page
    assert "2 on the Pareto front" not in page
    assert "3 on the Pareto front, 1 failed" in page
    assert "run: s-3000" in page


def test_a_stage_that_was_computed_twice_is_told():
    page = render_sweep_page(SWEEP, gathered(FOUR), "", USES, Counter({("users", "a"): 2, ("drafts", "b"): 1}))
    assert "1 stages more than once" in page


def test_what_a_trial_failed_at_is_shown_as_text():
    page = render_sweep_page(SWEEP, gathered(FOUR), "", USES, Counter())
    assert "&lt;b&gt;no room&lt;/b&gt;" in page
    assert "<b>no room" not in page


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\" onload='x'", "{{ 7 * 7 }}{% raw %}", "</pre></svg>"])
def test_values_of_trials_and_the_configuration_are_shown_as_text(text: str):
    values = [text, "other"]
    config = SweepConfig.model_validate({**SWEEP.config.model_dump(), "space": {"a.b": values, "a.c": [1, 2]}})
    sweep = Sweep(config=config, base={})
    points = [{"a.b": value, "a.c": number} for value in values for number in (1, 2)]
    outcomes = [
        Outcome(settings=point, worth=worth(*each), error=None) for point, each in zip(points, FOUR, strict=True)
    ]
    uses = [StageUse(name=text, wanted=4, distinct=1, complete=1)]
    page = ParsedPage(render_sweep_page(sweep, gather(sweep, outcomes), f"key:\n  {text}\n", uses, Counter()))
    assert f"\n  {text}\n" in page.text
    # The headline, two rows of trials, the stage, the configuration, an axis of a plot, two trials in its description.
    assert page.text.count(text) == 8
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3


@pytest.mark.parametrize("figures", [[(0.5, 1000)], [(0.5, 1000), (0.5, 1000)], FOUR])
def test_trials_can_be_drawn_however_few_or_equal_they_are(figures: list[tuple[float, int]]):
    results = gathered(figures)
    parallel = parallel_plot(results.results, SWEEP.config.space)
    assert f"quality {results.best.worth.quality:.3f}" in parallel.description
    assert "probes.num_records 0%" in importance_plot(results.importances).description or len(figures) == 4


def test_a_range_that_counts_ratios_is_drawn_so():
    results = gathered(FOUR)
    space = {"adapter.heads.prior_scale": Range(low=0.1, high=10.0, log=True)}
    labels = re.findall(r">([0-9.]+)</text>", parallel_plot(results.results, space).drawing)
    assert {"0.1", "0.8", "6.4"} <= set(labels)  # of 0.1 to 6.4: both ends and the middle
