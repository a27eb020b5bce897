"""What every mechanism must keep, whatever it does; each function raises AssertionError where it does not."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitveil.attacks.onnx import OnnxSubject
from splitveil.contracts import FeatureSpec, Mechanism, Subject
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.clip_ball import ClipBall
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import InputError
from splitveil.experiments.storage import load_weights, save_model
from splitveil.export.graph import edge_parity, export_cloud, export_edge, export_finish, run_onnx
from splitveil.modes import evaluating
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

ROW_TOLERANCE = 1e-6  # convolutions may sum in another order for another batch
PARITY_TOLERANCE = 1e-4
BOUND_TOLERANCE = 1e-5  # relative, of float32

CHECKS = (
    "check_specs",
    "check_row_independence",
    "check_determinism",
    "check_noise_is_checked",
    "check_gradient",
    "check_release_leaves_no_trace",
    "check_combine",
    "check_channel_bounds",
    "check_unmasked",
)


def pictures(model: SplitModel, n: int, key: str = "pictures") -> Tensor:
    """``(n, c, h, w)`` in [0, 1]; row i does not depend on n."""
    return torch.rand(n, *model.input_shape, generator=Rng(7).child(key).generator())


def noises(model: SplitModel, n: int, key: str = "noise") -> tuple[Tensor, ...]:
    """Noise of n releases."""
    return model.draw(SeededNoise(Rng(7).child(key)), n, torch.device("cpu"))


def simulate(model: SplitModel, x: Tensor, drawn: tuple[Tensor, ...]) -> Tensor:
    """The release in evaluation mode, without gradient."""
    with evaluating(model), torch.no_grad():
        return model.simulate(x, drawn)


def wire(mechanism: Mechanism, spec: FeatureSpec) -> SplitModel:
    """A mechanism alone, through the one door: its "pictures" are features of that spec."""
    parts = SplitParts(nn.Identity(), nn.Flatten(), spec.shape, feature=spec)
    return SplitModel(parts, mechanism)


def check_specs(model: SplitModel) -> None:
    """The release has the declared shape and range; noises have different names and a known law."""
    r = simulate(model, pictures(model, 5), noises(model, 5))
    model.release_spec.check(r, "r")
    assert r.dtype == torch.float32
    if model.release_spec.range is not None:
        low, high = torch.tensor(model.release_spec.range)  # rounded to float32, as r is
        assert bool((r >= low).all())
        assert bool((r <= high).all())
    names = [spec.name for spec in model.noise_specs]
    assert len({*names, "x", "r"}) == len(names) + 2
    assert all(spec.law in ("standard_normal", "uniform") for spec in model.noise_specs)
    assert FeatureSpec.from_json(model.release_spec.to_json()) == model.release_spec


def check_dtype_and_device(mechanism: Mechanism, spec: FeatureSpec) -> None:
    """float64 in, float64 out; on the meta device nothing is made elsewhere."""
    with torch.no_grad():
        double = wire(copy.deepcopy(mechanism).double(), spec)
        drawn = noises(double, 3)
        assert double.simulate(pictures(double, 3).double(), drawn).dtype == torch.float64
        meta = wire(copy.deepcopy(mechanism).to("meta"), spec)
        r = meta.simulate(pictures(meta, 3).to("meta"), tuple(noise.to("meta") for noise in drawn))
    assert r.device.type == "meta"


def check_half_precision(mechanism: Mechanism, spec: FeatureSpec) -> None:
    """bfloat16 in, finite bfloat16 out: of so many draws of a uniform some would be 0 or 1 if they were rounded."""
    with torch.no_grad():
        half = wire(copy.deepcopy(mechanism).bfloat16(), spec)
        r = half.simulate(pictures(half, 200).bfloat16(), noises(half, 200))
    assert r.dtype == torch.bfloat16
    assert bool(r.isfinite().all())


def check_row_independence(model: SplitModel) -> None:
    """Row i depends on row i alone: not on the other rows, not on how many there are."""
    x, drawn = pictures(model, 6), noises(model, 6)
    r = simulate(model, x, drawn)
    for row in (0, 3, 5):
        others = pictures(model, 6, "others") * 3.0 - 1.0
        others[row] = x[row]
        mixed = [spare.clone() for spare in noises(model, 6, "others")]
        for spare, kept in zip(mixed, drawn, strict=True):
            spare[row] = kept[row]
        beside = simulate(model, others, tuple(mixed))[row]
        alone = simulate(model, x[row : row + 1], tuple(noise[row : row + 1] for noise in drawn))[0]
        torch.testing.assert_close(beside, r[row], rtol=0.0, atol=ROW_TOLERANCE)
        torch.testing.assert_close(alone, r[row], rtol=0.0, atol=ROW_TOLERANCE)


def check_determinism(model: SplitModel) -> None:
    """Same picture and noise, same release; other noise, another release, unless the mechanism is noise-free."""
    x, drawn = pictures(model, 4), noises(model, 4)
    r = simulate(model, x, drawn)
    assert torch.equal(r, simulate(model, x, drawn))
    if model.noise_specs:
        for index in range(len(drawn)):
            changed = list(drawn)
            changed[index] = noises(model, 4, "others")[index]
            assert not torch.equal(r, simulate(model, x, tuple(changed)))


def check_noise_is_checked(model: SplitModel) -> None:
    """Too few, too many or broadcastable noises are refused: one noise for all rows would cancel in a difference."""
    x, drawn = pictures(model, 4), noises(model, 4)
    wrong = [(*drawn, torch.zeros(4, 1))]
    if drawn:
        wrong += [
            drawn[:-1],
            (*drawn[:-1], drawn[-1][:1]),
            (*drawn[:-1], drawn[-1][:3]),
            (*drawn[:-1], drawn[-1][..., :1]),
            (*drawn[:-1], drawn[-1][0]),
        ]
    for faulty in wrong:
        with pytest.raises(InputError, match="expected"):
            simulate(model, x, faulty)


def check_gradient(model: SplitModel) -> None:
    """The release is differentiable in the picture, as training and white-box attackers need it."""
    x = pictures(model, 3).requires_grad_()
    with evaluating(model):
        r = model.simulate(x, noises(model, 3))
    (gradient,) = torch.autograd.grad(r.square().sum(), x)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all())


def check_release_leaves_no_trace(model: SplitModel) -> None:
    """`release` keeps each module's mode, the weights' gradients, the statistics and the global generator."""
    model.train()
    model.tail.eval()
    modes = {name: child.training for name, child in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    r = model.release(pictures(model, 4), noise=SeededNoise(Rng(0)))
    assert not r.requires_grad
    assert {name: child.training for name, child in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(r, model.release(pictures(model, 4), noise=SeededNoise(Rng(0))))


def check_combine(model: SplitModel) -> None:
    """``(n, m, *r)`` to ``(n, *r)``; equal releases amount to themselves; the rows stay apart."""
    mechanism = model.mechanism
    releases = [simulate(model, pictures(model, 3), noises(model, 3, f"release {index}")) for index in range(5)]
    stacked = torch.stack(releases, dim=1)
    combined = mechanism.combine(stacked)
    model.release_spec.check(combined, "r")
    torch.testing.assert_close(mechanism.combine(stacked[1:2])[0], combined[1])
    repeated = releases[0].unsqueeze(1).expand(-1, 4, *releases[0].shape[1:])
    torch.testing.assert_close(mechanism.combine(repeated), releases[0])


def check_unmasked(model: SplitModel) -> None:
    """What a mask lets pass, it leaves as it is; what it hides lies within the limit that it states."""
    bare = model.mechanism.unmasked()
    if bare is None:
        return
    x, drawn, plain = pictures(model, 6) - 0.5, noises(model, 6), model.with_mechanism(bare)
    by_name = dict(zip((spec.name for spec in model.noise_specs), drawn, strict=True))
    r, z = simulate(model, x, drawn), simulate(plain, x, tuple(by_name[spec.name] for spec in plain.noise_specs))
    passed, within = r != 0, model.mechanism.hidden_within(r)
    assert 0 < int(passed.sum()) < passed.numel()
    torch.testing.assert_close(r[passed], z[passed])
    if within is not None:
        assert bool((z.abs() <= within)[~passed].all())


def check_channel(model: SplitModel, stage_variance: float, samples: int = 4000) -> None:
    """Mean and variance of many releases of one picture are those of the Gaussian stage, plus the noise after it.

    The limits are 5.5 standard errors of a Gaussian; a Laplace part has a kurtosis of 6, which the factor 2 covers.
    The variances are compared value by value, and, far more sharply, over all values together.
    """
    x = pictures(model, 1)
    with evaluating(model), torch.no_grad():
        channel = model(x, noises(model, 1)).channel
        r = model.release(x.expand(samples, *x.shape[1:]), noise=SeededNoise(Rng(3))).double()
    assert channel is not None
    variance = channel.std.double().expand_as(channel.mean)[0].square() + stage_variance
    error = (r.mean(dim=0) - channel.mean[0]).abs() / (variance / samples).sqrt()
    assert float(error.max()) < 5.5
    excess = r.var(dim=0) / variance - 1.0
    limit = 2.0 * 5.5 * (2.0 / samples) ** 0.5
    assert float(excess.abs().max()) < limit
    assert abs(float(excess.mean())) < limit / excess.numel() ** 0.5


def check_channel_bounds(model: SplitModel) -> None:
    """The mean of the Gaussian stage keeps to the box and the ball that it declares, up to a constant of each value."""
    with evaluating(model), torch.no_grad():
        channel = model.features(40.0 * pictures(model, 50) - 20.0)[1]
    if channel is None:
        return
    mean = channel.mean.double().flatten(1)
    if channel.box is not None:
        low, high = channel.box
        assert float((mean.amax(dim=0) - mean.amin(dim=0)).max()) <= (high - low) * (1 + BOUND_TOLERANCE)
    if channel.ball is not None:
        assert float(torch.pdist(mean).max()) <= 2 * channel.ball * (1 + BOUND_TOLERANCE)


def check_bounds_behind_clips(mechanism: Mechanism, spec: FeatureSpec) -> None:
    """Behind a clip, and between a clip and Gaussian noise, it leaves no bound standing that does not hold."""
    unbounded = replace(spec, range=None)
    for parts in (
        (Clip(0.2, 0.8), mechanism),
        (ClipBall(1.5), mechanism),
        (Clip(0.2, 0.8), mechanism, Gaussian(0.1)),
        (ClipBall(1.5), mechanism, Gaussian(0.1)),
    ):
        check_channel_bounds(wire(Chain(*parts), unbounded))


def check_export_edge(model: SplitModel, folder: Path) -> None:
    """One export runs at any batch and agrees with the model, also as the subject of an audit."""
    edge = export_edge(model, folder / "edge.onnx")
    for n in (1, 3, 7):
        assert edge_parity(model, edge, pictures(model, n), noises(model, n)) <= PARITY_TOLERANCE
    check_subject(model, edge)


def check_export_rest(model: SplitModel, folder: Path) -> None:
    """The cloud's file, and the edge's last one where there is one, turn releases into the model's output."""
    cloud, finish = export_cloud(model, folder / "cloud.onnx"), export_finish(model, folder / "finish.onnx")
    for n in (1, 3, 7):
        r = simulate(model, pictures(model, n), noises(model, n))
        output = run_onnx(cloud, {"r": r.numpy()})["reply"]
        if finish is not None:
            output = run_onnx(finish, {"reply": output})["output"]
        torch.testing.assert_close(torch.from_numpy(output), model.predict(r), rtol=0.0, atol=PARITY_TOLERANCE)


def check_subject(model: SplitModel, edge: Path) -> None:
    """The edge's file can be audited by who has nothing else."""
    subject = OnnxSubject(edge)
    assert isinstance(subject, Subject)
    assert (subject.input_shape, subject.noise_specs) == (model.input_shape, model.noise_specs)
    assert subject.release_spec.shape == model.release_spec.shape
    source = SeededNoise(Rng(11))
    for n in (1, 5):
        released = subject.release(pictures(model, n), source)
        expected = model.release(pictures(model, n), noise=source)
        torch.testing.assert_close(released, expected, rtol=0.0, atol=PARITY_TOLERANCE)


def check_reload(model: SplitModel, built: SplitModel, rebuilt: SplitModel, folder: Path) -> None:
    """Saved, built anew from another seed, loaded: the same release and output, bit for bit."""
    x, source = pictures(model, 5), SeededNoise(Rng(0))
    if model.state_dict():
        assert not torch.equal(
            rebuilt.predict(rebuilt.release(x, noise=source)), model.predict(model.release(x, noise=source))
        )
    save_model(model, built, folder)
    loaded = load_weights(rebuilt, folder)
    r = model.release(x, noise=source)
    assert torch.equal(loaded.release(x, noise=source), r)
    assert torch.equal(loaded.predict(r), model.predict(r))
    assert not any(child.training for child in loaded.modules())
