"""Lightning Fabric as we use it; nothing imports this unless several devices are asked for."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

__all__ = ["make_fabric"]


class _Spawned(DDPStrategy):
    """One process per device, started anew; says nothing of how it connects them."""

    def setup_environment(self) -> None:
        """Called in each process."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        super().setup_environment()


def make_fabric(devices: int, accelerator: str, timeout_s: float) -> Any:
    """A fabric of so many processes of this machine, not launched yet."""
    strategy = _Spawned(start_method="spawn", timeout=timedelta(seconds=timeout_s))
    return Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
