"""Pictures, plots and curves of the page, one by one."""

from __future__ import annotations

import base64
import io
import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from report_fixtures import MakeRun
from safetensors.numpy import load_file, save_file

from splitveil.errors import InputError
from splitveil.metrics import functional
from splitveil.report import pictures
from splitveil.report.curves import fact_rows, training_curves
from splitveil.report.lineplot import Line, line_plot
from splitveil.report.pictures import Encoder, load_samples, psnr_db
from splitveil.report.plots import Point, scatter_plot
from splitveil.report.runs import load_runs
from splitveil.report.wording import DASH, fixed, scalar


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_survive_the_way_into_the_page(channels: int) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (channels, 9, 7), dtype=np.uint8)
    shown = decode(Encoder(32).data_uri(picture))
    np.testing.assert_array_equal(shown, picture[0] if channels == 1 else picture.transpose(1, 2, 0))


def test_large_pictures_are_averaged_down_and_keep_their_shape() -> None:
    picture = np.full((1, 100, 50), 77, dtype=np.uint8)
    shown = decode(Encoder(32).data_uri(picture))
    assert shown.shape == (32, 16)
    assert set(shown.ravel()) == {77}


def test_psnr_of_shown_pictures_is_that_of_the_metric() -> None:
    import torch

    a, b = np.random.default_rng(2).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    scored = functional.peak_signal_to_noise(*(torch.from_numpy(x[None] / 255.0) for x in (a, b)))
    assert psnr_db(a, b) == pytest.approx(float(scored))
    assert psnr_db(a, a) == pictures.PSNR_CAP_DB == functional.PSNR_CAP_DB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("originals", None),
        ("originals", np.zeros((12, 1, 8, 8), dtype=np.float32)),
        ("reconstructions", np.zeros((11, 1, 8, 8), dtype=np.uint8)),
        ("worst_mse", np.zeros((6, 1), dtype=np.float32)),
    ],
)
def test_samples_of_another_form_are_refused(make_run: MakeRun, name: str, value: np.ndarray | None) -> None:
    run = load_runs([make_run("none", 0.002)])[0]
    file = run.record.path / "samples/decoder.safetensors"
    tensors = {key: tensor.copy() for key, tensor in load_file(file).items()}
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, str(file))
    with pytest.raises(InputError, match=f"'{name}'"):
        load_samples(run)


def test_a_scatter_takes_its_colours_from_the_page_and_escapes_names() -> None:
    points = [
        Point("a<b & $x$", 0, 0.01, 95.0, (0.009, 0.011), (94.0, 96.0)),
        Point("c", 3, 0.01, 95.0, (0.02, 0.03), (94.0, 96.0)),
    ]
    svg = str(scatter_plot(points, x_label="x", y_label="y", key="k"))
    texts = ["".join(item.itertext()) for item in ET.fromstring(svg).iter("text")]
    assert {"a<b & $x$", "c", "x", "y"} <= set(texts)
    assert "var(--c0)" in svg
    assert "var(--c3)" in svg
    assert "#0" not in svg.replace("(#k-", "").replace('"#k-', "")


def test_a_plot_survives_gaps_single_epochs_and_long_names() -> None:
    nan = float("nan")
    for values in ((1.0,), (nan, 2.0, nan), ()):
        ET.fromstring(str(line_plot([Line(1, values), Line(1, values, 1)], y_label="loss")))
    long = Point("x" * 200, 1, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0))
    assert not re.search("x{40}[^>]*<", scatter_plot([long], x_label="x", y_label="y", key="k"))


def test_the_loss_is_shown_term_by_term_with_its_weight(make_run: MakeRun) -> None:
    run = load_runs([make_run("cem", 0.04, weight=16.0)])[0]
    loss, accuracy, _ = training_curves(run)
    assert [entry.name for entry in loss.legend] == ["loss", "task", "conditional_entropy × 0 to 16"]  # noqa: RUF001
    last = run.epochs[-1]
    assert f"to {scalar(16.0 * last['terms']['conditional_entropy'])}" in loss.description
    assert [entry.name for entry in accuracy.legend] == ["validation", "training"]
    assert ("conditional_entropy", "components", "10", "10") in fact_rows(run)


def test_the_information_is_drawn_held_out_with_its_limit(make_run: MakeRun) -> None:
    run = load_runs([make_run("cem", 0.04, weight=16.0)])[0]
    curve = training_curves(run)[2]
    assert [entry.name for entry in curve.legend] == [
        "held out, mean",
        "held out, 99.9 % limit",
        "Theorem 2, in sample: no bound",
    ]
    last = run.epochs[-1]["facts"]["conditional_entropy"]["upper_nats"]
    assert f"99.9 % limit: from 319 to {scalar(last)}" in curve.description
    plain = load_runs([make_run("none", 0.002)])[0]
    assert len(training_curves(plain)) == 2


def test_one_term_alone_is_drawn_once(make_run: MakeRun) -> None:
    run = load_runs([make_run("none", 0.002)])[0]
    assert [entry.name for entry in training_curves(run)[0].legend] == ["loss (task alone)"]


def test_numbers_as_words() -> None:
    assert fixed(-0.00001, 2) == "0.00"
    assert fixed(-1.5, 1) == "\N{MINUS SIGN}1.5"
    assert fixed(float("nan"), 1) == DASH
    assert scalar(True) == "yes"
    assert scalar(None) == DASH
    assert scalar(1234567) == "1\u202f234\u202f567"
    assert scalar(0.000012345) == "1.234e\N{MINUS SIGN}05"


def test_attacks_are_called_by_their_name_and_by_what_tells_them_apart(make_run: MakeRun) -> None:
    run = make_run("none", 0.002)
    [first] = run.attacks
    [seen] = load_runs([run])
    assert seen.name_of(first) == first.attack.name
    run.add_attack(first.model_copy(update={"key": "decoder-other", "seed": 7}))
    [seen] = load_runs([run])
    assert [seen.name_of(attack) for attack in seen.attacks] == [
        f"{first.attack.name} (seed={first.seed})",
        f"{first.attack.name} (seed=7)",
    ]
    run.add_attack(first.model_copy(update={"key": "decoder-twin"}))
    [seen] = load_runs([run])
    assert seen.name_of(seen.attacks[-1]) == "decoder-twin"


def test_names_of_a_scatter_stay_off_each_other_and_off_points() -> None:
    """Points in a heap, one at the right edge: every name has a place of its own, within the plot."""
    heap = [(0.010 + 0.0004 * number, 80 + number % 3) for number in range(8)] + [(0.05, 60.0)]
    points = [
        Point(f"name {number}", 1, x, y, (x - 1e-4, x + 1e-4), (y - 0.5, y + 0.5)) for number, (x, y) in enumerate(heap)
    ]
    svg = scatter_plot(points, x_label="x", y_label="y", key="heap", x_scale="log", size=(10.4, 5.0))
    found = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>name \d<', svg)
    places = [(float(x), float(y)) for x, y in found]
    assert len(places) == len(points)
    for first, second in itertools.combinations(places, 2):
        assert abs(first[0] - second[0]) > 20 or abs(first[1] - second[1]) > 10
