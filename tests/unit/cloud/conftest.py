"""Fixtures of the server's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud_fixtures import SMALL, cloud_bundle
from fastapi import FastAPI

from splitveil.cloud.app import create_app


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cloud's side of the digits' bundle."""
    return cloud_bundle(tmp_path_factory.mktemp("cloud") / "bundle")


@pytest.fixture(scope="session")
def app(bundle: Path) -> FastAPI:
    """It, being served."""
    return create_app(bundle, SMALL)
