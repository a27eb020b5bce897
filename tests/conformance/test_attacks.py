"""Every registered attack keeps to what it is granted; a new one needs a row in `PARAMS`."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from awkward import PICTURE, find
from torch import Tensor

from splitveil.attacks.onnx import OnnxSubject
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.view import AttackerView
from splitveil.contracts import AttackBase, Identifier, Inverter, Probe, Subject
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.errors import ThreatModelError
from splitveil.export.graph import export_edge
from splitveil.noise import SeededNoise
from splitveil.registry import ATTACKS
from splitveil.rng import Rng
from splitveil.threats import ThreatModel

PARAMS: dict[str, dict[str, Any]] = {
    "attribute": {"width": 4, "epochs": 2, "batch_size": 16},
    "committee": {
        "members": [
            {"channels": 4, "blocks": 1, "epochs": 1, "batch_size": 16},
            {"channels": 4, "blocks": 1, "epochs": 1, "batch_size": 16, "architecture": "unet"},
        ]
    },
    "diffusion_prior": {"channels": 8, "epochs": 1, "batch_size": 16, "steps": 3, "samples": 2},
    "decoder": {"channels": 8, "blocks": 1, "epochs": 2, "batch_size": 16},
    "gan_prior": {"latent": 4, "channels": 4, "epochs": 1, "batch_size": 16, "steps": 3, "restarts": 2},
    "identify": {"embedding": 4, "width": 4, "epochs": 2, "batch_size": 16},
    "mean_image": {},
    "class_mean": {},
    "ridge": {},
    "linear": {},
    "optimise": {"steps": 3, "restarts": 2},
    "image_prior": {"channels": 4, "steps": 3, "restarts": 2},
    "shadow": {"channels": 8, "blocks": 1, "epochs": 2, "batch_size": 16, "shadow_epochs": 2},
    "shadow_bodies": {"channels": 8, "blocks": 1, "epochs": 2, "batch_size": 16, "shadow_epochs": 2},
    "support": {"channels": 8, "blocks": 1, "epochs": 2, "batch_size": 16},
    "unsplit": {"rounds": 2, "picture_steps": 2, "clone_steps": 2},
}
BUILT_IN = [entry.name for entry in ATTACKS if entry.target.startswith("splitveil.")]
WHITE_BOX = ThreatModel.preset("white_box")
KEY = Rng(3).child("fit")
PAIRS = 48

each_attack = pytest.mark.parametrize("name", BUILT_IN)
each_release = pytest.mark.parametrize("case", ["pruned", "tokens", "vector_laplace", "topk"])


def make(name: str) -> AttackBase[Any]:
    attack: AttackBase[Any] = ATTACKS.load(name)(**PARAMS[name])
    return attack


def auxiliary() -> Pictures:
    """Smooth pictures, so that an attack has something to learn, of ten classes."""
    generator = Rng(5).generator()
    coarse = torch.rand(PAIRS, PICTURE[0], 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, PICTURE[1:], mode="bilinear")
    return Pictures(ImageTable((255 * smooth).to(torch.uint8), torch.arange(PAIRS) % 10))


def view_of(subject: Subject, threat: ThreatModel = WHITE_BOX) -> AttackerView:
    traffic = auxiliary().get(torch.arange(16))[0]
    return AttackerView(
        subject,
        threat,
        auxiliary=auxiliary(),
        rng=Rng(4),
        observed=lambda: subject.release(traffic, SeededNoise(Rng(9))),
    )


def fit(name: str, view: AttackerView, key: Rng = KEY) -> Any:
    return make(name).fit(view, key)


def read(fitted: Any, r: Tensor) -> Tensor:
    """What a fitted attack makes of releases, one row each: a picture, an embedding, or logits."""
    if isinstance(fitted, Inverter):
        pictures = fitted.invert(r)
        assert pictures.shape[1:] == PICTURE
        assert bool(((pictures >= 0) & (pictures <= 1)).all())
        return pictures
    if isinstance(fitted, Identifier):
        torch.testing.assert_close(fitted.scores(r, r).diagonal(), torch.ones(len(r)))
        return fitted.embed(r)
    assert isinstance(fitted, Probe)
    return fitted.predict(r)


def test_every_attack_has_a_row() -> None:
    assert sorted(PARAMS) == sorted(BUILT_IN), "give the new attack its parameters in PARAMS"


@each_attack
def test_an_attack_is_its_configuration(name: str) -> None:
    attack = make(name)
    assert attack.name == name
    assert is_dataclass(attack)
    assert attack == make(name)
    for field in fields(attack):
        assert f"{field.name}={getattr(attack, field.name)!r}" in repr(attack)
    with pytest.raises(FrozenInstanceError):
        attack.name = "other"  # type: ignore[misc]


@each_attack
@each_release
def test_it_reads_any_kind_of_release(name: str, case: str) -> None:
    model = find(case).build()
    fitted = fit(name, view_of(ModelSubject(model)))
    for n in (1, 5):
        r = model.release(harness.pictures(model, n), noise=SeededNoise(Rng(0))).requires_grad_()
        found = read(fitted, r)
        assert len(found) == n
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())
        assert not found.requires_grad
        torch.testing.assert_close(read(fitted, r)[:1], read(fitted, r[:1]), rtol=0.0, atol=1e-4)


@each_attack
def test_it_repeats_under_its_key_and_leaves_the_rest_alone(name: str) -> None:
    model = find("pruned").build()
    model.tail.eval()
    modes = [child.training for child in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    subject = ModelSubject(model)
    first = fit(name, view_of(subject))
    torch.rand(3)  # another state of the global generator, which must not matter
    generator = torch.get_rng_state()
    second = fit(name, view_of(subject))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert first.facts.keys() == second.facts.keys()
    assert torch.equal(torch.get_rng_state(), generator)
    assert [child.training for child in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@each_attack
def test_it_needs_what_it_says(name: str) -> None:
    attack, subject = make(name), ModelSubject(find("pruned").build())
    attack.fit(view_of(subject, ThreatModel(attack.needs)), KEY)
    for grant in attack.needs:
        with pytest.raises(ThreatModelError, match=f"attack '{name}' needs {grant}"):
            attack.fit(view_of(subject, ThreatModel(attack.needs - {grant})), KEY)


@each_attack
def test_it_keeps_to_its_budget(name: str) -> None:
    subject = ModelSubject(find("pruned").build())
    free = view_of(subject)
    fit(name, free)
    exact = ThreatModel(WHITE_BOX.grants, query_budget=free.queries)
    fit(name, view_of(subject, exact))
    if free.queries:
        none = view_of(subject, ThreatModel(WHITE_BOX.grants, query_budget=0))
        with pytest.raises(ThreatModelError, match="queries"):
            fit(name, none)
        assert none.queries == 0


@each_attack
def test_it_uses_what_many_observations_amount_to(name: str) -> None:
    subject = ModelSubject(find("pruned").build())
    once = view_of(subject)
    fit(name, once)
    thrice = view_of(subject, ThreatModel(WHITE_BOX.grants, observations=3))
    fit(name, thrice)
    assert thrice.queries % 3 == 0
    assert 0 < thrice.queries <= 3 * once.queries or once.queries == thrice.queries == 0  # or drawn once, not per epoch


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A black-box encoder with two noises."""
    folder = tmp_path_factory.mktemp("export")
    return export_edge(find("clip_gaussian_laplace").build(), folder / "edge.onnx")


@each_attack
def test_it_attacks_an_encoder_that_is_only_a_file(name: str, file: Path) -> None:
    subject = OnnxSubject(file)
    view = view_of(subject, ThreatModel(subject.offers))
    if not make(name).needs <= subject.offers:
        with pytest.raises(ThreatModelError, match=f"attack '{name}' needs"):
            fit(name, view)
        return
    fitted = fit(name, view)
    r = subject.release(auxiliary().get(torch.arange(2))[0], SeededNoise(Rng(0)))
    assert len(read(fitted, r)) == 2
