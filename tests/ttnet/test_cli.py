import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ttnet
from tests.ttnet.strategies import relative_error
from ttnet import MissingExtraError, TTMatrix, operators
from ttnet.cli import main
from ttnet.commands import app
from ttnet.errors import import_extra


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def sine(scale=1.0):
    i = np.arange(12.0)
    return np.sin(i[:, None, None] + i[:, None] + i) * scale


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_there_and_back(run, scale):
    np.save("x.npy", sine(scale))
    result = run("decompose", "x.npy", "--eps", "1e-6", "-o", "x.safetensors")
    assert result.exit_code == 0, result.output
    for text in ["(12, 12, 12)", "(1, 2, 2, 1)", "float64", "1,728", "96", "18x", "x.safetensors"]:
        assert text in result.stdout
    reported = float(result.stdout.split("relative error")[1].split()[0])
    assert reported < 1e-12
    assert "(1, 2, 2, 1)" in run("info", "x.safetensors").stdout
    result = run("reconstruct", "x.safetensors", "-o", "y.npy")
    assert "shape (12, 12, 12), dtype float64" in result.stdout
    assert relative_error(torch.tensor(np.load("y.npy") / scale), torch.tensor(sine())) < 1e-12


def test_rounding(run):
    x = ttnet.random((6, 6, 6), 3, dtype=torch.float64, seed=0)
    (x + x).save("x")
    result = run("round", "x", "--eps", "1e-9", "-o", "y")
    assert result.exit_code == 0, result.output
    for text in ["(1, 6, 6, 1) -> (1, 3, 3, 1)", "288 -> 90", "2.4x", "written to"]:
        assert text in result.stdout
    assert float(result.stdout.split("relative error")[1].split()[0]) < 1e-12
    assert relative_error(ttnet.load("y").full(), 2 * x.full()) < 1e-12
    assert "-> (1, 2, 1, 1)" in run("round", "x", "--max-rank", "2,1", "-o", "x", "--force").stdout
    TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3)).save("w")
    result = run("round", "w", "-o", "v")
    assert "TTMatrix" in result.stdout
    assert isinstance(ttnet.load("v"), TTMatrix)


@pytest.mark.parametrize(("name", "start"), [("x.png", b"\x89PNG"), ("x.SVG", b"<?xml"), ("x.pdf", b"%PDF")])
def test_pictures(run, tmp_path, name, start):
    ttnet.random((6, 6, 6), 3, seed=0).save("x")
    result = run("plot", "x", "-o", name)
    assert result.exit_code == 0, result.output
    assert "(1, 3, 3, 1)" in result.stdout
    assert (tmp_path / name).read_bytes().startswith(start)


def test_ranks_on_the_command_line(run):
    np.save("x.npy", sine())
    assert "(1, 1, 2, 1)" in run("decompose", "x.npy", "--max-rank", "1,2", "-o", "x").stdout
    assert "(1, 1, 1, 1)" in run("decompose", "x.npy", "--max-rank", "1", "-o", "x", "--force").stdout


def test_zeros_matrices_and_half_precision(run):
    np.save("x.npy", np.zeros((2, 3)))
    assert run("decompose", "x.npy", "-o", "x").stdout.split("relative error")[1].split()[0] == "0"
    TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3)).to(torch.bfloat16).save("w")
    assert "(2, 3) x (2, 3)" in run("info", "w").stdout
    assert run("reconstruct", "w", "-o", "w.npy").exit_code == 0
    assert np.array_equal(np.load("w.npy"), np.eye(6, dtype=np.float32))


def test_linear_systems(run):
    a, b = operators.laplace((8, 8, 8)), ttnet.ones((8, 8, 8), dtype=torch.float64)
    a.save("A.safetensors")
    b.save("b.safetensors")
    result = run("solve", "A.safetensors", "b.safetensors", "-o", "x.safetensors", "--tol", "1e-8")
    assert result.exit_code == 0, result.output
    x = ttnet.load("x.safetensors")
    residual = float((b - a @ x).norm() / b.norm())
    assert residual <= 1e-8
    assert float(result.stdout.split("residual")[1].split()[0]) == pytest.approx(residual, rel=1e-2)
    result = run("solve", "A.safetensors", "b.safetensors", "-o", "y.safetensors", "--max-rank", "2")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: MAX_RANK: Ranks have reached max_rank")
    assert max(ttnet.load("y.safetensors").ranks) == 2


def test_eigenpairs(run):
    h = operators.heisenberg(6)
    h.save("H.safetensors")
    expected = torch.linalg.eigvalsh(h.full())
    result = run("eig", "H.safetensors", "-k", "2", "-o", "v.safetensors")
    assert result.exit_code == 0, result.output
    told = result.stdout.split("eigenvalues")[1].split("\n")[0].split(",")
    assert [float(text) for text in told] == pytest.approx(expected[:2].tolist())
    for k in (1, 2):
        v = ttnet.load(f"v-{k}.safetensors")
        assert float(v.dot(h @ v)) == pytest.approx(float(expected[k - 1]))
    result = run("eig", "H.safetensors", "--which", "LA", "-o", "top.safetensors")
    assert float(result.stdout.split("eigenvalues")[1].split()[0]) == pytest.approx(float(expected[-1]))
    assert ttnet.load("top.safetensors").shape == (2,) * 6
    assert "eigenvalues" in run("eig", "H.safetensors").stdout
    assert "v-1.safetensors' exists" in run("eig", "H.safetensors", "-k", "2", "-o", "v.safetensors").stderr
    result = run("eig", "H.safetensors", "--max-sweeps", "1")
    assert result.exit_code == 1
    assert "MAX_SWEEPS" in result.stderr


def test_vast_trains(run):
    ttnet.ones((4,) * 1000).save("big")
    assert "about 10^602" in run("info", "big").stdout
    result = run("reconstruct", "big", "-o", "big.npy")
    assert result.exit_code == 1
    assert "about 10^602 entries, more than this machine's memory" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("decompose none.npy -o y", "There is no file 'none.npy'; check the path."),
        ("decompose text.npy -o y", "'text.npy' is not a whole .npy file of numbers"),
        ("decompose short.npy -o y", "'short.npy' is not a whole .npy file of numbers"),
        ("decompose masked.npy -o y", "'masked.npy' is not a whole .npy file of numbers"),
        ("decompose object.npy -o y", "'object.npy' is not a whole .npy file of numbers"),
        ("decompose many.npz -o y", "'many.npz' is an archive of arrays"),
        ("decompose nan.npy -o y", "NaN or infinite entries, 1 of 2"),
        ("decompose strings.npy -o y", "has dtype <U1"),
        ("decompose x.npy -o x.npy", "'x.npy' exists; give --force to replace it"),
        ("decompose x.npy -o no/y", "There is no folder 'no'; create it first."),
        ("decompose x.npy -o .", "'.' is a folder"),
        ("decompose x.npy -o y --eps=-1", "eps is -1.0"),
        ("decompose x.npy -o y --max-rank 2,a", "--max-rank is '2,a'; expected an int"),
        ("info none", "There is no file 'none'"),
        ("info x.npy", "'x.npy' is an array file of numpy's, not a train"),
        ("info text.npy", "'text.npy' is not a whole safetensors file"),
        ("reconstruct x.npy -o y", "'x.npy' is an array file of numpy's, not a train"),
        ("reconstruct x.npy -o x.npy", "'x.npy' exists"),
        ("round one -o y --eps=-1", "eps is -1.0"),
        ("round one -o y --max-rank a", "--max-rank is 'a'"),
        ("round none -o y", "There is no file 'none'"),
        ("round x.npy -o x.npy", "'x.npy' exists"),
        ("solve one one -o y", "'one' holds a train; expected a TT-matrix, the operator, and then a train."),
        ("solve eye eye -o y", "'eye' holds a TT-matrix; expected a train, the right-hand side."),
        ("solve eye zeros -o y", "b has shape (3, 3) but A has modes (3,)"),
        ("solve eye one -o y --tol 0", "tol is 0.0; expected a number above 0 and below 1"),
        ("solve eye none -o y", "There is no file 'none'"),
        ("eig one", "'one' holds a train; expected a TT-matrix."),
        ("eig eye -k 9", "k is 9; expected at most 3"),
        ("eig eye -o x.npy", "'x.npy' exists"),
        ("plot one -o y.gif", "--output is 'y.gif'; expected a name that ends in .png, .svg or .pdf"),
        ("plot one -o y", "--output is 'y'"),
        ("plot one -o y.png", "tt has order 1; expected at least 2"),
        ("plot zeros -o y.png", "tt is zero, and so are all its singular values"),
        ("plot x.npy -o x.npy", "'x.npy' exists"),
    ],
)
def test_errors_are_one_sentence(run, tmp_path, arguments, message):
    np.save("x.npy", sine())
    np.save("nan.npy", np.array([1, np.nan]))
    np.save("object.npy", np.array([{}], dtype=object))
    np.save("strings.npy", np.array(["a"]))
    np.savez("many.npz", x=sine())
    with pytest.raises(NotImplementedError):  # and leaves the file without its entries
        np.save("masked.npy", np.ma.masked_array(sine()))
    ttnet.ones((3,)).save("one")
    ttnet.eye((3,)).save("eye")
    ttnet.zeros((3, 3)).save("zeros")
    (tmp_path / "text.npy").write_text("Not numbers.")
    (tmp_path / "short.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:500])
    result = run(*arguments.split())
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_version(run):
    assert run("--version").stdout.startswith("ttnet 0.")


def test_a_full_disk_and_too_little_memory(run, monkeypatch):
    np.save("x.npy", sine())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = run("decompose", "x.npy", "-o", "y")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in result.stderr

    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr("ttnet.decomposition.tt_svd", out_of_memory)
    result = run("decompose", "x.npy", "-o", "y")
    assert result.exit_code == 1
    assert "more memory" in result.stderr


def test_wrong_usage_is_code_2(run):
    assert run("decompose", "x.npy").exit_code == 2
    assert run("decompose", "x.npy", "-o", "y", "--eps", "small").exit_code == 2
    assert run("dance").exit_code == 2


def test_main_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "typer", None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert str(stop.value).endswith("run: pip install 'ttnet-torch[cli]'")


def test_extras(tmp_path, monkeypatch):
    with pytest.raises(MissingExtraError, match="pip install 'ttnet-torch\\[plot\\]'") as caught:
        import_extra("no_such_package.part", extra="plot")
    assert isinstance(caught.value, ImportError)
    # A package that is there but broken is not mended by an extra.
    (tmp_path / "broken_package.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_extra("broken_package", extra="plot")


@pytest.mark.parametrize("memory", [[], ["--memory", "0.001"]])
def test_decompose_an_array_in_fortran_order(run, memory):
    x = ttnet.random((80, 60, 50), 2, seed=0).full()
    np.save("x.npy", np.asfortranarray(x.numpy()))
    result = run("decompose", "x.npy", "--eps", "1e-3", "-o", "x.safetensors", *memory)
    assert result.exit_code == 0, result.output
    assert (ttnet.load("x.safetensors").full() - x).norm() <= 1e-3 * x.norm()


def test_decompose_an_array_in_slabs(run):
    np.save("x.npy", ttnet.random((80, 60, 50), 2, seed=0).full().numpy())
    where = ("-o", "x.safetensors")
    result = run("decompose", "x.npy", "--eps", "1e-3", "--memory", "0.001", "--checkpoint", "passes", *where)
    assert result.exit_code == 0, result.output
    assert ttnet.load("x.safetensors").ranks == (1, 2, 2, 1)
    result = run("decompose", "x.npy", "--memory", "1e-9", *where, "--force")
    assert result.exit_code == 1
    assert "memory is 1 bytes" in result.output


def test_it_starts_as_a_module_too():
    done = subprocess.run([sys.executable, "-m", "ttnet.cli", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "ttnet")
