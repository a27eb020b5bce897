"""The awkward cases that decided the shapes of the contracts, each a small but real implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec, Mechanism, NoiseSpec
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.defenses.mechanisms.topk import TopK
from splitveil.defenses.mechanisms.variational import Variational
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

PICTURE = (1, 16, 16)
CLASSES = 10

# ------------------------------------------------------------------------------------------ mechanisms


class PatchGaussian(Mechanism):
    """Gaussian noise on the patch tokens alone; prefix tokens pass."""

    def __init__(self, noise_std: float, prefix_tokens: int) -> None:
        super().__init__()
        self.noise_std, self.prefix_tokens = noise_std, prefix_tokens

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> PatchGaussian:
        return cls(prefix_tokens=spec.prefix_tokens, **params)

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        tokens, channels = z.shape
        return (NoiseSpec("patch", (tokens - z.prefix_tokens, channels), "standard_normal"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        return replace(z, range=None)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        prefix, patches = z[:, : self.prefix_tokens], z[:, self.prefix_tokens :]
        return torch.cat([prefix, patches + self.noise_std * noises[0].to(z.dtype)], dim=1)


# ------------------------------------------------------------------------------------------ parts


class Bodies(nn.Module):
    """The cloud of an ensemble: N bodies, none of which knows whether it counts; reply ``(n, N, f)``."""

    def __init__(self, bodies: int, width: int) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, width), nn.ReLU()) for _ in range(bodies)
        )

    def forward(self, r: Tensor) -> Tensor:
        return torch.stack([body(r) for body in self.bodies], dim=1)


class SecretSelector(nn.Module):
    """The edge's last step: the replies of the secret bodies through a linear layer."""

    def __init__(self, chosen: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.chosen: Tensor
        self.register_buffer("chosen", torch.tensor(chosen))
        self.classify = nn.Linear(len(chosen) * width, classes)

    def forward(self, reply: Tensor) -> Tensor:
        return self.classify(reply.index_select(1, self.chosen).flatten(1))


class TokenHead(nn.Module):
    """A tiny vision transformer: a class token, 16 patches of 4x4 with positions, one attention with residual."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(PICTURE[0], channels, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, channels))
        self.position = nn.Parameter(0.1 * torch.randn(1, 17, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(x.shape[0], -1, -1), patches], dim=1) + self.position
        # one head, as an axis of its own: the exporter knows attention over four axes only
        query, key, value = self.attention(self.norm(tokens)).unsqueeze(1).chunk(3, dim=-1)
        return tokens + functional.scaled_dot_product_attention(query, key, value).squeeze(1)


def conv_head(width: int = 6) -> nn.Sequential:
    """``(n, 1, 16, 16)`` to ``(n, 4, 8, 8)``."""
    return nn.Sequential(
        nn.Conv2d(PICTURE[0], width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.Sigmoid(),
    )


def linear_tail(values: int) -> nn.Sequential:
    """Releases of that many values to logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(values, CLASSES))


def move_statistics(module: nn.Module) -> None:
    """Give batch norms statistics other than (0, 1), so that losing them shows."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.running_mean, 0.0, 0.2)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
            nn.init.uniform_(child.weight, 0.5, 1.5)


# ------------------------------------------------------------------------------------------ cases


@dataclass(frozen=True)
class Case:
    """One awkward model.

    Args:
        name: in test ids.
        make_parts: the network, initialised from the surrounding random state.
        make_mechanism: from the spec of z and a key.
        stage_variance: variance that the release has on top of its Gaussian stage; None without such a stage.
        change: surgery after the model was built.
    """

    name: str
    make_parts: Callable[[], SplitParts]
    make_mechanism: Callable[[FeatureSpec, Rng], Mechanism]
    stage_variance: float | None = None
    change: Callable[[SplitModel], None] = lambda model: None

    def built(self, seed: int = 0) -> SplitModel:
        """The model as a factory returns it, initialised from the seed, in training mode."""
        with Rng(seed).scoped():
            parts = self.make_parts()
            move_statistics(parts.head)
        plain = SplitModel(parts, Identity())
        return plain.with_mechanism(self.make_mechanism(plain.feature_spec, Rng(seed).child("mechanism")))

    def build(self, seed: int = 0) -> SplitModel:
        """The model after its surgery."""
        model = self.built(seed)
        self.change(model)
        return model


def map_parts() -> SplitParts:
    return SplitParts(conv_head(), linear_tail(4 * 8 * 8), PICTURE)


def ensemble_parts() -> SplitParts:
    return SplitParts(conv_head(), Bodies(3, 5), PICTURE, SecretSelector((2, 0), 5, CLASSES))


def token_parts() -> SplitParts:
    spec = FeatureSpec.of((17, 12), prefix_tokens=1)
    return SplitParts(TokenHead(), linear_tail(17 * 12), PICTURE, feature=spec)


def vector_parts() -> SplitParts:
    head = nn.Sequential(nn.Flatten(), nn.Linear(256, 20), nn.Tanh())
    return SplitParts(head, linear_tail(20), PICTURE)


def prune_head(model: SplitModel) -> None:
    """Keep four of the six channels between the head's convolutions, by slicing."""
    keep = torch.tensor([0, 2, 3, 5])
    first, norm, second = model.head[0], model.head[1], model.head[3]
    with torch.no_grad():
        first.weight, first.bias = nn.Parameter(first.weight[keep]), nn.Parameter(first.bias[keep])
        norm.weight, norm.bias = nn.Parameter(norm.weight[keep]), nn.Parameter(norm.bias[keep])
        norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
        second.weight = nn.Parameter(second.weight[:, keep])
    first.out_channels = norm.num_features = second.in_channels = len(keep)


CASES = (
    Case("vib", map_parts, Variational.from_spec, stage_variance=0.0),
    Case("topk", map_parts, lambda z, rng: TopK(17 / 256)),
    Case("gaussian_twice", map_parts, lambda z, rng: Chain(Gaussian(0.3), Gaussian(0.4)), stage_variance=0.16),
    Case(
        "clip_gaussian_laplace",
        map_parts,
        lambda z, rng: Chain(Clip(0.2, 0.8), Gaussian(0.1), Laplace(0.2)),
        stage_variance=0.08,
    ),
    Case("vector_laplace", vector_parts, lambda z, rng: Laplace(0.5)),
    Case("ensemble", ensemble_parts, lambda z, rng: Gaussian(0.1), stage_variance=0.0),
    Case("tokens", token_parts, lambda z, rng: Gaussian(0.2), stage_variance=0.0),
    Case(
        "patch_tokens",
        token_parts,
        lambda z, rng: Chain(Clip(-2.0, 2.0), PatchGaussian.from_spec(z, rng, noise_std=0.2)),
    ),
    Case("pruned", map_parts, lambda z, rng: Gaussian(0.1), stage_variance=0.0, change=prune_head),
)


def find(name: str) -> Case:
    """The case of that name."""
    return next(case for case in CASES if case.name == name)
