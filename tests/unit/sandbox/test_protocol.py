"""Messages of the pipe, and the checks of replies."""

import base64
import json
import os

import pytest

from sandbox.protocol import LARGEST, MOST_ITEMS, ProtocolError, Reader, encode, receive, send
from sandbox.session import _is_inside, _named, _result

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()
GOOD = {"ok": True, "value": "1", "images": [PNG]}


def read(data: bytes, step: int | None = None) -> list[dict]:
    reader, found = Reader(), []
    for start in range(0, len(data), step or len(data) or 1):
        reader.feed(data[start : start + (step or len(data))])
        while (message := reader.next()) is not None:
            found.append(message)
    return found


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def test_a_message_is_its_length_and_json():
    assert encode({"a": "é"}) == b'\x00\x00\x00\x0f{"a": "\\u00e9"}'


@pytest.mark.parametrize("step", [1, 3, 7, None])
def test_messages_are_put_together_from_pieces(step):
    messages = [{"id": 1}, {}, {"text": "x" * 20}]
    assert read(b"".join(map(encode, messages)), step) == messages


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xff\xff\xff\xff", "a message of 4,294,967,295 bytes; the most is 67,108,864"),
        (framed(b"{"), "no JSON: "),
        (framed(b"\xff\xfe"), "no JSON: "),
        (framed(b"[]"), "no JSON object"),
        (framed(b"1"), "no JSON object"),
        (framed(b'{"a":' * 100_000), "no JSON: "),
        (framed(b'{"a": ' + b"1" * 5000 + b"}"), "no JSON: "),
        (framed(b'{"a": [' + b"{}," * 1_000_001 + b"1]}"), "a message of about 2,000,004 items; the most is 2,000,000"),
    ],
    ids=["length", "half", "bytes", "list", "number", "deep", "digits", "items"],
)
def test_what_is_no_message(data, error):
    with pytest.raises(ProtocolError, match=f"^{error}"):
        read(data)


def test_what_is_too_large_is_not_sent():
    with pytest.raises(ValueError, match=r"^a message of 67,108,876 bytes; the most is 67,108,864$"):
        encode({"a": "x" * (LARGEST + 1 - len('{"a": ""}') + 11)})
    with pytest.raises(ValueError, match="items"):
        encode({"a": [0] * (MOST_ITEMS + 1)})


def test_send_and_receive():
    ours, theirs = os.pipe()
    send(theirs, {"a": 1})
    os.write(theirs, b"\0\0")
    os.close(theirs)
    assert receive(ours) == {"a": 1}
    assert receive(ours) is None  # half a header
    os.close(ours)


def test_a_good_reply():
    result = _result(GOOD | {"error": "E", "traceback": "T"})
    assert (result.ok, result.value, result.error, result.traceback) == (True, "1", "E", "T")
    assert result.images == (b"\x89PNG\r\n\x1a\nrest",)


@pytest.mark.parametrize(
    "change",
    [
        {"ok": 1},
        {"ok": None},
        {"value": 5},
        {"error": ["E"]},
        {"traceback": "x" * 200_001},
        {"images": None},
        {"images": {}},
        {"images": [5]},
        {"images": ["é"]},
        {"images": ["a"]},
        {"images": [base64.b64encode(b"GIF89a").decode()]},
    ],
    ids=json.dumps,
)
def test_a_reply_of_the_wrong_shape(change):
    with pytest.raises(ProtocolError):
        _result(GOOD | change)


@pytest.mark.parametrize("path", ["a", "a/b", "**/*", "./a", "-x", "a\nb", "..a"])
def test_paths_inside(path):
    assert _is_inside(path)


@pytest.mark.parametrize("path", ["", ".", "/", "/a", "..", "a/../b", "a\0", "./"])
def test_paths_that_are_not_inside(path):
    assert not _is_inside(path)


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "0"), (3, "3"), (-11, "-11 (SIGSEGV)"), (139, "139 (SIGSEGV)"), (128, "128"), (250, "250"), (None, "None")],
)
def test_exit_codes_name_their_signal(code, text):
    assert _named(code) == text
