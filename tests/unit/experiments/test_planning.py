"""Plans: prices that are those of the parts, fronts that brute force finds, trials that resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from plan_nets import cut_net, net
from safetensors.torch import load_file

from splitveil.cli.plan import _show
from splitveil.errors import InputError, OutputError, SpecError, UnknownNameError, UsageError
from splitveil.experiments.compare.api import claim_folder, compare
from splitveil.experiments.engines.jobs import Board, Desk, Job, Outcome, SilentBoard
from splitveil.experiments.planning.api import Tries, plan, spread
from splitveil.experiments.planning.record import PlanRecord
from splitveil.experiments.training import load_data_spec
from splitveil.metrics.cost import count_parameters, multiply_adds
from splitveil.nets.cutting import list_cuts, split
from splitveil.records import RunRecord
from splitveil.report.cuts import build_plan_report
from splitveil.training.observer import Observer

SHAPE = (1, 8, 8)
FACTORY = "plan_nets:cut_net"
TRIES = Tries(
    training={"epochs": 2, "batch_size": 32},
    attack={"epochs": 1, "channels": 8, "blocks": 1},
    limit=400,
)


class Here:
    """Runs jobs in this process, one after the other; stops as Ctrl-C does after so many."""

    def __init__(self, stop_after: int = 99) -> None:
        self.stop_after, self.ran = stop_after, list[str]()

    def run(self, jobs: Sequence[Job], board: Board, *, total: int) -> list[Outcome]:
        for job in jobs:
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            job.work(Desk(job.folder, load_data_spec(job.data), Observer(), "cpu"))
            self.ran.append(job.name)
        return [Outcome(job.name) for job in jobs]


@pytest.mark.parametrize("bottleneck", [None, 4])
def test_a_price_is_that_of_the_parts(bottleneck: int | None) -> None:
    network, normalise = net(), 0
    found = list_cuts(network, input_shape=SHAPE, bottleneck=bottleneck)
    assert [cut.name for cut in found] == [str(place) for place in range(8 if bottleneck is None else 7)]
    for cut in found:
        parts = split(network, cut.name, input_shape=SHAPE, bottleneck=bottleneck)
        assert parts.feature is not None
        edge, cloud = multiply_adds(parts.head, SHAPE), multiply_adds(parts.tail, parts.feature.shape)
        assert cut.shape == parts.feature.shape
        assert cut.payload_bytes == 4 * parts.feature.numel
        assert cut.edge_parameters == count_parameters(parts.head) - normalise
        assert cut.edge_multiply_adds == edge
        assert cut.cloud_share == pytest.approx(cloud / (edge + cloud))


def test_without_pictures_the_front_is_over_what_cuts_cost(tmp_path: Path) -> None:
    found = plan(net(), input_shape=SHAPE, bottleneck=4, out=tmp_path)
    costs = {cut.at: (cut.payload_bytes, cut.edge_parameters, cut.edge_multiply_adds) for cut in found.cuts}
    for cut in found.cuts:
        mine = costs[cut.at]
        beaten = any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in costs.values()
        )
        assert cut.front == (not beaten)
    assert PlanRecord.read(tmp_path) == found
    assert (found.model, found.trial) == ("Sequential", None)
    page = build_plan_report(found, tmp_path / "report.html").read_text()
    assert "Nothing was trained" in page
    assert "https://" not in page
    assert page.count('<div class="chart"><div role="img" aria-label="P') == 1
    assert ".hits, .scrub { display: none;" in page, "what answers to the mouse is hidden where no script runs"
    assert "script-src 'sha256-" in page
    assert '<div class="tipbox" id="tip"' in page
    for cut in found.cuts:
        assert f'<th scope="row">{cut.at}</th>' in page
        assert f'aria-label="{cut.at}, payload ' in page
    some = plan(net(), input_shape=SHAPE, at=["4", "0"])
    assert [cut.at for cut in some.cuts] == ["0", "4"]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlanRecord, Path]:
    out = tmp_path_factory.mktemp("plan") / "out"
    return plan(FACTORY, "digits", at=["0", "4"], out=out, tries=TRIES, engine=Here()), out


def test_with_pictures_each_place_has_a_run_and_its_figures(tried: tuple[PlanRecord, Path]) -> None:
    found, out = tried
    assert found.trial is not None
    assert (found.trial.defense.name, found.trial.failed, found.classes) == ("cem", {}, 10)
    assert [cut.at for cut in found.cuts] == ["0", "4"]
    assert len(list((out / "runs").iterdir())) == 3  # and the undefended one at the first place
    for cut in found.cuts:
        assert cut.point is not None
        record = RunRecord.open(out / "runs" / cut.point.runs[0])
        assert record.spec.model.kwargs["at"] == cut.at
        assert record.evaluation is not None
        assert cut.point.accuracy.mean == pytest.approx(record.evaluation.accuracy.mean)
        assert cut.point.mse.mean == pytest.approx(record.attacks[0].metrics["mse"].mean, rel=1e-5)
        assert cut.payload_bytes == record.evaluation.payload_bytes
        parts = cut_net(at=cut.at, classes=10, input_shape=SHAPE)
        assert cut.edge_parameters == count_parameters(parts.head)
        assert cut.edge_multiply_adds == multiply_adds(parts.head, SHAPE)
    assert found.trial.undefended is not None
    assert found.trial.undefended.defense.name == "none"
    assert found.trial.checks[3].outcome == "fail", "one epoch of attack beats no control"
    assert not any(cut.front for cut in found.cuts)
    assert PlanRecord.read(out) == found
    page = build_plan_report(found, out / "report.html").read_text()
    assert "Accuracy against the attacker" not in page
    assert "recipe tiny, 1 seed)" in page


@pytest.mark.parametrize("weak", ["4", "everywhere"])
def test_a_place_whose_attacker_fails_its_controls_is_on_no_front(
    tried: tuple[PlanRecord, Path], tmp_path: Path, weak: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(tried[1], out)
    for cut in tried[0].cuts:
        assert cut.point is not None
        blind = cut.at == weak or weak == "everywhere"
        marked_run = out / "runs" / cut.point.runs[0] / "attacks.json"
        held = json.loads(marked_run.read_text())
        held["attacks"][0] |= {"beats_controls": not blind}
        marked_run.write_text(json.dumps(held))
    found = plan(FACTORY, "digits", at=["0", "4"], out=out, tries=TRIES, engine=Here(stop_after=0))
    assert [cut.front for cut in found.cuts] == [weak == "4", False]
    assert found.trial is not None
    assert found.trial.checks[3].outcome == ("pass" if weak == "4" else "fail")
    assert "INVALID and left out" in found.trial.checks[3].detail
    assert found.trial.checks[3].detail.count("4") == 1
    page = build_plan_report(found, out / "report.html").read_text()
    row = page[page.index('<th scope="row">4</th>') :].split("</tr>")[0]
    assert row.count("INVALID") == 2
    assert found.cuts[1].point is not None
    assert f"{found.cuts[1].point.mse.mean:.4f}" not in row
    _show(found)
    table = capsys.readouterr().out.split("* no other cut")[0]
    assert table.count(" INVALID ") == (2 if weak == "4" else 4)
    assert f"{found.cuts[1].point.mse.mean:.4f}" not in table
    assert ("at no place" in page) == (weak == "everywhere")
    assert ("Accuracy against the attacker" in page) == (weak == "4")


def test_samples_that_are_lost_are_made_again(tried: tuple[PlanRecord, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tried[1], out)
    lost = next(out.glob("runs/cem-*/samples/decoder-*.safetensors"))
    before = load_file(lost)
    lost.unlink()
    engine = Here()
    found = plan(FACTORY, "digits", at=["0", "4"], out=out, tries=TRIES, engine=engine)
    assert engine.ran == [lost.parent.parent.name]
    assert found == tried[0]
    assert all(torch.equal(before[name], value) for name, value in load_file(lost).items())


def test_the_same_plan_runs_nothing_again(tried: tuple[PlanRecord, Path]) -> None:
    found, out = tried
    engine = Here(stop_after=0)
    assert plan(FACTORY, "digits", at=["0", "4"], out=out, tries=TRIES, engine=engine) == found


def test_a_plan_that_was_interrupted_goes_on_to_the_same_numbers(
    tried: tuple[PlanRecord, Path], tmp_path: Path
) -> None:
    out, first, second = tmp_path / "out", Here(stop_after=2), Here()
    with pytest.raises(KeyboardInterrupt):
        plan(FACTORY, "digits", at=["0", "4"], out=out, tries=TRIES, engine=first)
    assert not (out / "cuts.json").exists()
    found = plan(FACTORY, "digits", at=["0", "4"], out=out, tries=TRIES, engine=second)
    assert (len(first.ran), len(second.ran)) == (2, 1)
    assert found == tried[0]


def test_a_place_whose_run_failed_is_left_out_and_named(tmp_path: Path) -> None:
    class Half(Here):
        def run(self, jobs: Sequence[Job], board: Board, *, total: int) -> list[Outcome]:
            return [*super().run(jobs[1:], board, total=total), Outcome(jobs[0].name, "out of luck")]

    found = plan(FACTORY, "digits", at=["0", "4"], out=tmp_path, tries=TRIES, engine=Half(), board=SilentBoard())
    assert [cut.at for cut in found.cuts] == ["4"]
    assert found.trial is not None
    assert list(found.trial.failed.values()) == ["out of luck"]


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        ({"model": "squeezenet1_1", "at": ["features.99"]}, UnknownNameError, "unknown place to cut 'features.99'"),
        ({"model": "vgg111"}, UnknownNameError, "vgg11"),
        ({"model": FACTORY}, UsageError, "expected pictures beside the factory"),
        ({"model": FACTORY, "data": "digits", "out": "x"}, UsageError, "name them"),
        ({"model": FACTORY, "data": "digits", "at": ["0"]}, UsageError, "expected a folder"),
        ({"model": net(), "data": "digits", "out": "x"}, UsageError, "expected the name of a network"),
        ({"model": FACTORY, "data": "digits", "at": ["nowhere"], "out": "x"}, SpecError, "nowhere"),
        ({"model": FACTORY, "data": "digits", "at": ["0"], "out": "x", "most": 0}, SpecError, "1 place"),
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_runs(
    words: dict[str, Any], error: type[Exception], text: str, tmp_path: Path
) -> None:
    options = {"input_shape": (3, 32, 32), "tries": TRIES, **words}
    if "out" in options:
        options["out"] = tmp_path / "out"
    with pytest.raises(error, match=text):
        plan(options.pop("model"), **options, engine=Here(stop_after=0))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        plan(FACTORY, "digits", at=["0"], out=tmp_path, tries=TRIES, engine=Here(stop_after=0))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_plans_and_comparisons_leave_each_others_folders_alone(tried: tuple[PlanRecord, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"an earlier comparison, .* got a folder of a plan"):
        compare([], tried[1], board=SilentBoard(), recipe="tiny")
    claim_folder(tmp_path, [], kind="comparison", recipe="tiny", threat=TRIES.threat)
    with pytest.raises(OutputError, match=r"an earlier plan, .* got a folder of a comparison"):
        plan(FACTORY, "digits", at=["0"], out=tmp_path, tries=TRIES, engine=Here(stop_after=0))


def test_a_plan_replaces_no_other(tmp_path: Path, tried: tuple[PlanRecord, Path]) -> None:
    out = tmp_path / "plan"
    first = plan(net(), input_shape=SHAPE, out=out)
    (out / "report.html").write_text("its page")
    assert plan(net(), input_shape=SHAPE, at=["0"], out=out) != first
    for held, said in (
        (tried[0], "got one whose cuts were tried"),
        (first.model_copy(update={"model": "other"}), "got one of other"),
    ):
        before = held.write(out).read_bytes()
        with pytest.raises(OutputError, match=said):
            plan(net(), input_shape=SHAPE, out=out)
        assert (out / "cuts.json").read_bytes() == before
    (out / "cuts.json").write_text('{"wood": 3}')
    with pytest.raises(SpecError):
        plan(net(), input_shape=SHAPE, out=out)
    (out / "cuts.json").unlink()
    with pytest.raises(OutputError, match=r"got other files \(report\.html\)"):
        plan(net(), input_shape=SHAPE, out=out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="got a file"):
        plan(net(), input_shape=SHAPE, out=tmp_path / "file")


def test_places_are_spread_with_both_ends() -> None:
    for count in range(1, 12):
        for most in range(1, 6):
            found = spread(count, most)
            assert len(found) == len(set(found)) == min(count, most)
            assert found[0] == 0
            assert most == 1 or found[-1] == count - 1


def test_a_network_without_places_is_said(tmp_path: Path) -> None:
    from splitveil.experiments.planning.analysis import mark_untried

    with pytest.raises(InputError, match="expected places to cut in 'empty'"):
        mark_untried("empty", [], input_shape=SHAPE, classes=2, bottleneck=None)


def test_the_record_is_plain_json(tried: tuple[PlanRecord, Path]) -> None:
    data = json.loads((tried[1] / "cuts.json").read_text())
    assert data["objectives"] == ["accuracy", "attacker_mse", "payload_bytes", "edge_multiply_adds"]
    assert data["cuts"][0]["at"] == "0"
