import json
import os
import shutil
import stat
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given

import ttnet
from tests.ttnet.strategies import same, trains, tt_matrices
from ttnet import TensorTrain, TTFileError, TTMatrix, TTTypeError, TTValueError


@given(x=trains(), w=tt_matrices())
def test_round_trip(tmp_path_factory, x, w):
    path = tmp_path_factory.mktemp("io") / "value.safetensors"
    for value in [x, w, x.to(torch.bfloat16) if not x.dtype.is_complex else x.conj()]:
        value.save(path)
        assert same(ttnet.load(path), value)
        assert same(type(value).load(str(path)), value)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_shared_and_strided_cores_that_need_gradients(tmp_path):
    core = torch.ones(1, 1, 4, requires_grad=True).transpose(1, 2)
    x = TensorTrain([core] * 3)
    x.save(tmp_path / "x")
    assert same(ttnet.load(tmp_path / "x"), x)


def test_files_describe_themselves(tmp_path):
    ttnet.ones((2, 3), dtype=torch.complex128).save(tmp_path / "x")
    with safetensors.safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "ttnet", "version": "1", "kind": "TensorTrain", "dtype": "complex128"}
        assert sorted(file.keys()) == ["cores.0", "cores.1"]
        assert file.get_tensor("cores.0").shape == (1, 2, 1, 2)


def test_saving_replaces_or_leaves_alone(tmp_path, monkeypatch):
    path = tmp_path / "x"
    ttnet.ones((2,)).save(path)
    (tmp_path / "y").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(TTFileError, match=r"Cannot write .*: No space left on device; check the folder"):
        ttnet.zeros((2,)).save(path)
    assert same(ttnet.load(path), ttnet.ones((2,)))

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        ttnet.zeros((2,)).save(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x", "y"]


def test_a_link_stays_and_rights_are_kept(tmp_path):
    (tmp_path / "inner").mkdir()
    target, link = tmp_path / "inner" / "x", tmp_path / "link"
    link.symlink_to(target)
    for value in [ttnet.ones((2,)), ttnet.ones((3,))]:
        value.save(link)
        assert link.is_symlink()
        assert same(ttnet.load(target), value)
        target.chmod(0o640)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [file.name for file in target.parent.iterdir()] == ["x"]


def test_paths_of_every_kind(tmp_path):
    x = ttnet.ones((2,))
    for name in ["plain", "ä ö", "n" * 255]:
        path = tmp_path / name
        for form in [path, str(path), os.fsencode(path)]:
            x.save(form)
            assert same(ttnet.load(form), x)


def test_what_was_loaded_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "x"
    x = ttnet.random((4, 4), 2, seed=0)
    x.save(path)
    loaded = ttnet.load(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(loaded, x)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", ["complex32", "complex128", "bfloat16", "float16"])
def test_every_dtype(tmp_path, name):
    x = ttnet.random((3, 2), 2, dtype=torch.complex64 if "complex" in name else torch.float32, seed=0)
    x = x.to(getattr(torch, name))
    x.save(tmp_path / "x")
    loaded = ttnet.load(tmp_path / "x")
    assert loaded.dtype == x.dtype
    for a, b in zip(x.cores, loaded.cores, strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.fixture
def no_rights():
    """A folder that is not ours: root, who may do everything, becomes somebody else for a while."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        folder.chmod(0o777)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs the rights of a Unix system")
def test_missing_rights_are_told(no_rights):
    path = no_rights / "x"
    ttnet.ones((2,)).save(path)
    path.chmod(0o400)
    with pytest.raises(TTFileError, match=r"Cannot write .*: Permission denied"):
        ttnet.zeros((2,)).save(path)
    assert same(ttnet.load(path), ttnet.ones((2,)))
    path.chmod(0)
    with pytest.raises(TTFileError, match=r"Cannot read .*: Permission denied; check the file and its rights"):
        ttnet.load(path)
    (no_rights / "closed").mkdir(mode=0)
    for operation in [ttnet.ones((2,)).save, ttnet.load]:
        with pytest.raises(TTFileError, match="Permission denied"):
            operation(no_rights / "closed" / "x")


@pytest.mark.parametrize("operation", [ttnet.ones((2,)).save, ttnet.load], ids=["save", "load"])
def test_what_is_no_file(tmp_path, operation):
    os.mkfifo(tmp_path / "pipe")
    for path, error, message in [
        ("", TTFileError, "path is ''; expected the name of a file"),
        ("a\0b", TTFileError, "expected the name of a file"),
        (3, TTTypeError, "path is a int; expected a str or a path"),
        (None, TTTypeError, "path is a NoneType"),
        (".", TTFileError, "is a folder; give the name of a file"),
        ("/", TTFileError, "is a folder"),
        (tmp_path / "pipe", TTFileError, "is a pipe or a device; give the name of an ordinary file"),
        ("/dev/null", TTFileError, "is a pipe or a device"),
        (tmp_path / ("n" * 256), TTFileError, "name too long"),
    ]:
        with pytest.raises(error, match=message):
            operation(path)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_save_errors(tmp_path):
    with pytest.raises(TTFileError, match="No such file or directory"):
        ttnet.ones((2,)).save(tmp_path / "no" / "x")
    with pytest.raises(TTTypeError, match="value is a Tensor; expected a TensorTrain or a TTMatrix"):
        ttnet.io.save(torch.ones(2), tmp_path / "x")
    with pytest.raises(TTValueError, match="value is on the meta device, where cores have no entries"):
        ttnet.ones((2,), device="meta").save(tmp_path / "x")


def test_load_errors(tmp_path):
    path = tmp_path / "x"

    def refuses(message, load=ttnet.load):
        with pytest.raises(TTFileError, match=message):
            load(path)

    refuses("There is no file")
    path.mkdir()
    refuses("is a folder")
    path.rmdir()
    ttnet.random((4, 4), 2).save(path)
    refuses("holds a TensorTrain, not a TTMatrix; use ttnet.load", TTMatrix.load)
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        refuses("is not a whole safetensors file")
    path.write_bytes(data + b"more")
    refuses("is not a whole safetensors file")
    path.write_bytes(b"Not a file of this kind at all.")
    refuses("is not a whole safetensors file")

    core = {"cores.0": torch.ones(1, 2, 1)}
    good = {"format": "ttnet", "version": "1", "kind": "TensorTrain", "dtype": "float32"}
    for tensors, metadata, message in [
        (core, None, "not one of ttnet's"),
        (core, {"format": "pt"}, "not one of ttnet's"),
        (core, good | {"version": "2"}, "has format version 2; this ttnet reads up to 1: upgrade it"),
        (core, good | {"version": "abc"}, "has no format version but 'abc'"),
        (core, good | {"version": "-1"}, "has no format version but '-1'"),
        (core, good | {"version": "0"}, "has no format version but '0'"),
        (core, {k: v for k, v in good.items() if k != "version"}, "has no format version but 'none'"),
        (core, good | {"version": "9" * 5000}, "has format version 9999"),
        (core, good | {"kind": "Tree"}, "kind 'Tree' and dtype 'float32'; expected one of TensorTrain, TTMatrix"),
        (core, good | {"dtype": "float31"}, "dtype 'float31'"),
        (core, good | {"dtype": "nn"}, "dtype 'nn'"),
        (core, good | {"dtype": "float64"}, "cores.0 has dtype torch.float32 and .* expected dtype torch.float64"),
        ({"cores.0": torch.ones(1, 2, 1, 3)}, good | {"dtype": "complex64"}, "torch.float32 and a last axis of size 2"),
        ({"cores.0": torch.ones(1, 2, 1, 2).int()}, good | {"dtype": "complex64"}, "torch.float32 and a last axis"),
        ({"cores.1": torch.ones(1, 2, 1)}, good, "it has the tensors cores.1; expected cores.0, cores.1 and so on"),
        (core | {"more": torch.ones(2)}, good, "it has the tensors cores.0, more"),
        ({"cores.0": torch.ones(1, 2, 2, 1)}, good, r"cores\[0\] has shape \(1, 2, 2, 1\)"),
        ({"cores.0": torch.ones(1, 2, 3)}, good, "does not hold .* outer ranks"),
        (core, good | {"dtype": "complex64"}, "does not hold"),
        ({}, good, "does not hold"),
    ]:
        safetensors.torch.save_file(tensors, path, metadata)
        refuses(message)
    header = json.dumps({"__metadata__": good}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refuses("does not hold the cores of a TensorTrain: cores is empty")


def test_an_array_file_is_called_by_its_name(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(TTFileError, match=r"is an array file of numpy's, not a train; decompose its array"):
        ttnet.load(tmp_path / "x.npy")
