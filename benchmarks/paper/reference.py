"""What the paper prints: CIFAR-10, VGG-11; its table 1, cut behind two convolutions, and its figure 4."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIGURE", "TABLE", "Printed"]


@dataclass(frozen=True, slots=True)
class Printed:
    """One row; errors are mean squared errors on pictures in [0, 1].

    Attributes:
        accuracy: percent, without and with CEM.
        train: error of the decoder that learned from the training pictures, without and with.
        infer: of the decoder that learned from nine tenths of the test pictures.
        gan_train: error of the adversarial decoder, on its training pictures.
        gan_infer: of the same, on the test pictures.
    """

    accuracy: tuple[float, float]
    train: tuple[float, float]
    infer: tuple[float, float]
    gan_train: tuple[float, float]
    gan_infer: tuple[float, float]


TABLE = {
    "bottleneck": Printed((90.87, 90.69), (0.0036, 0.0054), (0.0041, 0.0058), (0.0039, 0.0076), (0.0045, 0.0080)),
    "distcorr": Printed((89.52, 89.80), (0.0074, 0.0090), (0.0082, 0.0093), (0.0079, 0.0094), (0.0088, 0.0096)),
    "dropout": Printed((87.75, 87.53), (0.0098, 0.0129), (0.0104, 0.0134), (0.0099, 0.0132), (0.0111, 0.0142)),
    "patrol": Printed((89.58, 89.67), (0.0245, 0.0304), (0.0293, 0.0335), (0.0257, 0.0313), (0.0307, 0.0347)),
    "ressfl": Printed((89.68, 90.11), (0.0146, 0.0201), (0.0240, 0.0251), (0.0158, 0.0229), (0.0243, 0.0273)),
    "noise_nopeek": Printed((87.19, 87.08), (0.0152, 0.0174), (0.0159, 0.0174), (0.0156, 0.0173), (0.0165, 0.0178)),
    "noise_arl": Printed((87.78, 87.62), (0.0290, 0.0330), (0.0336, 0.0355), (0.0304, 0.0341), (0.0342, 0.0363)),
}

_ALONE = (
    (0.0146, 89.7),
    (0.0203, 89.1),
    (0.0233, 88.7),
    (0.0290, 87.3),
    (0.0359, 84.6),
    (0.0400, 80.3),
    (0.0445, 74.9),
)
_CEM = (
    *((0.0200, 90.1), (0.0249, 89.2), (0.0288, 88.8), (0.0338, 87.7), (0.0368, 86.3), (0.0382, 85.1), (0.0405, 84.0)),
    *((0.0410, 82.9), (0.0436, 80.6)),
)
FIGURE = {
    "lambda 0": _ALONE,
    "lambda 2": (
        *((0.0160, 90.0), (0.0186, 89.8), (0.0219, 89.5), (0.0248, 89.2), (0.0281, 88.5), (0.0297, 87.9)),
        *((0.0318, 87.3), (0.0337, 86.7), (0.0364, 83.6), (0.0407, 80.8)),
    ),
    "lambda 8": (
        *((0.0185, 89.8), (0.0224, 89.2), (0.0269, 88.9), (0.0297, 88.3), (0.0320, 87.8), (0.0333, 87.0)),
        *((0.0344, 86.6), (0.0384, 84.2)),
    ),
    "lambda 16": _CEM,
    "lambda 32": ((0.0208, 89.6), (0.0265, 88.7), (0.0321, 87.8), (0.0354, 86.8), (0.0384, 85.6)),
    "cut 2": ((0.0072, 83.5), (0.0097, 82.2), (0.0153, 78.3), (0.0189, 77.0)),
    "cut 2 + CEM": ((0.0047, 84.3), (0.0049, 84.6), (0.0049, 87.4), (0.0127, 83.4), (0.0146, 84.1), (0.0226, 82.0)),
    "cut 4": _ALONE,
    "cut 4 + CEM": _CEM,
    "cut 5": ((0.0234, 90.4), (0.0274, 90.2), (0.0302, 90.0), (0.0348, 90.0), (0.0387, 89.6)),
    "cut 5 + CEM": ((0.0395, 90.4), (0.0450, 90.3), (0.0502, 90.2), (0.0531, 90.0), (0.0530, 89.7), (0.0543, 89.5)),
}
"""Figure 4, read off by eye to about 0.0002 and 0.1 %: attacker's error and accuracy along curves of Noise_ARL."""
