"""Both packages are built as sdist, and as wheel from the sdist, and installed where nothing of the source is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"splitveil": ("splitveil", "splitveil_edge"), "splitveil_edge": ("splitveil_edge",)}


def run(words: Sequence[object], cwd: Path | None = None, path: Path | None = None) -> str:
    """What a command prints, with nothing but `path` on Python's path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    said = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all four files."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    for package in (ROOT, ROOT / "edge"):
        run([sys.executable, "-m", "build", "--outdir", folder, package])
    return folder


def source_files(package: str) -> set[str]:
    """What is kept under version control of a package's source."""
    said = run(["git", "ls-files", *(f"src/{name}" for name in SOURCES[package])], cwd=ROOT)
    return {line.removeprefix("src/") for line in said.splitlines()}


def test_both_have_one_version() -> None:
    from splitveil import __version__
    from splitveil_edge import __version__ as edge

    declared = tomllib.loads((ROOT / "edge" / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == edge == declared
    assert [int(part) for part in __version__.split(".")[:2]] >= [0, 1]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("package", SOURCES)
def test_wheel_and_sdist_hold_the_whole_package_and_nothing_else(built: Path, package: str) -> None:
    [wheel], [sdist] = built.glob(f"{package}-*.whl"), built.glob(f"{package}-*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == source_files(package)
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {name if package == "splitveil_edge" else f"src/{name}" for name in source_files(package)} <= names
    assert not [name for name in names if name.startswith((".", "runs/", "web/node_modules/")) and name != ".gitignore"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_installed_package_does_its_job(built: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment; its own files come from the wheel alone."""
    [wheel] = built.glob("splitveil-*.whl")
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel])
    python = {"path": tmp_path / "site", "cwd": tmp_path}
    place = run([sys.executable, "-P", "-c", "import splitveil; print(splitveil.__file__)"], **python)
    assert Path(place.strip()).is_relative_to(tmp_path / "site")
    words = [sys.executable, "-P", "-m", "splitveil"]
    run([*words, "train", "--limit", "300", "--recipe", "tiny", "--set", "epochs=1", "--out", "run"], **python)
    run([*words, "attack", "run", "-p", "epochs=1"], **python)
    run([*words, "report", "run", "--out", "report.html"], **python)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    run([*words, "export", "run", "--out", "bundle"], **python)
    assert (tmp_path / "bundle" / "passport.json").is_file()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_edge_is_installed_without_torch(built: Path, tmp_path: Path) -> None:
    [wheel] = built.glob("splitveil_edge-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", wheel])
    packages = {line.split("==")[0].lower() for line in run([python, "-m", "pip", "freeze"]).splitlines()}
    assert {"numpy", "onnxruntime", "httpx"} <= packages
    assert not {"torch", "splitveil", "onnx"} & packages
    assert "infer" in run([tmp_path / "venv" / "bin" / "splitveil-edge", "--help"], cwd=tmp_path)
