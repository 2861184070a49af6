"""What a candidate sends in place of an answer fails its own check, and no other."""

import pytest

from sandbox import Problem, check, check_all
from sandbox.protocol import encode

# Finds the pipe of replies, and writes a message of its own to it as soon as the names are asked for.
FORGE = """
import json, os, struct
class Forger:
    def __getattribute__(self, name):
        body = MESSAGE
        data = struct.pack(">I", len(body)) + body
        while data:
            data = data[os.write(4, data):]
        return object.__getattribute__(self, name)
f = Forger()
"""
LARGE = """json.dumps({"names": {"f": "\u00e9" * (30 << 20)}, "id": 4}, ensure_ascii=False).encode()"""


def test_a_forged_answer_ends_no_other_check(best_box):
    """It has 60 MiB, and three times as much when it is encoded anew."""
    right = "def f(k): return k"
    forged = Problem("1", FORGE.replace("MESSAGE", LARGE), "assert f(1) == 1", right)
    honest = Problem("2", right, "assert f(1) == 1", right)
    verdicts = check_all([forged, honest], 20, box=best_box)
    assert [verdict.passed for verdict in verdicts] == [False, True]
    assert verdicts[0].error.startswith("a message of ")


def test_a_message_that_is_nested_too_deeply_is_refused():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ValueError, match="a message that is nested too deeply"):
        encode({"value": nested})


@pytest.mark.parametrize(
    "tests",
    [
        "assert all(map(lambda case: f(case) == case, [1, 2]))",
        "assert list(map(f, [1, 2])) == []",
        "for _ in map(f, [1, 2]): pass",
    ],
)
def test_stop_iteration_does_not_end_the_loops_of_the_tests(best_box, tests):
    verdict = check("def f(k): raise StopIteration", tests, 5, box=best_box)
    assert (verdict.passed, verdict.error) == (False, "RuntimeError: the candidate raised StopIteration")


def test_an_iterator_of_the_candidate_may_end(best_box):
    assert check("def f(): yield 1", "assert list(f()) == [1]", 5, box=best_box).passed
