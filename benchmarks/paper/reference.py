"""What the paper prints: CIFAR-10, VGG-11, cut behind two convolutions (its table 1)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TABLE", "Printed"]


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
