import json
import stat
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given

import ttnet
from tests.ttnet.strategies import same, trains, tt_matrices
from ttnet import TensorTrain, TTFileError, TTMatrix, TTTypeError


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


def test_save_errors(tmp_path):
    with pytest.raises(TTFileError, match="No such file or directory"):
        ttnet.ones((2,)).save(tmp_path / "no" / "x")
    with pytest.raises(TTTypeError, match="value is a Tensor; expected a TensorTrain or a TTMatrix"):
        ttnet.io.save(torch.ones(2), tmp_path / "x")


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
    for end in [0, 4, 100, len(data) - 1]:
        path.write_bytes(data[:end])
        refuses("is not a whole safetensors file")
    path.write_bytes(b"Not a file of this kind at all.")
    refuses("is not a whole safetensors file")

    core = {"cores.0": torch.ones(1, 2, 1)}
    good = {"format": "ttnet", "version": "1", "kind": "TensorTrain", "dtype": "float32"}
    for tensors, metadata, message in [
        (core, None, "not one of ttnet's"),
        (core, {"format": "pt"}, "not one of ttnet's"),
        (core, good | {"version": "2"}, "has format version 2; this ttnet reads up to 1: upgrade it"),
        (core, good | {"version": "x"}, "has format version x"),
        (core, good | {"kind": "Tree"}, "kind 'Tree'; expected one of TensorTrain, TTMatrix"),
        ({"cores.1": torch.ones(1, 2, 1)}, good, "does not hold the cores of a TensorTrain"),
        ({"cores.0": torch.ones(1, 2, 3)}, good, "does not hold .* outer ranks"),
        (core, good | {"dtype": "complex64"}, "does not hold"),
        ({}, good, "does not hold"),
    ]:
        safetensors.torch.save_file(tensors, path, metadata)
        refuses(message)
    header = json.dumps({"__metadata__": good}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refuses("does not hold the cores of a TensorTrain: cores is empty")
