"""What travels between machines comes from outside: names and sizes are checked before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.data.rows import StoredRows
from splitveil.data.splits import Splits
from splitveil.data.tables import ImageTable, Source
from splitveil.errors import InputError, OutputError
from splitveil.experiments.engines import shipping
from splitveil.experiments.engines.jobs import borrowed
from splitveil.experiments.engines.shipping import Pictures, check_files, marked, pack, store
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.rng import Rng
from splitveil.specs import DataSpec

RUN = {
    "spec.json": b"{}",
    "events.jsonl": b"{}\n",
    "weights.safetensors": b"w",
    "attackers/decoder-0123456789.safetensors": b"a",
    "samples/test.safetensors": b"s",
    "state/checkpoint.safetensors": b"c",
}


def test_a_run_travels_and_comes_back(tmp_path: Path) -> None:
    store(tmp_path / "here", RUN)
    (tmp_path / "here" / ".spec.json.left-by-a-kill").write_bytes(b"half")
    assert pack(tmp_path / "here") == RUN
    store(tmp_path / "there", pack(tmp_path / "here"), removed=["state/checkpoint.safetensors"])
    assert sorted(pack(tmp_path / "there")) == sorted(set(RUN) - {"state/checkpoint.safetensors"})
    assert pack(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "name",
    [
        "../spec.json",
        "/etc/spec.json",
        "samples/../../spec.json",
        "a/b/c/spec.json",
        "run.py",
        "weights.pt",
        ".hidden.json",
        "samples/.json",
        "",
        "spec.json\0",
        "C:\\spec.json",
        "x" * 300 + ".json",
        "samples//spec.json",
        "line\n.json",
    ],
)
def test_a_name_that_no_run_has_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    for files, removed in (({**RUN, name: b""}, []), (RUN, [name])):
        with pytest.raises(InputError, match="expected the files of a run"):
            store(tmp_path / "run", files, removed)
    assert not (tmp_path / "run").exists()


@settings(deadline=None)
@given(st.text(max_size=30))
def test_what_passes_lies_within_the_run(name: str) -> None:
    home = Path("/runs/one")
    try:
        check_files({f"{name}.json": 0})
    except InputError:
        return
    assert (home / f"{name}.json").resolve().is_relative_to(home)


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="storage that all machines share"):
        check_files({f"samples/{number}.json": 0 for number in range(5000)})
    monkeypatch.setattr(shipping, "MOST_BYTES", 10)
    check_files({"a.json": 10})
    with pytest.raises(InputError, match="got 2 of"):
        check_files({"a.json": 10, "b.json": 1})


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="a link out of it"):
        store(tmp_path / "run", RUN)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["samples"]


def test_the_spec_comes_first_and_what_calls_a_run_finished_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(shipping, "write_bytes", lambda path, _: order.append(path.name))
    store(tmp_path, {**RUN, "attacks.json": b"", "evaluation.json": b""})
    assert order[0] == "spec.json"
    assert order[-2:] == ["attacks.json", "evaluation.json"]


def test_pictures_come_back_as_they_were_even_from_memory_that_is_read_only() -> None:
    data = load_data_spec(DataSpec(source="digits", limit=400))
    sent = Pictures.of(data)
    assert sent is not None
    for array in [array for arrays in sent.tables.values() for array in arrays.values()]:
        array.setflags(write=False)
    found = sent.unpack()
    assert found.splits.digest == data.splits.digest
    assert found.splits.sizes == data.splits.sizes
    assert (found.source.class_names, found.source.input_shape) == (data.source.class_names, data.source.input_shape)
    for name in data.splits.sizes:
        ours, theirs = getattr(data.splits, name), getattr(found.splits, name)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert np.shares_memory(theirs.images.numpy(), sent.tables[name]["images"])


def test_targets_travel_with_their_pictures() -> None:
    values = torch.randint(0, 256, (8, 1, 4, 4), generator=Rng(0).generator(), dtype=torch.uint8)
    targets = torch.rand(8, 2, generator=Rng(1).generator())
    table = ImageTable(values, torch.arange(8) % 2, targets)
    splits = Splits(train=table, val=table, test=table, aux=table, digest="d", duplicates=0)
    sent = Pictures.of(LoadedData(Source("mine", table, None, ("low", "high"), (0.5,)), splits))
    assert sent is not None
    found = sent.unpack()
    assert found.source.edges == (0.5,)
    assert isinstance(found.splits.test.targets, torch.Tensor)
    assert torch.equal(found.splits.test.targets, targets)


def test_pictures_from_a_file_are_left_to_the_workers(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(bytes(8 * 16))
    table = ImageTable(StoredRows(tmp_path / "rows", (1, 4, 4)), torch.arange(8) % 2)
    splits = Splits(train=table, val=table, test=table, aux=table, digest="d", duplicates=0)
    assert Pictures.of(LoadedData(Source("mine", table, None, ("low", "high")), splits)) is None


def test_a_token_is_found_where_it_lies_and_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with marked([tmp_path / "new"]) as token:
        assert token.lies_in(tmp_path / "new")
        assert not token.lies_in(tmp_path / "other")
        (tmp_path / "other" / token.name).write_text("of somebody else")
        assert not token.lies_in(tmp_path / "other")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_second_folder_is_lent_as_a_copy(tmp_path: Path) -> None:
    store(tmp_path / "one", RUN)
    store(tmp_path / "two", RUN)
    with borrowed(tmp_path / "one", tmp_path / "two") as lent:
        assert lent is not None
        assert pack(lent) == RUN
        (lent / "attacks.json").write_text("theirs")
    assert not lent.exists()
    assert pack(tmp_path / "one") == RUN
    with borrowed(tmp_path / "one", tmp_path / "one") as lent:
        assert lent == tmp_path / "one"
    with borrowed(None, tmp_path / "one") as lent:
        assert lent is None
