"""Banks on the disk: lazily opened, saved in parts, and never less than they were."""

import copy
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.ttnet_llm import models
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm import LorettaRepConfig
from ttnet_llm.bank import AdapterBank, saving, storage

CONFIG = LorettaRepConfig(r=4, init_weights=False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (storage, saving):
        monkeypatch.setattr(module, "BLOCK", 3)


def filled(count: int, **options: Any) -> AdapterBank:
    bank = AdapterBank(models.llama(), copy.deepcopy(CONFIG), **options)
    for k in range(count):
        bank.add(f"user-{k}")
    return bank


def same(one: AdapterBank, other: AdapterBank) -> None:
    assert one.names == other.names
    for name in one.names:
        theirs = other.tensors(name)
        assert all(torch.equal(value, theirs[key]) for key, value in one.tensors(name).items())


def files(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("part-*")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_saved_is_loaded_to_the_bit_and_computes_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    bank = filled(7, dtype=dtype, capacity=9)
    bank.remove("user-3")
    bank.save(tmp_path / "bank")
    loaded = AdapterBank.load(tmp_path / "bank", models.llama())
    assert list(loaded._storage.bytes_in_memory()) == []  # nothing is read yet
    assert (loaded.capacity, loaded.config.r) == (9, 4)
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad(), bank.use(["user-5", "user-6"]), loaded.use(["user-5", "user-6"]):
        assert torch.equal(bank.model(input_ids=ids).logits, loaded.model(input_ids=ids).logits)
    assert len(list(loaded._storage.bytes_in_memory())) == 2
    same(bank, loaded)
    loaded.add("new")
    assert loaded._numbers["new"] == 3  # the place that was free


def test_one_more_adapter_rewrites_one_part(tmp_path: Path) -> None:
    bank = filled(8)
    bank.save(tmp_path)
    before = files(tmp_path)
    assert len(before) == 3
    bank.add("new")
    bank.save(tmp_path)
    after = files(tmp_path)
    assert len(set(after.items()) - set(before.items())) == 1
    bank.rename("new", "renamed")
    bank.save(tmp_path)
    after = {name: time for name, time in after.items() if name in files(tmp_path)}
    assert files(tmp_path) == after
    assert len(after) == 3
    loaded = AdapterBank.load(tmp_path, models.llama())
    loaded.add("another")
    loaded.save(tmp_path)
    assert len(set(after.items()) & set(files(tmp_path).items())) == 3
    for name in loaded.names[1:]:
        loaded.remove(name)
    loaded.save(tmp_path)
    loaded.save(tmp_path)
    assert len(files(tmp_path)) == 1  # what nobody has any more is gone, one save later
    loaded.save(tmp_path / "elsewhere")
    same(AdapterBank.load(tmp_path / "elsewhere", models.llama()), loaded)


def test_what_was_learnt_is_saved(tmp_path: Path) -> None:
    bank = filled(2)
    bank.save(tmp_path)
    (parameter,) = bank.trainable("user-1")
    with torch.no_grad():
        parameter.add_(1)
    bank.save(tmp_path)
    same(AdapterBank.load(tmp_path, models.llama()), bank)
    with torch.no_grad():
        parameter.add_(1)
    bank.freeze()
    bank.save(tmp_path)
    same(AdapterBank.load(tmp_path, models.llama()), bank)


def test_a_damaged_part_leaves_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bank = filled(8)
    bank.save(tmp_path)
    part = sorted(tmp_path.glob("part-00001-*"))[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:50])
    with caplog.at_level(logging.WARNING):
        loaded = AdapterBank.load(tmp_path, models.llama())
    assert "it held user-3, user-4, user-5. Remove and add these again; all others are still there" in caplog.text
    assert len(loaded) == 8
    assert all(torch.equal(v, loaded.tensors("user-7")[k]) for k, v in bank.tensors("user-7").items())
    with pytest.raises(TTFileError, match="it held user-3, user-4, user-5"), loaded.use("user-4"):
        pass
    loaded.remove("user-4")
    loaded.add("user-4", bank.tensors("user-4"))
    assert all(torch.equal(v, loaded.tensors("user-4")[k]) for k, v in bank.tensors("user-4").items())
    # Of what the header does not tell, the first use does.
    part.write_bytes(whole[:-4])
    with pytest.raises(TTFileError, match="it held user-3"):
        AdapterBank.load(tmp_path, models.llama()).tensors("user-3")


def test_a_part_that_is_missing_or_of_another_size_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(4).save(tmp_path)
    first, second = sorted(tmp_path.glob("part-*"))
    first.unlink()
    from safetensors.torch import save_file

    save_file({"rows": torch.ones(2, 5)}, second)
    loaded = AdapterBank.load(tmp_path, models.llama())
    assert "it held user-0, user-1, user-2" in caplog.text
    assert f"its rows have the shape (2, 5), and {loaded.parameters_each} numbers were expected in each" in caplog.text


STOPPED = """
import sys, torch
from tests.ttnet_llm import models
from ttnet_llm import LorettaRepConfig
from ttnet_llm.bank import AdapterBank, saving
real = saving._write_part
def slow(rows, file):
    real(rows, file)
    print("written", flush=True)
    import time; time.sleep(60)
saving._write_part = slow
bank = AdapterBank.load(sys.argv[1], models.llama())
for k in range(300):
    bank.add(f"more-{k}")
bank.remove("user-1")
bank.save(sys.argv[1])
"""


def test_a_save_that_is_killed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the other process has large blocks
    bank = filled(5)
    bank.save(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(files(tmp_path)) == 2  # one of them of the save that was not finished
    loaded = AdapterBank.load(tmp_path, models.llama())
    same(loaded, bank)
    loaded.add("later")
    loaded.save(tmp_path)
    same(AdapterBank.load(tmp_path, models.llama()), loaded)


def test_removed_adapters_leave_room_that_is_used_and_saved(tmp_path: Path) -> None:
    filled(6).save(tmp_path)
    bank = AdapterBank.load(tmp_path, models.llama())
    for name in ("user-3", "user-4", "user-5"):
        bank.remove(name)
    bank.save(tmp_path)
    bank.add("new")
    bank.add("newer")
    bank.save(tmp_path)
    same(AdapterBank.load(tmp_path, models.llama()), bank)
    for name in ("user-0", "user-1", "user-2"):  # a block in the middle
        bank.remove(name)
    bank.save(tmp_path)
    again = AdapterBank.load(tmp_path, models.llama())
    same(again, bank)
    again.add("one more")
    assert again._numbers["one more"] == 0
    for name in again.names:
        again.remove(name)
    again.save(tmp_path)
    empty = AdapterBank.load(tmp_path, models.llama())
    assert empty.names == []
    empty.add("first")
    empty.save(tmp_path)
    same(AdapterBank.load(tmp_path, models.llama()), empty)


def test_a_damage_that_was_mended_is_told_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bank = filled(4)
    bank.save(tmp_path)
    sorted(tmp_path.glob("part-00000-*"))[0].write_bytes(b"x")
    loaded = AdapterBank.load(tmp_path, models.llama())
    for name in ("user-0", "user-1", "user-2"):
        loaded.remove(name)
        loaded.add(name, bank.tensors(name))
    loaded.save(tmp_path)
    caplog.clear()
    again = AdapterBank.load(tmp_path, models.llama())
    assert caplog.text == ""
    again.save(tmp_path / "elsewhere")
    assert all(torch.equal(v, again.tensors("user-1")[k]) for k, v in bank.tensors("user-1").items())


def test_a_bank_takes_no_others_place_and_no_changes_are_lost(tmp_path: Path) -> None:
    first = filled(2)
    first.save(tmp_path)
    with pytest.raises(TTFileError, match="holds another bank; name a new folder, or load that bank first"):
        filled(1).save(tmp_path)
    one, other = (AdapterBank.load(tmp_path, models.llama()) for _ in range(2))
    one.add("of one")
    one.save(tmp_path)
    other.add("of the other")
    with pytest.raises(TTFileError, match="was changed since it was loaded; load it again, and do there what was done"):
        other.save(tmp_path)
    assert all(torch.equal(v, other.tensors("user-1")[k]) for k, v in first.tensors("user-1").items())  # still there
    other.save(tmp_path / "other")
    assert AdapterBank.load(tmp_path, models.llama()).names == ["user-0", "user-1", "of one"]


def test_a_first_save_that_failed_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, written = filled(4), []

    def full(rows: torch.Tensor, file: Path) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(file)
        real(rows, file)

    real = saving._write_part
    monkeypatch.setattr(saving, "_write_part", full)
    with pytest.raises(OSError, match="No space left"):
        bank.save(tmp_path / "bank")
    monkeypatch.setattr(saving, "_write_part", real)
    bank.save(tmp_path / "bank")
    same(AdapterBank.load(tmp_path / "bank", models.llama()), bank)
    assert len(files(tmp_path / "bank")) == 2  # and nothing of the first


def test_rows_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    def model(first: str, second: str) -> nn.Module:
        torch.manual_seed(0)
        layers = {"q": nn.Linear(8, 8), "v": nn.Linear(8, 8)}
        return nn.ModuleDict({name: layers[name] for name in (first, second)})

    bank = AdapterBank(model("q", "v"), LorettaRepConfig(r=2, target_modules=["q", "v"], init_weights=False))
    bank.add("ann")
    bank.save(tmp_path)
    loaded = AdapterBank.load(tmp_path, model("v", "q"))
    x = torch.randn(1, 8)
    with bank.use("ann"), loaded.use("ann"):
        for name in ("q", "v"):
            assert torch.equal(bank.model[name](x), loaded.model[name](x))


def test_mistakes_get_a_sentence(tmp_path: Path) -> None:
    bank = filled(1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("keep")
    with pytest.raises(TTFileError, match=r"holds .a\.txt. and no bank; name a new folder"):
        bank.save(tmp_path / "mine")
    with pytest.raises(TTFileError, match="is a file; name a folder"):
        bank.save(tmp_path / "mine" / "a.txt")
    with pytest.raises(TTFileError, match=r"holds no bank \(there is no bank.json\)"):
        AdapterBank.load(tmp_path / "mine", models.llama())
    bank.save(tmp_path / "bank")
    with pytest.raises(TTValueError, match=r"on this model it would have [0-9,]+ in .*; give the model that"):
        AdapterBank.load(tmp_path / "bank", models.llama(num_hidden_layers=1))
    index = tmp_path / "bank" / "bank.json"
    good = json.loads(index.read_text())
    for changed, message in [
        (good | {"format": 9}, "is of format 9; expected 1"),
        (good | {"parts": ["../x"]}, "names a part that is none of a bank's files"),
        (good | {"dtype": "foo"}, "says the dtype 'foo', which is none"),
        (good | {"adapters": {"a": 0, "b": 0}}, "gives two adapters one row"),
        (good | {"adapters": {"a": 99}}, "names rows that its 1 parts do not have"),
        ({"format": 1}, "cannot be read"),
        ([], "cannot be read"),
    ]:
        index.write_text(json.dumps(changed))
        with pytest.raises(TTFileError, match=message):
            AdapterBank.load(tmp_path / "bank", models.llama())
    index.write_text("{")
    with pytest.raises(TTFileError, match="cannot be read"):
        AdapterBank.load(tmp_path / "bank", models.llama())
