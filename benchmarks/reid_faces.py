"""Re-identification of faces from releases: undefended, noise, and CEM, over folds of people.

``python -m benchmarks.reid_faces --data FOLDER``, a folder of faces with the person as label. The head is trained to
tell all of these people apart, the hardest case for privacy: what it must keep for its task is what the attacker wants.
Then a fifth of the people at a time are looked for, by attackers who learned on the others; the better one counts.
What the same attackers find by the pixels stands beside: no ceiling, for the head has seen the people; they have not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.nn import functional

from benchmarks.harness import accuracy_of, publish
from splitveil.attacks.identify import Identify
from splitveil.attacks.subjects import ModelSubject
from splitveil.data.loader import Pictures
from splitveil.data.sources import guess_source, load_source
from splitveil.data.tables import ImageTable, make_source
from splitveil.experiments.attacking import load_model
from splitveil.experiments.reidentification import reidentify
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.rng import Rng
from splitveil.specs import AugmentSpec, DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec

SIDE = 32
ATTACKERS = (Identify(), Identify(standardise="whiten"))
DEFENSES = (
    PlugInSpec(name="none"),
    PlugInSpec(name="gaussian", params={"noise_std": 0.1}),
    PlugInSpec(name="cem", params={"noise_std": 0.1, "weight": 0.2}),
)


def faces(path: str) -> ImageTable:
    """All faces at 32 x 32, so that a quarter-width VGG-11 learns them in a minute."""
    name, folder = guess_source(path)
    source = load_source(name, folder)
    tables = [table for table in (source.train, source.test) if table is not None]
    images = torch.cat([table.images[:] for table in tables]).float()
    small = functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return ImageTable(small.round().to(torch.uint8), torch.cat([table.labels for table in tables]))


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    table = faces(parser.parse_args().data)
    source = make_source("faces", table)
    data = load_data_spec(DataSpec(source="memory", val_share=0.1, aux_share=0.2, test_share=0.2), source=source)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for defense in track(DEFENSES, "defenses"):
            spec = RunSpec(
                seed=0,
                data=DataSpec(source="memory", val_share=0.1, aux_share=0.2, test_share=0.2),
                model=ModelSpec(factory="splitveil.nets.vgg:vgg11", kwargs={"width": 0.25}),
                defense=defense,
                training=TrainingSpec(epochs=120, batch_size=32, lr=0.01, augment=AugmentSpec(crop=2, flip=True)),
            )
            record = train_run(spec, Path(folder) / defense.name, data=data)
            subject = ModelSubject(load_model(record, data))
            tried = {
                attack.standardise: reidentify(subject, Pictures(table), attack, rng=Rng(0).child("faces"))
                for attack in ATTACKERS
            }
            better = max(tried, key=lambda name: tried[name].summary.mean)
            found = tried[better]
            rows.append(
                {
                    "defense": " ".join([defense.name, *(f"{key}={value}" for key, value in defense.params.items())]),
                    "accuracy": accuracy_of(record).mean,
                    "rank1": found.summary.mean,
                    "low": found.by_identity.low,
                    "high": found.by_identity.high,
                    "chance": found.chance,
                    "on_pixels": max(item.ceiling_summary.mean for item in tried.values()),
                    "by": better,
                }
            )
    summary = {
        "pictures": len(table),
        "people": source.classes,
        "people_in_a_gallery": source.classes // 5,
        "task_of_the_head": "to tell all of these people apart",
        **{f"reid_{name}": round(rows[place]["rank1"], 3) for place, name in enumerate(("undefended", "noise", "cem"))},
        "reid_chance": round(rows[0]["chance"], 3),
        "reid_on_pixels": round(rows[0]["on_pixels"], 3),
        "seeds": 1,
    }
    publish("reid_faces", summary, rows)


if __name__ == "__main__":
    main()
