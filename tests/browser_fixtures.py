"""A browser for pages: it notes what they ask for and what they complain about, and lets axe look at them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).parents[1] / "web"
CHROMIUM = "/usr/bin/chromium"


@dataclass
class Watched:
    """A page, what it asked for, and what stood on its console."""

    page: Any
    requests: list[Any] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> Any:
        """Go there with an empty log."""
        self.requests.clear()
        self.complaints.clear()
        self.page.goto(url)
        return self.page


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A page of Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"expected a browser at {CHROMIUM}, got none: apt-get install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        found = Watched(page)
        page.on("request", lambda request: found.requests.append(request))  # a bound method of a list is refused
        page.on(
            "console", lambda line: found.complaints.append(line.text) if line.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        yield found
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core: as npm installed it for web/, or packed by npm in the version that web/ names."""
    installed = WEB / "node_modules" / "axe-core" / "axe.min.js"
    if installed.is_file():
        return installed.read_text()
    if shutil.which("npm") is None:
        pytest.skip("expected axe-core, got neither web/node_modules nor npm: run  npm ci  in web/")
    version = json.loads((WEB / "package.json").read_text())["devDependencies"]["axe-core"]
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"axe-core@{version}"], cwd=folder, capture_output=True, text=True, check=False
    )
    if packed.returncode:
        pytest.skip("expected npm to pack axe-core, got an error: run  npm ci  in web/")
    with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


def violations(page: Any, axe: str) -> list[str]:
    """Rules that a page breaks in a way that axe calls serious or critical, and where."""
    page.evaluate(axe)  # a script tag would be refused by the page's policy
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{item['id']}: {item['nodes'][0]['html'][:120]} ({len(item['nodes'])})"
        for item in found["violations"]
        if item["impact"] in ("serious", "critical")
    ]
