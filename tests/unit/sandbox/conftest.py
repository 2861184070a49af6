"""A sandbox for each module of tests, at each level that this machine has."""

import os

import pytest

from sandbox import NoIsolationError, Sandbox


def started(level, preload=()):
    """Return a sandbox; skip the test if this machine does not have the level."""
    try:
        return Sandbox(level, preload)
    except NoIsolationError as error:
        pytest.skip(str(error))


def is_busy():
    """Return whether other programs, or other tests, may keep a process waiting for a processor."""
    return "PYTEST_XDIST_WORKER" in os.environ or os.getloadavg()[0] > len(os.sched_getaffinity(0))


@pytest.fixture(scope="module", params=("namespaces", "landlock"))
def box(request):
    """A sandbox at each level, without preloaded modules."""
    with started(request.param) as box:
        yield box


@pytest.fixture(scope="module")
def best_box():
    """A sandbox at the best level, without preloaded modules."""
    with started("auto") as box:
        yield box


@pytest.fixture
def session(box):
    with box.session() as session:
        yield session
