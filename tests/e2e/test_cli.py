"""The command line as a user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_fixtures import Run, Said, heed_ctrl_c
from PIL import Image
from safetensors.numpy import load_file, save_file

QUICK = ["--limit", "300", "--set", "epochs=1", "--model-param", "width=0.5"]
SHORT_ATTACK = ["-p", "epochs=1", "-p", "channels=8", "-p", "blocks=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short runs, attacked."""
    base = tmp_path_factory.mktemp("runs")
    for defense in ("none", "gaussian"):
        words = ["train", "--defense", defense, "--out", str(base / defense), *QUICK]
        subprocess.run([sys.executable, "-m", "splitveil.cli", *words], check=True, capture_output=True)
    words = ["attack", str(base), *SHORT_ATTACK]
    subprocess.run([sys.executable, "-m", "splitveil.cli", *words], check=True, capture_output=True)
    return base


def refused(said: Said, code: int, *parts: str) -> None:
    """One line on stderr that holds these parts, nothing on stdout, no traceback."""
    assert said.code == code, said
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


# ------------------------------------------------------------------------------------------- what works


def test_help_names_all_commands(run: Run) -> None:
    said = run("--help")
    assert said.code == 0
    for command in ("demo", "train", "attack", "report", "list"):
        assert command in said.out
        assert run(command, "--help").code == 0


def test_help_takes_no_torch() -> None:
    script = (
        "import sys; sys.argv = ['splitveil', 'train', '--help']\n"
        "from splitveil.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_version(run: Run) -> None:
    assert run("--version").out.strip()


def test_list_shows_names_and_help(run: Run) -> None:
    said = run("list", "defenses")
    assert said.code == 0
    assert "cem" in said.out
    assert "attacks:" not in said.out
    everything = json.loads(run("list", "--json").out)
    assert set(everything["recipes"]) == {"tiny", "quick", "full"}
    assert all(text for names in everything.values() for text in names.values())


def test_train_prints_its_result_and_writes_its_files(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = run("train", "--defense", "cem", "--out", out, "--json", *QUICK)
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result["score"]["name"] == "accuracy"
    score = result["score"]["result"]
    assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    assert result["payload_bytes"] == 4 * np.prod(result["release"]["shape"])
    assert sorted(path.name for path in out.iterdir()) == [
        "architecture.json",
        "env.json",
        "evaluation.json",
        "events.jsonl",
        "samples",
        "spec.json",
        "weights.safetensors",
    ]
    assert "\x1b" not in said.err


def test_ctrl_c_ends_with_its_code_and_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "--defense", "none", "--out", str(out), "--limit", "300", "--set", "epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "splitveil.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    deadline = time.monotonic() + 60
    while not (out / "state" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate()
    assert process.returncode == 130
    assert said == ""
    assert error.strip() == "interrupted: what is finished or checkpointed stays; the same command does the rest"
    assert (out / "state" / "checkpoint.safetensors").exists()
    assert not (out / "evaluation.json").exists()


def test_a_spec_file_trains_the_same_run(run: Run, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert run("train", "--spec", trained / "none" / "spec.json", "--out", out).code == 0
    assert (out / "weights.safetensors").read_bytes() == (trained / "none" / "weights.safetensors").read_bytes()


def test_attack_adds_to_the_record_once(run: Run, trained: Path) -> None:
    said = run("attack", trained / "none", "--json", *SHORT_ATTACK)
    assert said.code == 0, said.err
    [result] = json.loads(said.out)
    recorded = json.loads((trained / "none" / "attacks.json").read_text())["attacks"]
    assert [item["key"] for item in recorded] == [result["key"]]
    assert set(result["controls"]) == {"mean_image", "class_mean", "ridge"}
    assert (
        result["metrics"]["mse"]["n"]
        == json.loads((trained / "none" / "evaluation.json").read_text())["splits"]["test"]
    )


def test_a_weak_attack_fails_under_strict_only(run: Run, trained: Path) -> None:
    assert run("attack", trained / "none", *SHORT_ATTACK).code == 0
    said = run("attack", trained / "none", "--strict", *SHORT_ATTACK)
    assert said.code == 1
    assert "does not beat its controls on none" in said.err


def test_report_is_one_file(run: Run, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = run("report", trained, "--out", page, "--json")
    assert said.code == 0, said.err
    assert [row["defense"] for row in json.loads(said.out)["runs"]] == ["none", "gaussian"]
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["--defense", "gausian"], 3, ["unknown defense 'gausian'", "did you mean 'gaussian'"]),
        (["--recipe", "tinny"], 3, ["unknown recipe 'tinny'", "did you mean 'tiny'"]),
        (["--model", "vgg1"], 3, ["unknown model 'vgg1'", "did you mean 'vgg11'"]),
        (["--defense", "cem", "-p", "wieght=2"], 3, ["wieght", "did you mean 'weight'"]),
        (["--defense", "cem", "-p", "noise_std=-1"], 3, ["noise_std > 0", "-1"]),
        (["--defense", "cem", "-p", "covariance=diag"], 3, ["covariance", "'diag'"]),
        (["--defense", "cem", "-p", "surrogate=bond"], 3, ["'bond'", "did you mean 'bound'"]),
        (["--defense", "cem", "-p", "schedule=warmup"], 3, ["'warmup'", "did you mean 'warm_up'"]),
        (["--defense", "cem", "-p", "weight"], 2, ["expected name=value, got 'weight'"]),
        (["--set", "epoch=3"], 3, ["epoch", "epochs"]),
        (["--set", "epochs=0"], 3, ["epochs"]),
        (["--set", "lr=fast"], 3, ["lr"]),
        (["--model-param", "widht=0.5"], 3, ["widht", "did you mean 'width'"]),
        (["--model-param", "width=0"], 3, ["width"]),
        (["--model", "os:system"], 3, ["os:system"]),
        (["--model", ""], 2, ["expected the name of a model, got an empty one"]),
        (["--defense", "cem", "-p", "weight=high"], 3, ["a number for weight", "'high'"]),
        (["--defense", "cem", "-p", "weight=-1"], 3, ["penalty weight >= 0", "-1"]),
        (["--data", "no/such/folder"], 4, ["no/such/folder"]),
        (["--limit", "15"], 3, ["raise limit"]),
        (["--device", "tpu9"], 3, ["'tpu9'", "choose another"]),
        (["--device", "cuda:77"], 3, ["'cuda:77'", "choose another"]),
        (["--spec", "nothing.json"], 4, ["nothing.json"]),
        (["--spec", "a.json", "--seed", "5", "-p", "a=1"], 2, ["either --spec or --param, --seed"]),
        (["--model-param", "classes=3"], 3, ["output (n, 10)", "got (n, 3)"]),
        (["--data", "x" * 300], 3, ["File name too long"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_train_refuses(run: Run, tmp_path: Path, words: list[str], code: int, parts: list[str]) -> None:
    out = tmp_path / "run"
    refused(run("train", "--out", out, *words), code, *parts)
    assert not out.exists()


def test_a_name_that_is_too_long_is_one_error(run: Run) -> None:
    refused(run("train", "--out", "x" * 300), 3, "File name too long", "choose another")
    refused(run("report", "x" * 300), 3, "File name too long")


def test_a_factory_may_lie_where_the_command_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net_of_a_user.py").write_text("from splitveil.nets.small import small as net\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    said = run("train", "--model", "net_of_a_user:net", "--defense", "none", "--out", "a", *QUICK)
    assert said.code == 0, said.err
    assert run("report", "a", "--out", "a.html").code == 0
    assert "--out a-again --model net_of_a_user:net" in (tmp_path / "a.html").read_text()


def test_the_package_runs_as_a_module() -> None:
    words = [sys.executable, "-m", "splitveil", "--help"]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stdout.startswith("Usage: splitveil ")


def test_unknown_options_are_usage_errors(run: Run) -> None:
    said = run("train", "--outt", "x")
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("change", "part"),
    [({"defence": {}}, "defence"), ({"seed": "one"}, "seed"), ({"training": {"epochs": -1}}, "epochs")],
)
def test_a_spec_with_faults_is_refused(
    run: Run, trained: Path, tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    spec = {**json.loads((trained / "none" / "spec.json").read_text()), **change}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    refused(run("train", "--spec", tmp_path / "spec.json", "--out", tmp_path / "run"), 3, "spec.json", part)
    (tmp_path / "spec.json").write_text("{")
    refused(run("train", "--spec", tmp_path / "spec.json", "--out", tmp_path / "run"), 3, "spec.json")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_somebody_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("words")
    refused(run("train", "--out", tmp_path, *QUICK), 3, "thesis.tex", "choose another --out")
    refused(run("train", "--out", tmp_path / "thesis.tex", *QUICK), 3, "choose another --out")
    assert (tmp_path / "thesis.tex").read_text() == "words"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_another_spec_is_left_alone(run: Run, trained: Path) -> None:
    before = (trained / "none" / "weights.safetensors").read_bytes()
    said = run("train", "--defense", "gaussian", "--out", trained / "none", *QUICK)
    refused(said, 3, "holds a run of another spec", "defense")
    assert (trained / "none" / "weights.safetensors").read_bytes() == before


def test_the_demo_checks_its_folders_before_it_works(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cem").mkdir()
    (tmp_path / "cem" / "notes.txt").write_text("mine")
    refused(run("demo", "--out", tmp_path), 3, "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["cem"]
    (tmp_path / "cem" / "notes.txt").unlink()
    (tmp_path / "report.html").write_text("my own page")
    refused(run("demo", "--out", tmp_path), 3, "report.html", "another file")
    refused(run("demo", "--out", tmp_path, "--ui", "--curves"), 2, "--ui", "--curves")
    refused(run("demo", "--out", tmp_path, "--ui", "--json"), 2, "--ui", "--json")
    assert (tmp_path / "report.html").read_text() == "my own page"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cem", "report.html"]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["--attack", "decodr"], 3, ["did you mean 'decoder'"]),
        (["--threat", "whitebox"], 3, ["did you mean 'white_box'"]),
        (["-p", "epoch=3"], 3, ["epoch", "did you mean 'epochs'"]),
        (["-p", "epochs=0"], 3, ["epochs"]),
        (["--threat", "query_free"], 3, ["needs pairs", "it grants labels, tail"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_attack_refuses(run: Run, trained: Path, words: list[str], code: int, parts: list[str]) -> None:
    before = (trained / "none" / "attacks.json").read_bytes()
    refused(run("attack", trained / "none", *words), code, *parts)
    assert (trained / "none" / "attacks.json").read_bytes() == before


@pytest.mark.parametrize("command", ["attack", "report"])
def test_where_there_is_no_run(run: Run, tmp_path: Path, command: str) -> None:
    refused(run(command, tmp_path / "nothing"), 4, "nothing")
    refused(run(command, tmp_path), 4, str(tmp_path))


def _with_weights(trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    import shutil

    copy = tmp_path / "none"
    shutil.copytree(trained / "none", copy)
    (copy / "attacks.json").unlink()
    tensors = load_file(copy / "weights.safetensors")
    change(tensors)
    save_file(tensors, copy / "weights.safetensors")
    return copy


def test_nan_weights_are_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        name = next(name for name in tensors if name.endswith("weight"))
        tensors[name].reshape(-1)[0] = np.nan

    copy = _with_weights(trained, tmp_path, spoil)
    refused(run("attack", copy), 3, "NaN", "train again")
    assert not (copy / "attacks.json").exists()


def test_weights_that_do_not_fit_are_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    copy = _with_weights(trained, tmp_path, lambda tensors: tensors.pop("tail.classifier.weight"))
    refused(run("attack", copy), 3, "do not fit")


def test_truncated_weights_are_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    copy = _with_weights(trained, tmp_path, lambda tensors: None)
    content = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(content[: len(content) // 2])
    refused(run("attack", copy), 3, "cannot read the weights")


def test_a_run_in_training_cannot_be_attacked(run: Run, trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "none"
    shutil.copytree(trained / "none", copy)
    for name in ("evaluation.json", "weights.safetensors", "attacks.json"):
        (copy / name).unlink()
    said = run("attack", copy)
    assert said.code in (3, 4)
    assert said.err.startswith("error: ")


# ------------------------------------------------------------------------------------------- data


def _pictures(folder: Path, classes: int = 3, each: int = 12, side: int = 8) -> Path:
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{index}.png")
    return folder


def _parquet(file: Path, labels: list[int], **renamed: str) -> Path:
    import io

    rows, generator = [], np.random.default_rng(1)
    for label in labels:
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{label}.png"})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({renamed.get("image", "image"): rows, renamed.get("label", "label"): labels}), file)
    return file.parent


def test_a_folder_of_pictures_and_a_parquet_table_train(run: Run, tmp_path: Path) -> None:
    words = ["--defense", "gaussian", "--model", "small", "--set", "epochs=1", "--set", "batch_size=8"]
    folder = _pictures(tmp_path / "pictures", each=20)
    said = run("train", "--data", folder, "--out", tmp_path / "a", *words)
    assert said.code == 0, said.err
    table = _parquet(tmp_path / "table" / "train.parquet", [index % 3 for index in range(60)])
    said = run("train", "--data", table, "--out", tmp_path / "b", *words)
    assert said.code == 0, said.err


def test_bad_pictures_are_named(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def refuses(folder: Path, code: int, *parts: str) -> None:
        refused(run("train", "--data", folder, "--model", "small", "--out", out), code, *parts)
        assert not out.exists()

    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", 4, "empty")
    broken = _pictures(tmp_path / "broken")
    file = broken / "class1" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    refuses(broken, 3, "3.png")
    text = _pictures(tmp_path / "text")
    (text / "class0" / "0.png").write_text("not a picture")
    refuses(text, 3, "0.png")
    sizes = _pictures(tmp_path / "sizes")
    Image.new("RGB", (9, 8)).save(sizes / "class2" / "5.png")
    refuses(sizes, 3, "5.png", "9")
    refuses(_pictures(tmp_path / "one", classes=1), 3, "class")
    refuses(_parquet(tmp_path / "hole" / "train.parquet", [0, 2] * 20), 3, "1")
    refuses(_parquet(tmp_path / "column" / "train.parquet", [0, 1] * 20, label="labels"), 3, "labels", "label")
    refuses(_parquet(tmp_path / "column2" / "train.parquet", [0, 1] * 20, image="imag"), 3, "imag")
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "train.parquet").write_bytes(b"PAR1 no")
    refuses(junk, 3, "train.parquet")


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the operating system refuses to write more."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv = ['splitveil', *sys.argv[1:]]\n"
        "from splitveil.cli import main\nmain()"
    )
    out = tmp_path / "run"
    words = ["train", "--defense", "none", "--out", str(out), *QUICK]
    finished = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert finished.returncode == 3, finished.stderr
    assert finished.stderr.startswith("error: cannot write")
    assert finished.stderr.count("\n") == 1
    assert not [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".")]
    assert not (out / "weights.safetensors").exists()
