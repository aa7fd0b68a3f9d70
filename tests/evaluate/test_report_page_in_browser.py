"""The report's page as people see it: opened in headless Chromium, light and dark, wide and on a phone."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic import CLASSIFICATION, synthetic_config

from hydra_ray.adapt.explanation import Explanation, ShownDraft, ShownRecord
from hydra_ray.evaluate.report import FeatureWeight, StageCost, build_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.stages.explained import with_explanation

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCHEMES = {"light": 1, "dark": 0}
WIDE, PHONE = (1280, 800), (390, 844)
READABLE, VISIBLE = 4.5, 3.0
"""The least contrast of text and of what is drawn, by WCAG 2.2 (1.4.3 and 1.4.11)."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PROBE = """
const found = {};
const luminance = ([r, g, b]) => {
  const linear = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const contrast = (one, two) => {
  const [low, high] = [luminance(one), luminance(two)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const background = (element, view) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = parts(view.getComputedStyle(each).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
};
const measure = frame => {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  for (const each of page.querySelectorAll('details')) each.open = true;
  const texts = [...page.querySelectorAll('body *')].filter(
    each => !each.closest('svg') && [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())
  );
  const ratios = texts.map(each => ({
    text: each.textContent.trim().slice(0, 30),
    ratio: contrast(parts(view.getComputedStyle(each).color), background(each, view)),
    size: parseFloat(view.getComputedStyle(each).fontSize),
  }));
  const focusable = [...page.querySelectorAll('a[href], summary, [tabindex]')].filter(each => each.tabIndex >= 0);
  const scrolling = [...page.querySelectorAll('body *')].filter(each =>
    each.scrollWidth > each.clientWidth + 1 && /auto|scroll/.test(view.getComputedStyle(each).overflowX));
  focusable[0].focus();
  const skip = page.activeElement.getBoundingClientRect();
  return {
    overflow: root.scrollWidth - root.clientWidth,
    first: focusable[0].getAttribute('href'),
    skip_is_seen: skip.left >= 0 && skip.right <= root.clientWidth,
    focusable: focusable.map(each => each.tagName.toLowerCase()),
    tabbed_out_of_order: focusable.filter(each => each.tabIndex > 0).length,
    unreachable: scrolling.filter(each => each.tabIndex < 0).map(each => each.className || each.tagName),
    num_scrolling: scrolling.length,
    worst: ratios.sort((a, b) => a.ratio - b.ratio)[0],
    smallest: Math.min(...ratios.map(each => each.size)),
    num_texts: ratios.length,
    colour: view.getComputedStyle(page.body).backgroundColor,
    lift: page.querySelector('.tiles div').getBoundingClientRect().bottom,
    ladder: page.querySelector('svg').getBoundingClientRect().top,
    plots: [...page.querySelectorAll('svg')].map(svg => {
      const box = svg.getBoundingClientRect();
      const drawn = [...svg.querySelectorAll('path, use')].filter(each => {
        const style = view.getComputedStyle(each), size = each.getBoundingClientRect();
        return (style.fill !== 'none' || style.stroke !== 'none') && size.width + size.height > 0;
      });
      const font = Math.min(...[...svg.querySelectorAll('text')].map(each => each.getBoundingClientRect().height));
      return {
        title: svg.querySelector('title').textContent, width: box.width, height: box.height, drawn: drawn.length,
        texts: svg.querySelectorAll('text').length, font: font,
        overflow: Math.max(...[...svg.querySelectorAll('text')].map(
          each => each.getBoundingClientRect().right - root.clientWidth)),
      };
    }),
  };
};
addEventListener('load', () => {
  for (const frame of document.querySelectorAll('iframe')) found[frame.id] = measure(frame);
  document.getElementById('found').textContent = JSON.stringify(found);
});
"""


class Text(HTMLParser):
    """The text of the element `found`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self._is_inside = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_inside = ("id", "found") in attrs

    def handle_data(self, data: str) -> None:
        self.text += data if self._is_inside else ""


def opened(location: Path, scheme: str, profile: Path) -> tuple[str, str]:
    """The page's elements as Chromium has them once it is loaded, and what Chromium has logged."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--enable-logging=stderr", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    command += [f"--user-data-dir={profile}", "--window-size=1400,9000", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, location.as_uri()], capture_output=True, text=True, check=True, timeout=240)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def html(costs: list[StageCost], make_answers: Callable[..., list[Any]]) -> str:
    """A page on which nothing is left out."""
    features = [FeatureWeight(scorer="adapter", name="vote_share", weight=-0.75)]
    report = build_report(CLASSIFICATION, make_answers(CLASSIFICATION, 40), costs, synthetic_config(), features)
    records = [
        ShownRecord(
            record_id=str(place),
            input="a long text about coffee in the old city " * 4,
            output="dark comedy",
            places={"retriever": place, "personal": 4 - place, "shared": place},
            prompts=("rag_k", "personal"),
            probe="crime",
            probe_quality=0.0,
        )
        for place in (1, 2, 3)
    ]
    drafts = [
        ShownDraft(value=label, proposals={"rag_k": 1, "rag_k sampled": 3}, scores={"personal": 0.5}, quality=0.0)
        for label in CLASSIFICATION.labels
    ]
    explanation = Explanation(records=tuple(records), drafts=tuple(drafts))
    report["examples"] = [with_explanation(example, explanation) for example in report["examples"]]
    return render_page(report)


@pytest.fixture(scope="module", params=SCHEMES)
def seen(request: pytest.FixtureRequest, html: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Chromium makes of the page in one colour scheme, by width."""
    folder = tmp_path_factory.mktemp("page")
    frames = "".join(
        f'<iframe id="{name}" style="border:0;width:{width}px;height:{height}px" srcdoc="{escape(html)}"></iframe>'
        for name, (width, height) in {"wide": WIDE, "phone": PHONE}.items()
    )
    page = f'<!doctype html><meta charset="utf-8">{frames}<pre id="found"></pre><script>{PROBE}</script>'
    (folder / "frames.html").write_text(page, encoding="utf-8")
    dumped, _ = opened(folder / "frames.html", request.param, folder / "profile")
    return {"scheme": request.param, **json.loads(Text(dumped).text)}


@pytest.mark.parametrize("width", ["wide", "phone"])
def test_every_plot_is_drawn_and_its_words_can_be_read(seen: dict[str, Any], width: str) -> None:
    plots = seen[width]["plots"]
    assert len(plots) == 7
    for plot in plots:
        assert plot["width"] > (250 if width == "phone" else 400), plot
        assert plot["height"] > 80, plot
        assert plot["drawn"] >= 6, plot
        assert plot["texts"] >= 5, plot
        # The height of a line of text, which is a little more than its font size.
        assert plot["font"] >= 9, plot
        assert plot["overflow"] <= 0, plot


@pytest.mark.parametrize("width", ["wide", "phone"])
def test_the_page_itself_never_scrolls_sideways(seen: dict[str, Any], width: str) -> None:
    assert seen[width]["overflow"] == 0


def test_on_a_phone_tables_scroll_and_can_be_scrolled_by_keyboard(seen: dict[str, Any]) -> None:
    assert seen["phone"]["num_scrolling"] > 3
    assert seen["phone"]["unreachable"] == []


def test_text_stands_out_in_both_colour_schemes(seen: dict[str, Any]) -> None:
    red = int(re.findall(r"\d+", seen["wide"]["colour"])[0])
    assert (red > 200) == (seen["scheme"] == "light")
    assert seen["wide"]["num_texts"] > 200
    assert seen["wide"]["worst"]["ratio"] >= READABLE, seen["wide"]["worst"]
    assert seen["wide"]["smallest"] >= 11


def test_what_one_wants_to_know_first_is_on_the_first_screen(seen: dict[str, Any]) -> None:
    assert seen["wide"]["lift"] < WIDE[1] / 2
    assert seen["wide"]["ladder"] < WIDE[1] * 2 / 3
    assert seen["phone"]["lift"] < PHONE[1]


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(seen: dict[str, Any]) -> None:
    assert seen["wide"]["first"] == "#content"
    assert seen["wide"]["skip_is_seen"]
    assert seen["wide"]["tabbed_out_of_order"] == 0
    assert seen["wide"]["focusable"].count("summary") >= 6


def test_nothing_is_logged_when_the_page_is_opened_offline(html: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    dumped, logged = opened(tmp_path / "page.html", "light", tmp_path / "profile")
    assert "</html>" in dumped
    assert "CONSOLE" not in logged
