"""Every registered mechanism keeps the contract; a new one needs a row in `PARAMS`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch

from splitveil.contracts import FeatureSpec, Mechanism
from splitveil.modes import evaluating
from splitveil.registry import MECHANISMS
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

PARAMS: dict[str, dict[str, Any]] = {
    "identity": {},
    "clip": {"low": 0.2, "high": 0.8},
    "gaussian": {"noise_std": 0.1},
    "clip_ball": {"radius": 1.5},
    "laplace": {"scale": 0.1},
    "dropout": {"rate": 0.3},
    "topk": {"ratio": 0.3},
    "learned_noise": {"noise_std": 0.1},
    "channel_mask": {"ratio": 0.5},
    "sparse_coding": {"threshold": 0.02, "iterations": 5},
    "variational": {"noise_std": 0.1},
}
GAUSSIAN = {"gaussian", "learned_noise", "variational"}
SPECS = {
    "map": FeatureSpec.of((4, 6, 6), range=(0.0, 1.0)),
    "tokens": FeatureSpec.of((17, 12), prefix_tokens=1),
    "vector": FeatureSpec.of((20,)),
}
BUILT_IN = [entry.name for entry in MECHANISMS if entry.target.startswith("splitveil.")]

each_mechanism = pytest.mark.parametrize("name", BUILT_IN)
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def build(name: str, spec: FeatureSpec, seed: int = 0) -> SplitModel:
    """The mechanism alone behind the one door."""
    mechanism: Mechanism = MECHANISMS.load(name).from_spec(spec, Rng(seed), **PARAMS[name])
    return harness.wire(mechanism, spec)


def test_every_mechanism_has_a_row() -> None:
    assert sorted(PARAMS) == sorted(BUILT_IN), "give the new mechanism its parameters in PARAMS"


@each_mechanism
@each_spec
@pytest.mark.parametrize("check", harness.CHECKS)
def test_mechanism_keeps_the_contract(name: str, spec: FeatureSpec, check: str) -> None:
    getattr(harness, check)(build(name, spec))


@each_mechanism
@each_spec
def test_mechanism_keeps_dtype_and_device(name: str, spec: FeatureSpec) -> None:
    harness.check_dtype_and_device(build(name, spec).mechanism, spec)
    harness.check_half_precision(build(name, spec).mechanism, spec)


@each_mechanism
@each_spec
def test_mechanism_claims_no_bound_that_does_not_hold(name: str, spec: FeatureSpec) -> None:
    mechanism = build(name, spec).mechanism
    with Rng(0).scoped(), torch.no_grad():
        for parameter in mechanism.parameters():  # as training may leave them
            parameter.add_(torch.randn_like(parameter))
    harness.check_bounds_behind_clips(mechanism, spec)


@each_mechanism
def test_mechanism_exports_with_a_free_batch(name: str, tmp_path: Path) -> None:
    harness.check_export_edge(build(name, SPECS["map"]), tmp_path)


@each_mechanism
def test_mechanism_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    spec = SPECS["map"]
    harness.check_reload(build(name, spec), build(name, spec), build(name, spec, seed=1), tmp_path)


@each_mechanism
def test_mechanism_has_the_channel_that_it_declares(name: str) -> None:
    model = build(name, SPECS["map"])
    with evaluating(model), torch.no_grad():
        channel = model(harness.pictures(model, 1), harness.noises(model, 1)).channel
    if channel is not None:
        harness.check_channel(model, stage_variance=0.0)
    assert (channel is not None) == (name in GAUSSIAN)
