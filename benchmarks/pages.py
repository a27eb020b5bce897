"""Report and live page: size, time, accessibility, and whether browser, edge and torch release the same.

``python -m benchmarks.pages --demo FOLDER``, the folder of ``splitveil demo``; needs Chromium, playwright, and
``npm ci`` in web/. The report is of twelve runs: those of the demo, copied.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from benchmarks.harness import publish
from splitveil.experiments.attacking import load_model
from splitveil.experiments.training import load_data_spec
from splitveil.export.bundle import export
from splitveil.export.graph import run_onnx
from splitveil.export.live import write_live
from splitveil.records import RunRecord
from splitveil.report.build import build_report
from splitveil_edge.passport import read_passport

RUNS = 12
OPENINGS = 5
RELEASES = 16
CHROMIUM = "/usr/bin/chromium"
AXE = Path(__file__).parents[1] / "web" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")


def copies(demo: Path, folder: Path) -> list[Path]:
    """Twelve folders of runs."""
    found = [record.path for record in RunRecord.find(demo)]
    made = [folder / f"{found[number % len(found)].name}-{number}" for number in range(RUNS)]
    for number, path in enumerate(made):
        shutil.copytree(found[number % len(found)], path)
    return made


def time_report(demo: Path, folder: Path) -> tuple[Path, float, float]:
    """The page of twelve runs, the seconds of the call, and those of the processor."""
    runs = copies(demo, folder / "runs")
    started, spent = time.monotonic(), time.process_time()
    page = build_report(runs, folder / "report.html")
    return page, time.monotonic() - started, time.process_time() - spent


def serious(page: Page) -> int:
    """Elements that break a rule which axe calls serious or critical."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document)")
    return sum(len(item["nodes"]) for item in found["violations"] if item["impact"] in SERIOUS)


@contextmanager
def server(bundle: Path) -> Iterator[str]:
    """The address of a server with the live page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(bundle), "--ui", "--port", str(port), "--log-level", "warning", "--drain-s", "0"]
    process = subprocess.Popen([sys.executable, "-m", "splitveil", *words], env=dict(os.environ))
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError("the server ended: see its log above")
            try:
                with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def parity(page: Page, record: RunRecord, bundle: Path) -> float:
    """The largest difference of a release between browser, ONNX Runtime and torch, on equal noise."""
    passport, model = read_passport(bundle), load_model(record, load_data_spec(record.spec.data))
    random, largest = np.random.default_rng(0), 0.0
    for _ in range(RELEASES):
        x = random.random((1, *passport.input_shape), dtype=np.float32)
        noises = [random.standard_normal((1, *law.shape)).astype(np.float32) for law in passport.noise]
        got = page.evaluate(
            "([x, noises]) => splitveil.release(Float32Array.from(x), noises.map((n) => Float32Array.from(n)))"
            ".then((r) => [...r])",
            [x.ravel().tolist(), [noise.ravel().tolist() for noise in noises]],
        )
        named = {law.name: noise for law, noise in zip(passport.noise, noises, strict=True)}
        edge = run_onnx(bundle / "edge.onnx", {"x": x, **named})["r"]
        with torch.no_grad():
            ours = model.simulate(torch.from_numpy(x), tuple(map(torch.from_numpy, noises))).numpy()
        browser = np.array(got, np.float32).reshape(edge.shape)
        largest = max(largest, *(float(np.abs(browser - other).max()) for other in (edge, ours)))
    return largest


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True)
    demo: Path = parser.parse_args().demo
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder, record = Path(name), RunRecord.open(demo / "cem")
        report, wall_s, processor_s = time_report(demo, folder)
        bundle = export(record, folder / "bundle").path
        write_live(bundle, record, demo / "none")
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(report.as_uri())
        broken = {"report": serious(page)}
        with server(bundle) as url:
            for number in range(OPENINGS):
                fresh = browser.new_context().new_page()  # nothing is cached
                fresh.goto(f"{url}/ui/")
                fresh.wait_for_selector("html[data-ready]")
                rows.append({"opening": number, "ready_s": int(fresh.get_attribute("html", "data-ready") or 0) / 1000})
            broken["live page"] = serious(fresh)
            largest = parity(fresh, record, bundle)
        browser.close()
        summary = {
            "report_runs": RUNS,
            "report_mb": round(report.stat().st_size / 1e6, 2),
            "report_build_s": round(wall_s, 2),
            "report_build_processor_s": round(processor_s, 2),
            "live_ready_s": round(float(np.median([row["ready_s"] for row in rows])), 2),
            "axe_serious": sum(broken.values()),
            "release_parity": largest,
            "load_average": [round(value, 1) for value in os.getloadavg()],
            "note": "the runs of the demo, copied; live_ready_s is the median of openings with an empty cache",
        }
    publish("pages", summary, rows)


if __name__ == "__main__":
    main()
