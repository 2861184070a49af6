"""The function of eval.obeys: loading it, and checking its results."""

import numpy as np
import pytest

from engine.errors import RunError
from engine.scoring.obedience import load_obeys

HERE = "tests.unit.engine.scoring.test_obedience"


def of_the_record(record, answer):
    return record["returned"]


def answer_alone(answer):
    return True


@pytest.mark.parametrize(
    ("returned", "obeyed"),
    [(True, 1.0), (False, 0.0), (np.bool_(True), 1.0), (1, 1.0), (0.25, 0.25), (np.float32(0.5), 0.5)],
)
def test_booleans_and_numbers_from_0_to_1_are_accepted(returned, obeyed):
    found = load_obeys(f"{HERE}:of_the_record", "eval.obeys")({"returned": returned}, "Yes.")
    assert (found, type(found)) == (obeyed, float)


@pytest.mark.parametrize("returned", [None, "yes", 1.5, -0.5, float("nan"), {"obeyed": 1}, np.array([True])])
def test_other_results_are_refused(returned):
    with pytest.raises(RunError) as error:
        load_obeys(f"{HERE}:of_the_record", "eval.obeys")({"returned": returned}, "Yes.")
    assert str(error.value) == (
        f"eval.obeys={HERE}:of_the_record returned {returned!r}; it must return true, false or a number from 0 to 1"
    )


def test_a_failing_function_and_another_signature_are_reported():
    with pytest.raises(RunError) as error:
        load_obeys(f"{HERE}:of_the_record", "eval.obeys")({}, "Yes.")
    assert str(error.value) == f"eval.obeys={HERE}:of_the_record failed on the answer 'Yes.': KeyError: 'returned'"
    with pytest.raises(RunError) as error:
        load_obeys(f"{HERE}:answer_alone", "eval.obeys")
    assert str(error.value) == (
        f"eval.obeys={HERE}:answer_alone is answer_alone(answer), but is called with (record, answer): too many "
        "positional arguments; write def answer_alone(record, answer)"
    )
