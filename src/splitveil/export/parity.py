"""Whether the graphs of a bundle do what a run's model does."""

from __future__ import annotations

from splitveil.codecs import QuantisedCodec
from splitveil.errors import CheckFailedError
from splitveil.export.facts import codec_facts
from splitveil.export.measuring import MOST_BEYOND, Parity
from splitveil.split_model import SplitModel
from splitveil_edge.passport import Passport

__all__ = ["check_part", "like_passport"]

_MORE = 2.0  # kernels of another machine may round otherwise than those that the passport's figures come from


def like_passport(model: SplitModel, passport: Passport) -> SplitModel:
    """The model with the codec of the passport, which export may have added."""
    codec = passport.codec
    if codec.name == "quantise" and codec_facts(model)["name"] == "float32":
        model = model.with_mechanism(model.mechanism, QuantisedCodec(codec.bits, codec.low, codec.high)).eval()
    return model


def check_part(name: str, part: Parity, passport: Passport) -> None:
    """Raise `CheckFailedError` where a part differs from the model by more than its precision explains.

    Args:
        name: ``edge``, ``cloud`` or ``finish``.
        part: what was measured.
        passport: of the bundle.
    """
    low = "fp32" if name == "finish" else passport.precision[name]
    said = passport.parity.get(name)
    known = float(said) if isinstance(said, (int, float)) else 0.0
    limit = part.limit if low == "fp32" else _MORE * known + part.limit
    if part.beyond > MOST_BEYOND if low == "fp32" else part.largest > limit:
        raise CheckFailedError(
            f"expected the {name}'s graph ({low}) within {limit:.3g} of torch, got {part.largest:.3g}: it is not "
            "the run of this bundle, or the bundle is not of this run"
        )
