"""The disk space that a run needs, by hand, and the errors if there is less."""

from types import SimpleNamespace

import pytest
import torch

from engine.errors import RunError
from engine.run.disk_space import DiskNeeds, check_disk, disk_needs, format_bytes, free_bytes, write_failure


def model(frozen=False):
    """Return a model of 100 weights, or of 100 trained and 300 frozen ones."""
    layers = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 30, bias=False))
    layers[1].requires_grad_(False)
    return layers if frozen else layers[0]


@pytest.mark.parametrize(
    ("optimizer", "checkpoint"), [(torch.optim.AdamW, 1200), (torch.optim.Adam, 1200), (torch.optim.SGD, 400)]
)
def test_weights_and_adam_moments_take_four_bytes_each(optimizer, checkpoint):
    plain = model()
    assert disk_needs([(plain, optimizer(plain.parameters(), lr=1))]) == DiskNeeds(checkpoint, 400)


def test_frozen_weights_are_counted_only_in_a_merged_model():
    adapted = model(frozen=True)
    trained = [(adapted, SimpleNamespace(optimizer=torch.optim.AdamW(adapted[0].parameters())))]
    assert disk_needs(trained) == DiskNeeds(1200, 400)
    assert disk_needs(trained, merged=True) == DiskNeeds(1200, 1600)
    assert disk_needs([*trained, *trained]) == DiskNeeds(2400, 800)


@pytest.mark.parametrize(
    ("resumes", "free", "fits"), [(False, 1600, True), (False, 1599, False), (True, 1200, True), (True, 1199, False)]
)
def test_space_is_needed_for_a_checkpoint_and_the_model(tmp_path, monkeypatch, resumes, free, fits):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=10**6, free=free))
    if fits:
        check_disk(DiskNeeds(1200, 400), tmp_path, tmp_path, resumes)
        return
    with pytest.raises(
        RunError, match=r"^run\.dir: (a|the next) checkpoint (and|or) the finished model takes? about 1\."
    ) as error:
        check_disk(DiskNeeds(1200, 400), tmp_path, tmp_path, resumes)
    advice = f"move {tmp_path} to another disk and name it" if resumes else "name a folder on another disk"
    assert str(error.value).endswith(f"; make room, or {advice} as run.dir")


def test_a_local_disk_needs_space_for_a_checkpoint(tmp_path, monkeypatch):
    local = tmp_path / "local"
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: SimpleNamespace(total=1, free=1000 if path == local else 9999)
    )
    local.mkdir()
    with pytest.raises(RunError) as error:
        check_disk(DiskNeeds(2048, 400), tmp_path, local, resumes=False)
    assert str(error.value) == (
        f"run.local_dir: a checkpoint takes about 2.0 KiB, and {local} has 1000.0 B free; make room, or name a "
        "folder on another disk as run.local_dir"
    )


def test_a_file_system_without_a_size_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=0, free=0))
    assert free_bytes(tmp_path / "not" / "there" / "yet") is None
    check_disk(DiskNeeds(1 << 50, 1 << 50), tmp_path, tmp_path, resumes=False)


@pytest.mark.parametrize(
    ("error", "free", "why"),
    [
        (OSError(28, "No space left on device"), 0,
         "[Errno 28] No space left on device; a checkpoint takes about 3.0 GiB"),
        (OSError(30, "Read-only file system"), 9 << 30, "[Errno 30] Read-only file system"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), 4096,
         "No space left on device; a checkpoint takes about 3.0 GiB"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), 9 << 30,
         "torch's writer failed; a checkpoint takes about 3.0 GiB"),
    ],
)  # fmt: skip
def test_the_reason_of_a_write_failure(tmp_path, monkeypatch, error, free, why):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1 << 40, free=free))
    assert write_failure(error, tmp_path, DiskNeeds(3 << 30, 0)) == why


def test_bytes_are_formatted_in_binary_units():
    assert [format_bytes(count) for count in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0.0 B", "1023.0 B", "1.5 KiB", "5.0 MiB", "3072.0 GiB",
    ]  # fmt: skip
