"""All attacks on CIFAR-10: undefended, noise at two levels, and CEM between them; does CEM's gain stand?

``python -m benchmarks.attacks_cifar10 --runs runs/quick_cifar10/runs --out runs/attacks_cifar10`` audits seed 0 of what
`benchmarks.quick_cifar10` trained with the suite ``standard``, then runs the paper's decoder attack and what
``strong`` has besides. Stopped, it goes on where it was; ``--only`` does some of the models, to share the work, and
``--publish`` keeps the rows on file of models that were not measured again.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import accuracy_of, errors_of, gain_at_accuracy, gain_db, least_error, on_file, publish
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.fitting import converged
from splitveil.audit.run import audit_run
from splitveil.audit.suites import Entry, load_suite
from splitveil.experiments.attacking import attack_key, attack_target, run_target
from splitveil.experiments.recipes import load_recipe
from splitveil.records import AttackResult, RunRecord
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

MODELS = {
    "none": PlugInSpec(name="none"),
    "gaussian .1": PlugInSpec(name="gaussian", params={"noise_std": 0.1}),
    "gaussian .2": PlugInSpec(name="gaussian", params={"noise_std": 0.2}),
    "cem": PlugInSpec(name="cem", params={"noise_std": 0.1, "weight": 0.2}),
}
STRONG_ON = ("none", "gaussian .2", "cem")
PAPER = PlugInSpec(name="decoder")  # its defaults are the paper's: 64 channels, 8 blocks, 50 epochs
WHITE_BOX = ThreatModel(ThreatModel.preset("white_box").grants, observations=16)
LEADING = ("decoder", "committee", "linear")
PARTS = ("standard", "leading", "paper", "strong")
SEVERAL = 16  # releases of one picture
SEARCH_STEPS = {"optimise": 200, "gan_prior": 200, "image_prior": 200}


def find_run(runs: Path, defense: PlugInSpec) -> RunRecord:
    """The finished run of this defense with seed 0."""
    for record in RunRecord.find(runs):
        spec = record.spec
        if spec.seed == 0 and record.finished and spec.defense == defense:
            return record
    raise SystemExit(f"expected a finished run of {defense} with seed 0 in '{runs}': run benchmarks.quick_cifar10")


def open_copy(runs: Path, out: Path, name: str) -> RunRecord:
    """A copy of the run, so that the comparison's own record stays what it was."""
    folder = out / name.replace(" .", "-0")
    if not folder.exists():
        shutil.copytree(find_run(runs, MODELS[name]).path, folder)
    return RunRecord(folder)


def strong_entries(pictures: int) -> list[Entry]:
    """What ``strong`` has beyond ``standard``; searches take fewer steps on fewer pictures: two cores can pay them."""
    recipe = load_recipe("quick")
    known = load_suite("standard", recipe).entries
    entries = [entry for entry in load_suite("strong", recipe).entries if entry not in known]
    return [_shortened(entry, pictures) for entry in entries]


def leading_entries() -> list[Entry]:
    """What learns, of ``standard``, on single releases: it erred least wherever all of the suite ran."""
    entries = load_suite("standard", load_recipe("quick")).entries
    return [entry for entry in entries if entry.attack.name in LEADING and entry.observations == 1]


def _shortened(entry: Entry, pictures: int) -> Entry:
    params, steps = dict(entry.attack.params), SEARCH_STEPS.get(entry.attack.name)
    if steps is not None:
        params["steps"] = min(int(params.get("steps", steps)), steps)
    if entry.attack.name == "diffusion_prior":
        params |= {"epochs": 30, "steps": 25, "samples": 4}
    searched = None if entry.pictures is None else pictures
    return replace(entry, attack=PlugInSpec(name=entry.attack.name, params=params), pictures=searched)


def work(
    name: str, record: RunRecord, undefended: RunRecord, pictures: int, parts: list[str], skipped: list[str]
) -> None:
    """Attack one model."""
    recipe = load_recipe("quick")
    if "standard" in parts:
        audit_run(record, suite="standard", recipe=recipe, threat=WHITE_BOX, undefended=undefended)
    target = run_target(record)
    one = replace(WHITE_BOX, observations=1)
    if "leading" in parts:
        for entry in leading_entries():
            attack_target(record, target, entry.attack, threat=one, pictures=entry.pictures)
    if "paper" in parts and name in STRONG_ON:
        attack_target(record, target, PAPER, threat=one)
    if "strong" in parts and name in STRONG_ON:
        for entry in strong_entries(pictures):
            if entry.attack.name in skipped:
                continue
            attack_target(record, target, entry.attack, threat=one, pictures=entry.pictures)


def strongest(record: RunRecord, keys: set[str] | None = None, observations: int = 1) -> AttackResult:
    """The attack on so many releases, scored on all pictures, that errs least; the paper's is no candidate."""
    paper = attack_key(PAPER, replace(WHITE_BOX, observations=1), 0)
    able = [
        attack
        for attack in record.attacks
        if attack.key != paper
        and (keys is None or attack.key in keys)
        and attack.threat.get("observations", 1) == observations
    ]
    return least_error(able)


def cem_gain(records: dict[str, RunRecord], suite: set[str], observations: int = 1) -> tuple[float, float, float]:
    """How many dB the strongest attacker of a suite errs more on CEM than on noise of CEM's accuracy.

    The noise's error there is interpolated between its two levels, in dB over accuracy.
    """
    accuracy, tables = dict[str, float](), dict[str, NDArray[np.float64]]()
    for name in ("gaussian .1", "gaussian .2", "cem"):
        accuracy[name] = accuracy_of(records[name]).mean
        tables[name] = errors_of(records[name], strongest(records[name], suite, observations))
    return gain_at_accuracy("cem", ("gaussian .1", "gaussian .2"), accuracy, tables)


def trainings(
    records: dict[str, RunRecord], gain: tuple[float, float, float] | None, under: list[str]
) -> dict[str, dict[str, Any]]:
    """CEM's gain by the weights that it was measured on: the same seed on another machine makes other weights."""
    found: dict[str, dict[str, Any]] = dict(written("summary", {}).get("cem_gain_by_training", {}))
    if gain is not None:
        weights = sha256((records["cem"].path / "weights.safetensors").read_bytes()).hexdigest()[:12]
        found[weights] = dict(zip(("db", "low", "high"), gain, strict=True)) | {"under": under}
    return found


def label(attack: AttackResult) -> str:
    """Its name and what tells it from others of that name."""
    if attack.attack == PAPER:
        return "decoder of the paper"
    params = attack.attack.params
    told = [str(params[key]) for key in ("architecture", "prior", "channels") if key in params]
    told += [f"of {len(params['members'])}"] if "members" in params else []
    kind = "near duplicates" if attack.threat.get("duplicates") == "near" else "releases"
    seen = int(attack.threat.get("observations", 1))
    return " ".join([attack.attack.name, *told, *([f"on {seen} {kind}"] if seen > 1 else [])])


def has_converged(attack: AttackResult) -> bool | None:
    """By the criterion of today, where an attack's history is there: results may be older than it."""
    history = attack.facts.get("history")
    if not history or attack.attack.name not in ("decoder", "shadow", "support"):
        return attack.converged
    return converged([row["val_mse"] for row in history], int(attack.attack.params.get("epochs", Decoder.epochs)))


def _mean_db(gains: list[dict[str, Any]]) -> float | None:
    """Over the trainings that met the same attackers."""
    return float(np.mean([item["db"] for item in gains])) if gains else None


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["standard", "paper", "strong"])
    parser.add_argument("--searched", type=int, default=256, help="Pictures for the long searches of the strong suite.")
    parser.add_argument("--skip", nargs="+", default=[], metavar="ATTACK", help="Of the strong suite: not these.")
    parser.add_argument("--publish", action="store_true", help="Write the table of what is there.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    records = {name: open_copy(options.runs, options.out, name) for name in MODELS}
    for name in options.only:
        work(name, records[name], records["none"], options.searched, options.parts, options.skip)
    if options.publish:
        tell(records)


def written(key: str, default: Any) -> Any:
    """A part of the table as it was written last."""
    return (on_file("attacks_cifar10") or {key: default})[key]


def measured(benchmark: str, key: str) -> Any:
    """A figure of another benchmark's summary, None where it has not run."""
    return (on_file(benchmark) or {"summary": {}})["summary"].get(key)


def tell(records: dict[str, RunRecord]) -> None:
    """Write the table."""
    one = replace(WHITE_BOX, observations=1)
    standard = {
        attack_key(
            entry.attack, replace(one, observations=entry.observations, duplicates=entry.duplicates), 0, entry.pictures
        )
        for entry in load_suite("standard", load_recipe("quick")).entries
    }
    rows = [
        {
            "defense": name,
            "attack": label(attack),
            "mse": attack.metrics["mse"].mean,
            "low": attack.metrics["mse"].low,
            "high": attack.metrics["mse"].high,
            "psnr_db": attack.metrics["psnr"].mean,
            "ssim": attack.metrics["ssim"].mean,
            "recognised": attack.beyond_pixels["recognised"].mean if "recognised" in attack.beyond_pixels else None,
            "pictures": attack.metrics["mse"].n,
            "converged": has_converged(attack),
            "beats_mean": attack.metrics["mse"].mean < attack.controls["mean_image"]["mse"].mean,
            "elapsed_s": attack.elapsed_s,
        }
        for name, record in records.items()
        for attack in record.attacks
    ]
    measured_now = {row["defense"] for row in rows}  # rows on file of the same models are of another training
    rows += [row for row in written("rows", []) if row["defense"] not in measured_now]
    paper, over = (
        attack_key(PAPER, one, 0),
        dict[str, dict[str, Any]](written("summary", {}).get("strong_over_paper", {})),
    )
    for name in STRONG_ON:
        held = records[name].attack(paper)
        if held is not None:
            best = strongest(records[name])
            mean, low, high = gain_db(errors_of(records[name], best), errors_of(records[name], held))
            over[name] = {"db": mean, "low": low, "high": high, "by": label(best)}
    tried = [
        {attack.key for attack in records[name].attacks} & standard for name in ("gaussian .1", "gaussian .2", "cem")
    ]
    common = set.intersection(*tried)  # attackers of unequal strength would say nothing of the defenses
    under = sorted({label(attack) for attack in records["cem"].attacks if attack.key in common})
    gains = trainings(records, cem_gain(records, common) if common else None, under)
    many = {attack.key for attack in records["cem"].attacks if attack.threat.get("observations", 1) == SEVERAL}
    of_several = cem_gain(records, common, SEVERAL) if many & common else None
    publish(
        "attacks_cifar10",
        {
            "strong_over_paper_db": {name: item["db"] for name, item in over.items()},
            "strong_over_paper": over,
            "pictures": max(int(row["pictures"] or 0) for row in rows),
            "cem_gain_standard_db": _mean_db([item for item in gains.values() if item["under"] == under]),
            "cem_gain_by_training": gains,
            "cem_gain_16_releases": of_several and dict(zip(("db", "low", "high"), of_several, strict=True)),
            "seeds": 1,
            "gaussian_linear_excess_max": measured("gaussian_linear", "excess_max"),
            **{
                key: measured("reid_faces", key)
                for key in ("reid_undefended", "reid_noise", "reid_cem", "reid_chance", "reid_on_pixels")
            },
        },
        rows,
    )


if __name__ == "__main__":
    main()
