"""Generators of an attacker are learned once for all that it attacks, and never taken for those of another."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import nn

from attack_fixtures import KEY, auxiliary, invertible_head, noisy, smooth, subject, table, view_of
from splitveil.attacks.diffusion_prior import DiffusionPrior
from splitveil.attacks.gan_prior import GanPrior
from splitveil.attacks.learned_once import Learned, learn_once
from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import Attack
from splitveil.data.cache import cache_folder
from splitveil.nets.generator import Generator
from splitveil.rng import Rng

GENERATIVE: dict[str, Attack] = {
    "gan": GanPrior(latent=4, channels=4, epochs=2, batch_size=16, steps=2),
    "diffusion": DiffusionPrior(channels=8, epochs=2, batch_size=16, steps=3, samples=1),
}
WHAT = Learned("net", {"channels": 2}, Rng(0).child("learning"))


def kept() -> list[Path]:
    return sorted(cache_folder("priors").glob("*.safetensors"))


class Lessons:
    """Counts how often a network was learned."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> tuple[nn.Module, list[dict[str, Any]]]:
        self.given += 1
        network = nn.Linear(2, 2)
        nn.init.constant_(network.weight, self.given)
        return network.requires_grad_(False).eval(), [{"epoch": 0, "loss": 1 / 3}]


@pytest.mark.parametrize("kind", GENERATIVE)
def test_a_second_subject_is_searched_with_the_first_ones_generator_bit_for_bit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, pictures = GENERATIVE[kind], auxiliary(32)
    second = ModelSubject(noisy(0.3))
    alone = attack.fit(view_of(second, pictures=pictures), KEY)
    learned = [path.read_bytes() for path in kept()]
    assert len(learned) == 1
    for path in kept():
        path.unlink()
    attack.fit(view_of(subject(), pictures=pictures), KEY)
    assert [path.read_bytes() for path in kept()] == learned, "it depends on what is attacked"
    monkeypatch.setattr(type(attack), "_train", None)
    reused = attack.fit(view_of(second, pictures=pictures), KEY)
    assert reused.facts == alone.facts
    r = view_of(second, pictures=pictures).pairs(torch.arange(4), KEY)[1]
    assert torch.equal(reused.reconstruct(r), alone.reconstruct(r))


def test_other_pictures_settings_or_seeds_are_other_generators() -> None:
    pictures = view_of(subject(), pictures=auxiliary(8)).auxiliary
    others = [
        WHAT.key(view_of(subject(), pictures=table(smooth(8, "others"))).auxiliary),
        WHAT.key(view_of(subject(), pictures=auxiliary(9)).auxiliary),
        dataclasses.replace(WHAT, settings={"channels": 3}).key(pictures),
        dataclasses.replace(WHAT, rng=Rng(1).child("learning")).key(pictures),
        dataclasses.replace(WHAT, name="other").key(pictures),
        dataclasses.replace(WHAT, code=(Generator,)).key(pictures),
        dataclasses.replace(WHAT, packages=("torch", "numpy")).key(pictures),
    ]
    assert len({WHAT.key(pictures), *others}) == len(others) + 1
    same_pictures = view_of(subject(head=invertible_head(nn.Tanh())), pictures=auxiliary(8)).auxiliary
    assert WHAT.key(same_pictures) == WHAT.key(pictures)


def test_what_was_learned_comes_back_with_its_history() -> None:
    view, learn = view_of(subject(), pictures=auxiliary(8)), Lessons()
    first, history = learn_once(WHAT, view, nn.Linear(2, 2), learn)
    again, told = learn_once(WHAT, view, nn.Linear(2, 2).train(), learn)
    assert learn.given == 1
    assert told == history
    assert torch.equal(again.weight, first.weight)
    assert torch.equal(again.bias, first.bias)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 64], ids=["empty", "no header", "noise"])
def test_a_damaged_file_is_learned_again(damage: bytes) -> None:
    view, learn = view_of(subject(), pictures=auxiliary(8)), Lessons()
    learn_once(WHAT, view, nn.Linear(2, 2), learn)
    [path] = kept()
    path.write_bytes(damage)
    network, _ = learn_once(WHAT, view, nn.Linear(2, 2), learn)
    assert learn.given == 2
    assert float(network.weight[0, 0]) == 2
    assert float(learn_once(WHAT, view, nn.Linear(2, 2), learn)[0].weight[0, 0]) == 2


def test_a_network_of_another_shape_is_not_taken() -> None:
    view, learn = view_of(subject(), pictures=auxiliary(8)), Lessons()
    learn_once(WHAT, view, nn.Linear(2, 2), learn)
    learn_once(WHAT, view, nn.Linear(3, 3), learn)
    assert learn.given == 2


def test_a_failure_keeps_nothing_and_leaves_the_lock() -> None:
    def fail() -> tuple[nn.Module, list[dict[str, Any]]]:
        raise KeyboardInterrupt

    view, learn = view_of(subject(), pictures=auxiliary(8)), Lessons()
    with pytest.raises(KeyboardInterrupt):
        learn_once(WHAT, view, nn.Linear(2, 2), fail)
    assert kept() == []
    learn_once(WHAT, view, nn.Linear(2, 2), learn)
    assert learn.given == 1


def test_who_wants_the_same_meanwhile_waits_for_it() -> None:
    view, learn, begun, going = view_of(subject(), pictures=auxiliary(8)), Lessons(), Event(), Event()

    def slowly() -> tuple[nn.Module, list[dict[str, Any]]]:
        begun.set()
        assert going.wait(30)
        return learn()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(learn_once, WHAT, view, nn.Linear(2, 2), slowly)
        assert begun.wait(30)
        second = pool.submit(learn_once, WHAT, view, nn.Linear(2, 2), learn)
        with pytest.raises(TimeoutError):
            second.result(0.3)
        going.set()
        assert torch.equal(first.result(30)[0].weight, second.result(30)[0].weight)
    assert learn.given == 1


def test_a_disk_that_is_full_costs_nothing_but_the_next_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splitveil.attacks.learned_once.save_file", full)
    view, learn = view_of(subject(), pictures=auxiliary(8)), Lessons()
    for _ in range(2):
        learn_once(WHAT, view, nn.Linear(2, 2), learn)
    assert learn.given == 2
    assert kept() == []


def test_where_nothing_can_be_kept_it_learns_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPLITVEIL_CACHE", os.fspath(tmp_path / "file"))
    view, learn = view_of(subject(), pictures=auxiliary(8)), Lessons()
    for _ in range(2):
        learn_once(WHAT, view, nn.Linear(2, 2), learn)
    assert learn.given == 2
