"""What plug-ins and loops agree on: value types and abstract bases.

Shape words: ``n`` batch, ``c h w`` picture, ``q`` feature dimension, ``*z`` feature, ``*r`` release, ``k`` classes,
``m`` observations, ``d`` = c*h*w. Pictures are float32 in [0, 1]; normalisation lives inside the head.

```
x --[ head ]-- z --[ mechanism ]-- r == wire ==[ tail ]-- reply ==[ finish ]-- output
edge: x, z, finish          public: r, reply          (`splitveil.split_model.SplitModel` is the one door)
```
"""

from splitveil.contracts.attack import (
    Attack,
    AttackBase,
    AttributeAttack,
    Identifier,
    IdentityAttack,
    Inverter,
    Metric,
    Probe,
    Subject,
    View,
)
from splitveil.contracts.comm import ALONE, Alone, Comm
from splitveil.contracts.training import (
    Budget,
    FeatureBatch,
    FeatureStream,
    Penalty,
    PenaltyContext,
    Stage,
    Task,
    Terms,
    Weighted,
)
from splitveil.contracts.values import (
    FeatureSpec,
    GaussianChannel,
    NoiseSource,
    NoiseSpec,
    Summary,
    Trace,
    TrainState,
    check_finite,
    interval,
    positive,
)
from splitveil.contracts.wire import Codec, Mechanism

__all__ = [
    "ALONE",
    "Alone",
    "Attack",
    "AttackBase",
    "AttributeAttack",
    "Budget",
    "Codec",
    "Comm",
    "FeatureBatch",
    "FeatureSpec",
    "FeatureStream",
    "GaussianChannel",
    "Identifier",
    "IdentityAttack",
    "Inverter",
    "Mechanism",
    "Metric",
    "NoiseSource",
    "NoiseSpec",
    "Penalty",
    "PenaltyContext",
    "Probe",
    "Stage",
    "Subject",
    "Summary",
    "Task",
    "Terms",
    "Trace",
    "TrainState",
    "View",
    "Weighted",
    "check_finite",
    "interval",
    "positive",
]
