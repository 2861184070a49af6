"""JSON read in blocks gives the same records and errors as JSON read at once, for blocks of any size."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import RecipeError
from engine.data import json_files
from engine.data.json_files import json_records

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=1, max_size=5)


@pytest.fixture(autouse=True, scope="module")
def blocks():
    """Restore the size of a block, which the tests set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "BLOCK_BYTES", json_files.BLOCK_BYTES)
        yield


def read(text, block):
    json_files.BLOCK_BYTES = block
    try:
        return list(json_records("a.json", io.BytesIO(text.encode())))
    except RecipeError as error:
        return str(error)


@given(RECORDS, st.integers(1, 40), st.sampled_from([None, 0, 20]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_list_is_read_the_same_in_blocks_of_any_size(records, block, indent, ascii_only):
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    found = read(text, block)
    assert [record for _, record in found] == records
    if indent == 0:
        lines = [int(where.rpartition(":")[2]) for where, _ in found]
        assert all(text.split("\n")[line - 1].startswith("{") for line in lines)
        assert lines == sorted(set(lines))


@given(RECORDS, st.data())
@settings(max_examples=200, deadline=None)
def test_the_error_of_a_broken_list_is_the_same_in_blocks_of_any_size(records, data):
    text = json.dumps(records, indent=data.draw(st.sampled_from([None, 1])))
    at = data.draw(st.integers(1, len(text) - 1))
    broken = text[:at] + data.draw(st.sampled_from(["", "}", "]", ",", "x", '"', "\n"])) + text[at + 1 :]
    whole = read(broken, 1 << 20)
    assert read(broken, data.draw(st.integers(1, 40))) == whole


@given(RECORDS, st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_a_record_over_several_lines_is_read_in_blocks_of_any_size(records, block):
    assert read(json.dumps(records[0], indent=2), block) == [("a.json:1", records[0])]
