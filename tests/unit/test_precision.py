"""Where bfloat16 is used, and where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch

from attack_fixtures import subject, view_of
from splitveil import precision
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.inverters import DecoderInverter
from splitveil.precision import has_bfloat16
from splitveil.rng import Rng

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    precision._cpu_has_bfloat16.cache_clear()
    yield
    precision._cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("told", "expected"),
    [({}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_a_cpu_has_it_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, told: Mapping[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert has_bfloat16(CPU) is expected


def test_a_torch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bfloat16(CPU)


@pytest.mark.parametrize("fast", [False, True])
def test_a_decoder_learns_in_it_and_draws_in_float32(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    view = view_of(subject())
    fitted = Decoder(channels=4, blocks=1, epochs=1, batch_size=16).fit(view, Rng(0))
    assert isinstance(fitted, DecoderInverter)
    seen = list[torch.dtype]()
    fitted.net.body[0].conv1.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    r = view.release(view.auxiliary.get(torch.arange(4)), Rng(1))
    assert fitted.reconstruct(r).dtype == torch.float32
    fitted.train()
    assert fitted.reconstruct(r).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16 if fast else torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in fitted.parameters())
