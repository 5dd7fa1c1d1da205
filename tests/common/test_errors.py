from __future__ import annotations

import pickle

import pytest

from common.errors import CaseError, Code, ConfigError, FederationError, FedradError, GateError, StateError


@pytest.mark.parametrize(
    "error",
    [
        CaseError("p1", "is bad", code=Code.ROI_EMPTY),
        CaseError("p1", "is bad"),
        ConfigError("study.toml", ["one", "two"]),
        GateError("no", code=Code.SMALL_CELL),
        StateError("damaged"),
        FederationError("silent"),
    ],
)
def test_an_error_survives_the_way_from_another_process(error: FedradError):
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.code, vars(back)) == (type(error), str(error), error.code, vars(error))


def test_every_error_has_a_code_of_the_list_and_the_sentence_is_not_it():
    for kind in FedradError.__subclasses__():
        assert isinstance(kind.default_code, Code)
    assert str(CaseError("p1", "is bad")) == "case p1: is bad"
    assert CaseError("p1", "is bad").code == Code.CASE_INVALID
