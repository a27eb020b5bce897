"""A step moves what it should, whatever the layout of gradients and moments in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitveil.defenses.penalties.adversary import Adversary
from splitveil.rng import Rng
from splitveil.stepping import take_step
from splitveil.training.checkpoint import gather, scatter


class Turned(torch.autograd.Function):
    """The identity, with a gradient that lies channels-last in memory, as convolutions may return it."""

    @staticmethod
    def forward(ctx: object, w: Tensor) -> Tensor:
        return w.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous(memory_format=torch.channels_last)


def weight() -> Tensor:
    return torch.randn(8, 4, 3, 3, generator=Rng(0).generator())


def test_a_fused_step_takes_gradients_of_any_layout() -> None:
    target = torch.randn(8, 4, 3, 3, generator=Rng(1).generator())
    moved = []
    for fused in (False, True):
        w = nn.Parameter(weight())
        optimiser = torch.optim.Adam([w], lr=0.1, fused=fused)
        for _ in range(3):
            take_step(optimiser, (Turned.apply(w) - target).square().sum())
        moved.append(w.detach())
    torch.testing.assert_close(moved[1], moved[0])


def conv() -> nn.Conv2d:
    with Rng(0).scoped():
        return nn.Conv2d(4, 8, 3)


def test_a_fused_optimiser_goes_on_from_a_file_in_another_layout() -> None:
    x = torch.rand(2, 4, 6, 6, generator=Rng(2).generator())
    ends = []
    for resumed in (False, True):
        net = conv().to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
        for step in range(4):
            if resumed and step == 2:
                kept = {name: value.contiguous().clone() for name, value in gather({"net": net}, optimiser, {}).items()}
                optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
                scatter(kept, {"net": net}, optimiser)
            optimiser.zero_grad()
            net(x).square().sum().backward()
            optimiser.step()
        ends.append([parameter.detach().clone() for parameter in net.parameters()])
    for whole, halves in zip(*ends, strict=True):
        assert torch.equal(whole, halves)


def test_an_adversary_goes_on_from_its_state_in_any_layout() -> None:
    x = torch.rand(2, 4, 6, 6, generator=Rng(2).generator())
    ends = []
    for resumed in (False, True):
        adversary = Adversary(conv().to(memory_format=torch.channels_last), lr=0.01)
        for step in range(4):
            if resumed and step == 2:
                state = adversary.state_dict()
                adversary = Adversary(conv().to(memory_format=torch.channels_last), lr=0.01)
                adversary.load_state_dict(state)
            adversary.learn(lambda net: net(x).square().mean())
        ends.append([parameter.detach().clone() for parameter in adversary.network.parameters()])
    for whole, halves in zip(*ends, strict=True):
        assert torch.equal(whole, halves)
