"""The defenses of the field by the names of their papers, each a mechanism, penalties, and what they need around them.

Every one of them takes conditional entropy maximisation on top: ``ressfl(noise_std=0.1) + conditional_entropy(0.5)``
has the mechanism and the noise of ``ressfl(noise_std=0.1)`` and one penalty more.
"""

from __future__ import annotations

from dataclasses import replace
from math import comb

from splitveil.codecs import QuantisedCodec
from splitveil.contracts import Stage, positive
from splitveil.defenses.base import AttackPart, Defense, MechanismPart, PenaltyPart
from splitveil.defenses.ensembler import BeginFinal, BeginNetwork, MultiplyBodies, Selection
from splitveil.defenses.mechanisms.learned_noise import NoiseLaw
from splitveil.defenses.patrol import DeepenHead, EdgeCost, PruneHead
from splitveil.defenses.presets import clip_part, clipped_gaussian
from splitveil.schedules import Constant, InStage, Schedule, WarmUp

__all__ = [
    "bottleneck",
    "disco",
    "distcorr",
    "dropout",
    "ensembler",
    "hsic",
    "laplace",
    "noise_arl",
    "noise_nopeek",
    "patrol",
    "quantise",
    "ressfl",
    "sca",
    "shredder",
    "topk",
    "vib",
]

_MOST_SUBSETS = 16  # of the bodies that an audit attacks through, each with a head of its own
_LITTLE = 0.01  # the noise that the CEM paper's released code suggests for its rows without noise


def bottleneck(noise_std: float = _LITTLE) -> Defense:
    """The paper's first row: a narrow feature behind a sigmoid, and next to no noise.

    Args:
        noise_std: feature units.
    """
    return Defense("bottleneck", {"noise_std": noise_std}, clipped_gaussian(noise_std))


def distcorr(weight: float = 0.5, noise_std: float = _LITTLE) -> Defense:
    """Distance correlation of pictures and features, lowered.

    Args:
        weight: of the penalty.
        noise_std: feature units.
    """
    return Defense(
        "distcorr",
        {"weight": weight, "noise_std": noise_std},
        clipped_gaussian(noise_std),
        (PenaltyPart("distance_correlation", Constant(weight)),),
        reference="arXiv 2008.09161",
    )


def noise_nopeek(weight: float = 0.5, noise_std: float = 0.1) -> Defense:
    """`distcorr` with noise that protects by itself.

    Args:
        weight: of the penalty.
        noise_std: feature units.
    """
    return _named("noise_nopeek", distcorr(weight, noise_std))


def dropout(rate: float = 0.2, noise_std: float = _LITTLE) -> Defense:
    """A share of the features is dropped, by a fresh mask in every release.

    Args:
        rate: that share.
        noise_std: feature units.
    """
    return Defense(
        "dropout",
        {"rate": rate, "noise_std": noise_std},
        (*clipped_gaussian(noise_std), MechanismPart("dropout", {"rate": rate})),
        reference="IEEE IoT Journal 2020 (He, Zhang, Lee)",
    )


def topk(ratio: float = 0.25, noise_std: float = _LITTLE) -> Defense:
    """The largest features of each picture alone are released.

    Args:
        ratio: share that is kept.
        noise_std: feature units.
    """
    return Defense(
        "topk",
        {"ratio": ratio, "noise_std": noise_std},
        (*clipped_gaussian(noise_std), MechanismPart("topk", {"ratio": ratio})),
        adaptive=(AttackPart("support"),),
    )


def laplace(scale: float = 0.1, low: float = 0.0, high: float = 1.0, *, radius: float | None = None) -> Defense:
    """Clip to a box, or to an l2 ball, and add Laplace noise.

    Args:
        scale: b, feature units; the deviation is ``sqrt(2) b``.
        low: lower edge of the box.
        high: upper edge of the box.
        radius: clips to an l2 ball in place of the box, feature units.
    """
    clip = clip_part(low, high, radius)
    return Defense("laplace", {"scale": scale, **clip.params}, (clip, MechanismPart("laplace", {"scale": scale})))


def quantise(bits: int = 4, low: float = 0.0, high: float = 1.0) -> Defense:
    """Send each feature as so many bits; to be added to a defense: ``gaussian(noise_std=0.1) + quantise(bits=4)``.

    Args:
        bits: 1 to 16, per value.
        low: of the range that the levels are spread over; values beyond are clipped.
        high: of that range.
    """
    params = {"bits": bits, "low": low, "high": high}
    return Defense("quantise", params, codec=QuantisedCodec(bits, low, high))


def ressfl(
    weight: float = 0.3,
    threshold: float = 0.5,
    noise_std: float = _LITTLE,
    channels: int = 64,
    blocks: int = 2,
    pretrain: int = 3,
) -> Defense:
    """Adversarial representation learning against an inner decoder, by the similarity of what it rebuilds.

    Args:
        weight: of the penalty.
        threshold: similarity up to which the head is left alone.
        noise_std: feature units.
        channels: of the inner decoder.
        blocks: of the inner decoder; the paper's released code has a larger one, and trains it for 30 passes before.
        pretrain: passes over the training pictures that the inner decoder learns for by itself.
    """
    inner = {"threshold": threshold, "channels": channels, "blocks": blocks, "pretrain": pretrain}
    return Defense(
        "ressfl",
        {"weight": weight, "noise_std": noise_std, **inner},
        clipped_gaussian(noise_std),
        (PenaltyPart("adversarial_reconstruction", Constant(weight), inner),),
        reference="arXiv 2205.04007 (CVPR 2022)",
    )


def noise_arl(
    weight: float = 0.3,
    threshold: float = 0.5,
    noise_std: float = 0.1,
    channels: int = 64,
    blocks: int = 2,
    pretrain: int = 3,
) -> Defense:
    """`ressfl` with noise that protects by itself.

    Args:
        weight: of the penalty.
        threshold: similarity up to which the head is left alone.
        noise_std: feature units.
        channels: of the inner decoder.
        blocks: of the inner decoder.
        pretrain: passes over the training pictures that the inner decoder learns for by itself.
    """
    return _named("noise_arl", ressfl(weight, threshold, noise_std, channels, blocks, pretrain))


def shredder(weight: float = 0.1, noise_std: float = 0.1, law: NoiseLaw = "gaussian") -> Defense:
    """Noise that is learned: first the network trains under the noise as it begins, then the noise alone.

    Args:
        weight: of the noise's power; the more, the more noise at the cost of accuracy.
        noise_std: first deviation, feature units.
        law: ``gaussian`` or ``laplace``.
    """
    learned = MechanismPart("learned_noise", {"noise_std": noise_std, "law": law})
    return Defense(
        "shredder",
        {"weight": weight, "noise_std": noise_std, "law": law},
        (MechanismPart("clip", {"low": 0.0, "high": 1.0}), learned),
        (PenaltyPart("noise_power", InStage(Constant(weight), ("noise",))),),
        reference="ASPLOS 2020 (Mireshghallah et al.)",
        plan=(
            Stage("network", 0.75, parts=("head", "tail", "finish")),
            Stage("noise", 0.25, parts=("mechanism",), lr_schedule="constant", continues=True),
        ),
    )


def disco(
    ratio: float = 0.5, weight: float = 5.0, threshold: float = 0.15, noise_std: float = _LITTLE, channels: int = 32
) -> Defense:
    """Channels that a learned filter removes, picture by picture, so that an inner decoder of the release fails.

    Args:
        ratio: share of the channels that is removed.
        weight: of the inner decoder's error, see `AdversarialReconstruction`.
        threshold: error up to which it is pushed, root mean square, pixel units.
        noise_std: feature units.
        channels: of the inner decoder.
    """
    inner = {"likeness": "rmse", "threshold": threshold, "reads": "release", "channels": channels}
    return Defense(
        "disco",
        {"ratio": ratio, "weight": weight, "threshold": threshold, "noise_std": noise_std, "channels": channels},
        (MechanismPart("channel_mask", {"ratio": ratio}), *clipped_gaussian(noise_std)),
        (PenaltyPart("adversarial_reconstruction", Constant(weight), inner),),
        reference="CVPR 2021 (Singh et al.)",
    )


def sca(threshold: float = 0.25, iterations: int = 20, atoms: int | None = None, noise_std: float = _LITTLE) -> Defense:
    """Features drawn by a few atoms of a dictionary, chosen by lateral inhibition.

    Args:
        threshold: of an atom's activation, feature units; at 0.25 about a third of the atoms draw features in (0, 1).
        iterations: of the competition.
        atoms: of the dictionary; None for as many as channels.
        noise_std: feature units.
    """
    coding = {"threshold": threshold, "iterations": iterations, "atoms": atoms}
    return Defense(
        "sca",
        {**coding, "noise_std": noise_std},
        (MechanismPart("sparse_coding", coding), *clipped_gaussian(noise_std)),
        reference="arXiv 2403.14772",
    )


def vib(weight: float = 0.5, noise_std: float = 0.1) -> Defense:
    """The variational information bottleneck: noise that comes out of the features, near a standard normal.

    Args:
        weight: of the divergence, nats per feature dimension: 0.5 is a beta of 1e-3 where there are 512 of them.
        noise_std: first deviation, feature units, > 0.01.
    """
    return Defense(
        "vib",
        {"weight": weight, "noise_std": noise_std},
        (MechanismPart("variational", {"noise_std": noise_std}),),
        (PenaltyPart("information_bottleneck", WarmUp(weight)),),
        reference="ICLR 2017 (Alemi et al.)",
    )


def hsic(weight: float = 1.0, pictures: float = 0.5, labels: float = 0.5, noise_std: float = _LITTLE) -> Defense:
    """Bilateral dependency optimisation: features that depend on labels and not on pictures.

    Args:
        weight: of the penalty.
        pictures: share of the dependence on pictures.
        labels: share of the dependence on labels; both criteria are normalised to [0, 1], those of the paper are not,
            so its shares (0.05 and 0.5) do not carry over.
        noise_std: feature units.
    """
    shares = {"pictures": pictures, "labels": labels}
    return Defense(
        "hsic",
        {"weight": weight, **shares, "noise_std": noise_std},
        clipped_gaussian(noise_std),
        (PenaltyPart("dependence", Constant(weight), shares),),
        reference="KDD 2022 (Peng et al., BiDO)",
    )


def patrol(
    adversary: float = 5.0,
    lipschitz: float = 0.02,
    sparsity: float = 0.05,
    threshold: float = 0.15,
    edge_budget: float = 1.0,
    cost: EdgeCost = "multiply_adds",
    deeper: int = 16,
    noise_std: float = _LITTLE,
) -> Defense:
    """A deeper head that is pruned to the cost of the plain one, with an inner decoder and a Lipschitz term.

    ```
    train       three quarters of the epochs   task + inner decoder + stretch of the layers + l1 on channel scales
    fine_tune   the rest, channels pruned      the same
    ```

    Args:
        adversary: weight of the inner decoder's error; 5 is a beta of 0.1 for pictures of 3 x 32 x 32.
        lipschitz: weight of the stretch.
        sparsity: weight of the mean l1 norm of the scales.
        threshold: error up to which the inner decoder is pushed, root mean square, pixel units; the mean picture of
            CIFAR-10 errs by 0.25.
        edge_budget: cost of the pruned head, times that of the plain one.
        cost: ``parameters`` or ``multiply_adds``.
        deeper: channels of the layer that is put before the head's first.
        noise_std: feature units.
    """
    inner = {"likeness": "rmse", "threshold": threshold}
    params = {"adversary": adversary, "lipschitz": lipschitz, "sparsity": sparsity, "threshold": threshold}
    return Defense(
        "patrol",
        {**params, "edge_budget": edge_budget, "cost": cost, "deeper": deeper, "noise_std": noise_std},
        clipped_gaussian(noise_std),
        (
            PenaltyPart("adversarial_reconstruction", Constant(adversary), inner),
            PenaltyPart("lipschitz", Constant(lipschitz)),
            PenaltyPart("channel_sparsity", Constant(sparsity)),
        ),
        reference="arXiv 2307.10981 (WACV 2024)",
        plan=(
            Stage("train", 0.75),
            Stage("fine_tune", 0.25, before=PruneHead(edge_budget, cost), lr_scale=0.5, continues=True),
        ),
        surgery=DeepenHead(deeper),
    )


def ensembler(
    bodies: int = 4,
    chosen: int = 2,
    weight: float = 1.0,
    noise_std: float = 0.1,
    selection: Selection = "fixed",
    network_share: float = 0.5,
) -> Defense:
    """Many bodies in the cloud, of which a secret few count, and a head that is none that they were trained with.

    ```
    network 1 .. N   head_i - noise - body_i - classifier_i                   each on its own
    final            fresh head - noise - all bodies - P secret ones - fresh classifier;   bodies frozen
                     + weight * max_i cos(head, head_i)
    ```

    Args:
        bodies: N; the paper has 10.
        chosen: P of them count; the paper has 3.
        weight: of the similarity to the heads of the first stage.
        noise_std: feature units.
        selection: ``fixed``, or ``per_request`` for a choice that changes with the picture.
        network_share: of the recipe's epochs, for each of the N networks.
    """
    positive(network_share, "network_share")
    surgery = MultiplyBodies(bodies, chosen, selection)
    names = tuple(f"network {place + 1}" for place in range(bodies))
    schedule: Schedule = InStage(Constant(weight), ("final",))
    return Defense(
        "ensembler",
        {
            "bodies": bodies,
            "chosen": chosen,
            "weight": weight,
            "noise_std": noise_std,
            "selection": selection,
            "network_share": network_share,
        },
        clipped_gaussian(noise_std),
        (PenaltyPart("head_similarity", schedule, {"stages": list(names)}),),
        adaptive=(
            AttackPart("shadow_bodies", {"largest": chosen if _subsets(bodies, chosen) <= _MOST_SUBSETS else 1}),
        ),
        reference="arXiv 2401.10859 (DAC 2025)",
        plan=(
            *(Stage(name, network_share, before=BeginNetwork(place), fresh=True) for place, name in enumerate(names)),
            Stage("final", 1.0, parts=("head", "mechanism", "finish"), before=BeginFinal(), fresh=True),
        ),
        surgery=surgery,
    )


def _subsets(bodies: int, chosen: int) -> int:
    """How many sets of one to `chosen` bodies there are."""
    return sum(comb(bodies, size) for size in range(1, chosen + 1))


def _named(name: str, defense: Defense) -> Defense:
    """The same under the name of another row."""
    return replace(defense, name=name)
