"""The page as a file: complete, offline, safe against what a record says, and careful with what it overwrites."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from report_fixtures import MakeRun, attack_result, write_samples

from splitveil.errors import InputError, OutputError
from splitveil.records import RunRecord
from splitveil.report.build import build_report

VOID = {"meta", "img", "br", "link", "input", "hr"}
LOADS = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}$\\frac$"


class Page(HTMLParser):
    """A page whose tags must balance; keeps what the tests ask for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self) -> str:
        return re.sub(r"[ \n]+", " ", self.text)


def three(make_run: MakeRun) -> list[RunRecord]:
    return [
        make_run("cem", 0.038, 0.951, params={"noise_std": 0.1, "weight": 16.0}, weight=16.0),
        make_run("gaussian", 0.016, 0.960, params={"noise_std": 0.1}),
        make_run("none", 0.002, 0.972),
    ]


def build(records: list[RunRecord], tmp_path: Path) -> tuple[str, Page]:
    html = build_report(records, tmp_path / "report.html").read_text()
    return html, Page(html)


def test_the_verdict_is_built_from_the_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    _, page = build(three(make_run), tmp_path)
    assert (
        "Against the decoder attack, none’s pictures come back at 27.0 dB, gaussian’s 18.0 dB and cem’s 14.2 dB; "  # noqa: RUF001
        "accuracy 97.2 / 96.0 / 95.1 %." in page.words
    )
    assert "always answers the mean picture scores 11.5 dB" in page.words
    assert "INVALID" not in page.words


def test_the_table_holds_means_and_intervals(make_run: MakeRun, tmp_path: Path) -> None:
    _, page = build(three(make_run), tmp_path)
    for text in ("0.0380", "0.0369 to 0.0391", "94.1 to 96.1", "13.8 to 14.6", "512", "1\u202f304"):
        assert text in page.words
    assert "5\u202f390 used, no limit" in page.words
    assert "387, of the same kind" in page.words


def test_the_page_is_accessible_by_its_structure(make_run: MakeRun, tmp_path: Path) -> None:
    _, page = build(three(make_run), tmp_path)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in page.all("th"))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {href for attributes in page.all("a") if (href := attributes.get("href"))}
    assert targets <= {*(f"#{name}" for name in identifiers), "report.json", "report.csv"}
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1


def test_the_page_loads_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    html, page = build(three(make_run), tmp_path)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in LOADS:
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")) or tag == "a"
    assert page.all("script") == [{}]  # one, without a source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\"]*", html)) <= {"http://www.w3.org/2000/svg"}  # a name, in the script
    assert len(html) < 1_000_000


def test_the_policy_allows_the_script_of_the_page_and_no_other(make_run: MakeRun, tmp_path: Path) -> None:
    html, page = build(three(make_run), tmp_path)
    found = re.search(r"<script>(.*)</script>", html, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(sha256(found[1].encode()).digest()).decode()
    [policy] = [meta["content"] or "" for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]


def test_references_inside_plots_point_into_their_own_plot(make_run: MakeRun, tmp_path: Path) -> None:
    html, page = build(three(make_run), tmp_path)
    identifiers = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    used = re.findall(r"url\(#([^)]*)\)", html) + [use["href"][1:] for use in page.all("use")]  # type: ignore[index]
    assert used
    assert set(used) <= identifiers


def test_the_same_records_give_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    records = three(make_run)
    first, second = (
        build_report(order, tmp_path / name / "report.html") for name, order in (("a", records), ("b", records[::-1]))
    )
    for suffix in (".html", ".json", ".csv"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()


def test_what_a_record_says_is_text(make_run: MakeRun, tmp_path: Path) -> None:
    attack = attack_result(0.02, key=f"decoder{HOSTILE}", controls={HOSTILE: 0.05}, samples="samples/a.safetensors")
    run = make_run(
        f"cem{HOSTILE}",
        accuracy=0.9,
        name="run-<script>alert(2)<",
        params={HOSTILE: HOSTILE},
        weight=1.0,
        attacks=[attack],
        class_names=[HOSTILE] * 10,
        environment={HOSTILE: HOSTILE},
    )
    events = run.path / "events.jsonl"
    events.write_text(events.read_text().replace("conditional_entropy", "<script>alert(3)</script>"))
    html, page = build([run, make_run("none", 0.002)], tmp_path)
    assert html.count("<script") == 1 == len(page.all("script"))
    assert "alert(1)" in page.text
    assert "49" not in re.findall(r"cem\S*", page.text)[0]


def test_an_attack_that_fails_its_controls_is_invalid(make_run: MakeRun, tmp_path: Path) -> None:
    broken = make_run("gaussian", 0.09, attacks=[attack_result(0.09, beats_controls=False)])
    html, page = build([broken, make_run("none", 0.002)], tmp_path)
    assert "gaussian’s INVALID" in page.words  # noqa: RUF001
    assert "does not beat the mean image (MSE 0.0710)" in page.words
    row = re.search(r'<tr>\s*<th scope="row">(?:(?!</tr>).)*gaussian.*?</tr>', html, re.DOTALL)
    assert row is not None
    assert row[0].count("INVALID") == 4
    assert "0.0900" not in row[0]


def test_a_defense_that_leaks_more_than_none_is_invalid(make_run: MakeRun, tmp_path: Path) -> None:
    _, page = build([make_run("gaussian", 0.001), make_run("none", 0.002)], tmp_path)
    assert "gaussian’s INVALID" in page.words  # noqa: RUF001
    assert "leaks more than the undefended model" in page.words


def test_a_broken_attack_on_the_undefended_model_voids_all(make_run: MakeRun, tmp_path: Path) -> None:
    none = make_run("none", 0.09, attacks=[attack_result(0.09, beats_controls=False)])
    _, page = build([make_run("cem", 0.04), none], tmp_path)
    assert "none’s pictures come back at INVALID and cem’s INVALID" in page.words  # noqa: RUF001
    assert "No score on this page is evidence of privacy." in page.words


def test_what_is_missing_is_a_dash_with_a_note(make_run: MakeRun, tmp_path: Path) -> None:
    unattacked = make_run("cem", None, 0.9)
    unevaluated = make_run("gaussian", 0.02, None)
    no_pictures = make_run("none", 0.002, samples=False)
    bare = make_run("other", None, None, epochs=0)
    (bare.path / "env.json").unlink()
    _, page = build([unattacked, unevaluated, no_pictures, bare], tmp_path)
    for text in ("cem not attacked yet", "gaussian not evaluated yet", "none: its pictures were not stored"):
        assert text in page.words
    assert "other its environment was not recorded; not evaluated yet; not attacked yet." in page.words


def test_a_damaged_event_log_costs_only_its_curves(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("cem", 0.03)
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "epoch", "lo\n{"event": "epoch"}\n')
    _, page = build([run], tmp_path)
    assert "its event log cannot be read" in page.words


def test_broken_pictures_are_named_and_the_rest_is_shown(make_run: MakeRun, tmp_path: Path) -> None:
    torn, outside = make_run("cem", 0.03), make_run("gaussian", 0.02)
    (torn.path / "samples/decoder.safetensors").write_bytes(b"not a tensor file")
    write_samples(tmp_path / "elsewhere.safetensors", 0.1)
    outside.add_attack(attack_result(0.02, samples="../../elsewhere.safetensors"))
    _, page = build([torn, outside, make_run("none", 0.002)], tmp_path)
    assert "expected a safetensors file" in page.words
    assert "expected samples inside" in page.words
    assert any("from none" in (image["alt"] or "") for image in page.all("img"))


def test_runs_on_other_pictures_have_their_own_originals(make_run: MakeRun, tmp_path: Path) -> None:
    records = [make_run("none", 0.002), make_run("cem", 0.04), make_run("gaussian", 0.02, sample_seed=30)]
    html, _ = build(records, tmp_path)
    assert html.count('<table class="sheet">') == 2
    together, _ = build(records[:2], tmp_path)
    assert together.count('<table class="sheet">') == 1


def test_large_pictures_are_scaled_to_keep_the_page_small(make_run: MakeRun, tmp_path: Path) -> None:
    originals = np.random.default_rng(0).integers(0, 256, (18, 3, 224, 224), dtype=np.uint8)
    records = three(make_run)
    for record in records:
        write_samples(record.path / "samples/decoder.safetensors", 0.05, originals=originals)
    html, page = build(records, tmp_path)
    assert len(html) < 3_000_000
    assert re.search(r"scaled down to \d+ pixels", page.words)


def test_nothing_to_show_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run"):
        build_report([], tmp_path / "r.html")
    with pytest.raises(InputError, match="'empty'"):
        build_report([make_run("cem", None, None, name="empty", epochs=0)], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_only_a_report_is_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    records = [make_run("none", 0.002)]
    out = tmp_path / "deep" / "report.html"
    build_report(records, out, title="first")
    build_report(records, out, title="second")
    assert "second" in out.read_text()
    assert "first<" not in out.read_text()

    notes = tmp_path / "notes.html"
    for content in ("<html>my notes</html>", ""):
        notes.write_text(content)
        with pytest.raises(OutputError, match="another file"):
            build_report(records, notes)
        assert notes.read_text() == content
    with pytest.raises(OutputError, match="folder"):
        build_report(records, tmp_path)
    with pytest.raises(OutputError, match=r"pass .*x\.html"):
        build_report(records, tmp_path / "x.json")


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_what_lies_beside_the_page_is_not_lost(make_run: MakeRun, tmp_path: Path, suffix: str) -> None:
    records, mine = [make_run("none", 0.002)], tmp_path / f"report{suffix}"
    mine.write_text('{"mine": 1}')
    with pytest.raises(OutputError, match=rf"report\{suffix}', got another file"):
        build_report(records, tmp_path / "report.html")
    assert mine.read_text() == '{"mine": 1}'
    assert not (tmp_path / "report.html").exists()


def test_the_report_reads_no_model() -> None:
    code = "import sys, splitveil.report.build, splitveil.report.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
