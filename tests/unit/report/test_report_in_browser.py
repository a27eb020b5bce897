"""The report in a browser, from the file system: quiet, alone, usable by mouse and keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_fixtures import MakeRun
from test_audit_section import audited
from test_card_section import certified
from test_report_figures import looked_for, project

from browser_fixtures import Watched, violations
from splitveil.report.build import build_report

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture
def report(make_run: MakeRun, tmp_path: Path) -> Path:
    records = [
        make_run("none", 0.002, 0.972),
        make_run("gaussian", 0.016, 0.960, params={"noise_std": 0.1}),
        make_run("cem", 0.038, 0.951, params={"noise_std": 0.1, "weight": 16.0}, weight=16.0),
    ]
    for record in records:
        audited(record)
        project(record)
    certified(records[2])
    looked_for(records[2])
    return build_report(records, tmp_path / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_the_file_system_without_a_word(watched: Watched, axe: str, report: Path, scheme: str) -> None:
    watched.page.emulate_media(color_scheme=scheme)
    page = watched.open(report.as_uri())
    assert watched.complaints == []
    assert [request.url for request in watched.requests if not request.url.startswith("data:")] == [report.as_uri()]
    assert violations(page, axe) == []


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(watched: Watched, report: Path, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    page = watched.open(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tables_sort_by_a_click_and_by_the_keyboard(watched: Watched, report: Path) -> None:
    page = watched.open(report.as_uri())
    rows = page.locator("#results ~ .scroll table tbody tr th .run")
    assert rows.all_inner_texts() == ["none", "gaussian", "cem"]
    head = page.locator("#results ~ .scroll thead th").nth(2)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert rows.all_inner_texts() == ["none", "gaussian", "cem"]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert rows.all_inner_texts() == ["cem", "gaussian", "none"]


def test_points_say_their_numbers(watched: Watched, report: Path) -> None:
    page, tip = watched.open(report.as_uri()), watched.page.locator("#tip")
    points = page.locator(".hits .hit")
    points.nth(2).scroll_into_view_if_needed()
    points.nth(2).hover()
    assert "MSE 0.0380 (0.0369 to 0.0391)" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    points.first.focus()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("gaussian")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("gaussian")


def test_a_cursor_runs_along_curves(watched: Watched, report: Path) -> None:
    page = watched.open(report.as_uri())
    slider = page.get_by_role("slider", name="Accuracy, %, by epoch").first
    slider.focus()
    page.keyboard.press("Home")
    data = json.loads(slider.get_attribute("data-tracks") or "")
    said = [f"{line['name']}: {line['v'][0]}" for line in data["lines"]]
    assert slider.get_attribute("aria-valuetext") == ", ".join(["epoch 1", *said])
    assert page.locator("#tip").inner_text().split("\n") == ["epoch 1", *said]


def test_the_slider_goes_from_original_to_recovered(watched: Watched, report: Path) -> None:
    page = watched.open(report.as_uri())
    slider, over = page.get_by_label("From original to recovered"), page.locator(".sheet .stack .over").first
    clip = "node => getComputedStyle(node).clipPath"
    assert over.evaluate(clip) == "inset(0px 0px 0px 100%)"
    slider.focus()
    page.keyboard.press("Home")
    assert over.evaluate(clip) in ("inset(0px)", "inset(0px 0px 0px 0%)")
    original = page.locator(".sheet tr").first.locator("img").first.get_attribute("src")
    assert over.get_attribute("src") == original
    assert slider.get_attribute("aria-valuetext") == "all original"


def test_another_order_moves_whole_columns(watched: Watched, report: Path) -> None:
    page = watched.open(report.as_uri())
    page.get_by_label("Order").select_option(label="as in the test split")
    alts = [image.get_attribute("alt") or "" for image in page.locator(".sheet tr").first.locator("img").all()]
    assert [text.split(",")[1].strip() for text in alts] == [f"test picture {number}" for number in range(12)]
    below = [
        image.get_attribute("alt") or "" for image in page.locator(".sheet tr").nth(1).locator("img[alt^=Test]").all()
    ]
    assert [text.split(",")[0] for text in below] == [f"Test picture {number}" for number in range(12)]


def test_without_its_script_the_page_is_complete(watched: Watched, report: Path) -> None:
    html = report.read_text()
    bare = report.with_name("bare.html")
    bare.write_text(html[: html.index("<script>")] + "</body></html>")
    page = watched.open(bare.as_uri())
    assert page.locator("[data-live]").first.is_hidden()
    assert page.locator(".scrub").first.is_hidden()
    assert page.locator(".sheet img").first.is_visible()


def test_paper_shows_what_is_folded_and_no_controls(watched: Watched, report: Path) -> None:
    page = watched.open(report.as_uri())
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("#mix").is_hidden()
