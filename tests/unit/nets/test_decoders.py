"""The inverse networks: any release onto any picture, all values read, positions in their places."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec
from splitveil.errors import SpecError, UnknownNameError
from splitveil.nets.decoders import make_decoder
from splitveil.nets.subpixel import SubpixelDecoder
from splitveil.nets.tokens import TokenDecoder, TransformerBlock
from splitveil.nets.unet import UNetDecoder, resample
from splitveil.rng import Rng

NAMES = ("residual", "subpixel", "unet", "tokens")
RELEASES = (
    FeatureSpec.of((3, 4, 4)),
    FeatureSpec((4, 4, 3), "map", 2, (4, 4)),
    FeatureSpec((3, 4, 4), "map", 0),
    FeatureSpec.of((3, 1, 1)),
    FeatureSpec.of((3, 20, 20)),
    FeatureSpec.of((17, 6), prefix_tokens=1),
    FeatureSpec((6, 6), "tokens", 0, (2, 3)),
    FeatureSpec.of((7, 6)),
    FeatureSpec.of((9,)),
)
PICTURES = ((1, 8, 8), (3, 9, 11), (1, 1, 1), (2, 16, 5))


def build(name: str, release: FeatureSpec, picture: tuple[int, ...], channels: int = 4, blocks: int = 1) -> nn.Module:
    with Rng(0).scoped():
        net = make_decoder(name, release, picture, channels=channels, blocks=blocks).eval()
        if name != "residual":
            net.draw[-1].reset_parameters()  # it starts at zero, and then nothing would show
        return net


def random(release: FeatureSpec, n: int = 3) -> torch.Tensor:
    return torch.randn(n, *release.shape, generator=Rng(1).generator())


@pytest.mark.parametrize("picture", PICTURES, ids=str)
@pytest.mark.parametrize("release", RELEASES, ids=lambda spec: f"{spec.kind}{spec.shape}")
@pytest.mark.parametrize("name", NAMES)
def test_any_release_becomes_a_picture(name: str, release: FeatureSpec, picture: tuple[int, ...]) -> None:
    net, r = build(name, release, picture), random(release)
    drawn = net(r)
    assert drawn.shape == (3, *picture)
    assert bool(((drawn > 0) & (drawn < 1)).all())
    torch.testing.assert_close(drawn[:1], net(r[:1]), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("release", RELEASES, ids=lambda spec: f"{spec.kind}{spec.shape}")
@pytest.mark.parametrize("name", NAMES[1:])
def test_every_value_of_the_release_is_read(name: str, release: FeatureSpec) -> None:
    """Prefix tokens say nothing about a place: the networks of maps leave them out, the tokens' one reads them."""
    net, r = build(name, release, (1, 8, 8)), random(release).requires_grad_()
    (gradient,) = torch.autograd.grad(net(r).square().sum(), r)
    read = gradient.abs().sum(0) > 0
    if name != "tokens":
        assert not bool(read[: release.prefix_tokens].any()) or release.prefix_tokens == 0
        read = read[release.prefix_tokens :] if release.prefix_tokens else read
    if release.shape != (3, 20, 20):  # a map finer than the picture
        assert bool(read.all())


@pytest.mark.parametrize("name", NAMES[1:])
def test_it_starts_from_one_picture(name: str) -> None:
    """Whatever the release, so that an attacker begins at the mean picture and never below it."""
    net = make_decoder(name, FeatureSpec.of((3, 4, 4)), (1, 16, 16), channels=4, blocks=1)
    assert torch.equal(net(random(FeatureSpec.of((3, 4, 4)))), torch.full((3, 1, 16, 16), 0.5))


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_parameter_is_used(name: str) -> None:
    net = build(name, FeatureSpec.of((3, 4, 4)), (1, 16, 16)).train()
    weights = torch.randn(3, 1, 16, 16, generator=Rng(2).generator())
    torch.autograd.backward((weights * net(random(FeatureSpec.of((3, 4, 4))))).sum())
    assert [key for key, value in net.named_parameters() if value.grad is None] == []


def test_a_token_draws_its_own_place() -> None:
    """Without blocks that mix (their last layers set to zero), token i moves patch i and the seam beside it only."""
    release = FeatureSpec.of((17, 6), prefix_tokens=1)
    net = build("tokens", release, (1, 16, 16))
    for block in net.body:
        for layer in (block.merge, block.shrink):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    r = random(release, 1)
    changed = r.clone()
    changed[:, 1 + 6] += 1.0  # row 1, column 2 of the grid of 4 x 4
    moved = (net(changed) - net(r)).abs()[0, 0] > 0
    assert bool(moved[4:8, 8:12].any())
    moved[1:11, 5:15] = False  # three convolutions of 3 x 3
    assert not bool(moved.any())


def test_the_transformer_block_is_the_one_of_torch() -> None:
    block = TransformerBlock(64).eval()
    oracle = nn.TransformerEncoderLayer(
        64, 2, 256, dropout=0.0, activation=functional.gelu, batch_first=True, norm_first=True
    ).eval()
    pairs = {
        "self_attn.in_proj_weight": block.mix.weight,
        "self_attn.in_proj_bias": block.mix.bias,
        "self_attn.out_proj.weight": block.merge.weight,
        "self_attn.out_proj.bias": block.merge.bias,
        "linear1.weight": block.grow.weight,
        "linear1.bias": block.grow.bias,
        "linear2.weight": block.shrink.weight,
        "linear2.bias": block.shrink.bias,
        "norm1.weight": block.norm1.weight,
        "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight,
        "norm2.bias": block.norm2.bias,
    }
    oracle.load_state_dict({name: value.detach() for name, value in pairs.items()})
    x = torch.randn(2, 5, 64, generator=Rng(3).generator())
    torch.testing.assert_close(block(x), oracle(x), rtol=1e-5, atol=1e-5)


def test_the_scales_of_the_u_net() -> None:
    release = FeatureSpec.of((8, 8, 8))
    scales = {size: UNetDecoder(release, (3, size, size), channels=2, blocks=1).scales for size in (6, 8, 32, 33, 224)}
    assert scales[6] == [(6, 6)]
    assert scales[8] == [(8, 8), (4, 4)]
    assert scales[32] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert scales[33] == [(33, 33), (17, 17), (9, 9), (5, 5)]
    assert scales[224][-1] == (28, 28)


def test_sub_pixel_convolution_spends_its_time_on_the_grid_of_the_release() -> None:
    """Doubled once on the way, the rest is drawn at once; what is no power of two is resized."""
    with Rng(0).scoped():
        nets = {
            sides: SubpixelDecoder(FeatureSpec.of((8, *sides)), (3, 32, 32)) for sides in ((8, 8), (32, 32), (7, 5))
        }
    assert {sides: net.rest for sides, net in nets.items()} == {(8, 8): 2, (32, 32): 1, (7, 5): 2}
    assert nets[8, 8].coarse(torch.zeros(1, 8, 8, 8)).shape == (1, 32, 16, 16)
    assert nets[32, 32].coarse(torch.zeros(1, 8, 32, 32)).shape == (1, 32, 32, 32)


def test_a_sub_pixel_stays_beside_its_release() -> None:
    """A value moves the pixels that it covers and those near them, nothing far away."""
    net = build("subpixel", FeatureSpec.of((3, 20, 20)), (1, 80, 80))
    r = random(FeatureSpec.of((3, 20, 20)), 1)
    changed = r.clone()
    changed[..., 9, 10] += 1.0
    rows, columns = ((net(changed) - net(r)).abs()[0, 0] > 0).nonzero().T
    centre = torch.stack([rows.double().mean(), columns.double().mean()])
    torch.testing.assert_close(centre, torch.tensor([37.5, 41.5], dtype=torch.float64), atol=2.0, rtol=0.0)
    assert int(rows.max() - rows.min()) < 60


def test_a_release_finer_than_the_picture_is_averaged() -> None:
    x = torch.randn(2, 3, 8, 4, generator=Rng(4).generator())
    torch.testing.assert_close(resample(x, (4, 4)), x.reshape(2, 3, 4, 2, 4).mean(3))
    torch.testing.assert_close(resample(x, (8, 4)), x)
    assert resample(x, (2, 16)).shape == (2, 3, 2, 16)


def test_names_and_sizes_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'unet'"):
        build("u-net", RELEASES[0], PICTURES[0])
    for sizes in ({"channels": 0}, {"blocks": 0}):
        for kind in (SubpixelDecoder, UNetDecoder, TokenDecoder):
            with pytest.raises(SpecError, match="channels >= 1 and blocks >= 1"):
                kind(RELEASES[0], PICTURES[0], **sizes)
