"""Files into and out of a session."""

import pytest

from sandbox import Limits, SandboxError

ODD = ["a b", "-rf", "new\nline", "é", "%s{}", "sub/dir/file", ".hidden", "x" * 255, "quote'\"", "\udcff"]


def test_files_are_there_before_the_first_block(box):
    files = {name: f"content {number}".encode() for number, name in enumerate(ODD)}
    with box.session(files) as session:
        for number, name in enumerate(ODD):
            assert session.run(f"open({name!r}).read()").value == f"'content {number}'"
        assert session.take("**/*", 10_000) == files


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a\0b", "."])
def test_file_names_that_are_refused(best_box, name):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        best_box.session({name: b""})
    assert str(error.value) == f"file name {name!r}: use a relative path without '..'"


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"a": b"", "a/b": b""}, "FileExistsError: [Errno 17] File exists"),
        ({"x" * 256: b""}, "OSError: [Errno 36] File name too long"),
        ({"large": bytes(2000)}, "OSError: [Errno 27] File too large"),
    ],
)
def test_files_that_cannot_be_written(best_box, files, cause):
    with pytest.raises(SandboxError) as error:
        best_box.session(files, Limits(file=1000))
    assert str(error.value).startswith(f"the files of the session could not be written: {cause}")


def test_what_matches_is_taken(session):
    code = "import os\nos.mkdir('sub')\nfor name in ('a.csv', 'b.txt', 'sub/c.csv'): "
    session.run(code + "open(name, 'wb').write(b'\\0' + name.encode())")
    assert session.take("*.csv", 100) == {"a.csv": b"\0a.csv"}
    assert session.take("**/*.csv", 100) == {"a.csv": b"\0a.csv", "sub/c.csv": b"\0sub/c.csv"}
    assert session.take("nothing", 100) == {}
    session.run("os.chdir('sub')")
    assert session.take("b.txt", 100) == {"b.txt": b"\0b.txt"}  # of the session's folder, wherever the code is


def test_links_and_special_files_are_left_out(session):
    code = "import os\nopen('file', 'w').write('x')\nos.mkdir('folder')\nopen('folder/inner', 'w').write('y')\n"
    code += "os.symlink('file', 'link')\nos.symlink('/etc/passwd', 'outside')\nos.symlink('folder', 'way')\n"
    code += "os.symlink('/usr/lib', 'lib')\nos.mkfifo('fifo') if os.getppid() == 1 else None"
    session.run(code)
    assert session.take("*", 100) == {"file": b"x"}
    assert session.take("*/*", 100) == {"folder/inner": b"y"}


def test_the_limit_of_bytes(session):
    session.run("open('a', 'w').write('x' * 10)\nopen('b', 'w').write('x' * 10)")
    assert len(session.take("*", 20)) == 2
    with pytest.raises(SandboxError) as error:
        session.take("*", 19)
    assert str(error.value) == "the files * have more than 19 bytes; take fewer, or allow more"
    with pytest.raises(ValueError, match=r"^max_bytes=33554433: must be between 0 and 33,554,432$"):
        session.take("*", 2**25 + 1)
    assert session.take("a", 10) == {"a": b"x" * 10}


def test_the_largest_take(session):
    session.run("open('a', 'w').write('x' * 2**25)")
    assert session.take("a", 2**25) == {"a": b"x" * 2**25}


@pytest.mark.parametrize("pattern", ["", "/etc/*", "../*", "a/../../*", "a\0"])
def test_patterns_that_are_refused(session, pattern):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        session.take(pattern, 100)
    assert str(error.value) == f"pattern {pattern!r}: use a relative path without '..'"


def test_a_pattern_that_pathlib_refuses_leaves_the_session(session):
    session.run("x = 1")
    with pytest.raises(SandboxError, match=r"^ValueError: Invalid pattern"):
        session.take("a**/b", 100)
    assert session.run("x").value == "1"


def test_a_file_that_cannot_be_read_is_reported(best_box):
    if best_box.level != "namespaces":
        pytest.skip("chmod has no effect at level landlock")
    with best_box.session() as session:
        session.run("import os\nopen('a', 'w').write('x')\nos.chmod('a', 0)")
        with pytest.raises(SandboxError, match=r"^PermissionError: \[Errno 13\] Permission denied"):
            session.take("a", 100)
        assert session.run("1").value == "1"


@pytest.mark.parametrize(
    "reply",
    [
        "{}",
        "{'files': []}",
        "{'files': {'a': 5}}",
        "{'files': {'../a': ''}}",
        "{'files': {'/a': ''}}",
        "{'files': {'.': ''}}",
        "{'files': {'a\\0': ''}}",
        "{'files': {'a': 'a'}}",
        "{'files': {'a': 'AAAA' * 100}}",
    ],
)
def test_hostile_answers(best_box, reply):
    with best_box.session() as session:
        session.run(f"import sandbox.files\nsandbox.files.read = lambda *_: {reply}")
        with pytest.raises(SandboxError) as error:
            session.take("*", 100)
        assert str(error.value) == "the session sent something that is no file, and was closed"
        assert session.is_over
