"""The server against its own OpenAPI description: no 5xx, and no answer that the description does not know."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cloud_fixtures import SMALL
from hypothesis import HealthCheck, Phase, settings

from splitveil.cloud.app import create_app

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.checks")
openapi_checks = pytest.importorskip("schemathesis.specs.openapi.checks")


def attack(bundle: Path, examples: int) -> Counter[int]:
    """Requests that the description allows, and some that it does not; how often each status came back."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(bundle, SMALL))
    seen: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        _run(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE), examples, seen)
        if operation.body:  # of the others nothing can be wrong but the path
            _run(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE), examples, seen)
    return seen


def _run(strategy: Any, examples: int, seen: Counter[int]) -> None:
    from hypothesis import given

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case: Any) -> None:
        answer = case.call()
        seen[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            assert list(answer.json()) == ["error"]
        case.validate_response(
            answer,
            checks=[
                checks.not_a_server_error,
                openapi_checks.status_code_conformance,
                openapi_checks.content_type_conformance,
                openapi_checks.response_schema_conformance,
            ],
        )

    send()


def test_a_few_requests_of_each_kind(bundle: Path) -> None:
    seen = attack(bundle, 3)
    assert seen[200] > 0
    assert seen.total() >= 20


@pytest.mark.long
def test_two_thousand_requests(bundle: Path) -> None:
    seen = attack(bundle, 600)
    assert seen[200] > 0
    assert seen[400] > 0
    assert seen.total() >= 2000
