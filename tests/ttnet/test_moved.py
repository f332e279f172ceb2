import sys

import pytest

import ttnet
import ttnet_llm  # noqa: F401 (for its old names)
from ttnet.moved import _Former, keep_old_names

OLD = [
    (module, name)
    for module, former in list(sys.modules.items())
    if isinstance(former, _Former)
    for name in former.places
]


def test_there_are_old_names():
    assert {("ttnet.tensor_train", "TensorTrain"), ("ttnet_llm.train_matrix", "TrainMatrix")} <= set(OLD)


@pytest.mark.parametrize(("module", "name"), OLD)
def test_old_names_lead_to_classes(module, name):
    assert isinstance(getattr(sys.modules[module], name), type)


def test_old_modules_are_imported_as_ever():
    from ttnet.tensor_train import TensorTrain

    assert TensorTrain is ttnet.TensorTrain
    with pytest.raises(ImportError, match=r"cannot import name 'full' from 'ttnet\.tensor_train'"):
        from ttnet.tensor_train import full  # noqa: F401


def test_modules_that_never_were_are_not_there():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'ttnet\.tensor_trains'"):
        import ttnet.tensor_trains  # noqa: F401


def test_a_second_list_of_names_adds_to_the_first(monkeypatch):
    monkeypatch.setitem(sys.modules, "ttnet.attic", None)
    keep_old_names({"ttnet.attic.A": "ttnet.errors.TTError"})
    keep_old_names({"ttnet.attic.B": "ttnet.errors.TTFileError"})
    from ttnet.attic import A, B

    assert A is ttnet.TTError
    assert B is ttnet.TTFileError
