"""Random streams: numbers are a function of their coordinates only, and no two streams share numbers."""

import torch

from engine.generation.streams import RandomStream, uniform


def test_known_values_of_splitmix64():
    # The first output of the published generator for seed 1234567 (its own reference sequence), as a fraction.
    first = 6457827717110365317
    assert uniform(1234567).item() == (first >> 11) * 2.0**-53


def test_a_number_depends_on_its_own_coordinates_only():
    queries = torch.arange(100)
    all_numbers = uniform(7, 3, queries, 2, 5, 0)
    assert torch.equal(all_numbers[40:60], uniform(7, 3, queries[40:60], 2, 5, 0))
    for other in (
        (8, 3, queries, 2, 5, 0),
        (7, 4, queries, 2, 5, 0),
        (7, 3, queries, 1, 5, 0),
        (7, 3, queries, 2, 5, 1),
    ):
        assert not torch.equal(all_numbers, uniform(*other))


def test_numbers_are_uniform_over_the_queries():
    numbers = uniform(0, 1, torch.arange(20000), 0, 0, 0)
    assert 0 <= numbers.min() < numbers.max() < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_the_numbers_of_a_step_have_not_changed():
    """Other numbers would change the result of every existing PPO recipe."""
    stream = RandomStream.of_step(seed=7, step=3)
    queries, responses = torch.tensor([0, 41]), torch.tensor([1, 0])
    assert stream.uniform(queries, responses, 5, 0).tolist() == [0.31388586315243183, 0.8894430792140093]
    assert torch.equal(stream.uniform(queries, responses, 5, 0), uniform(7, 3, queries, responses, 5, 0))


def test_the_numbers_of_a_named_stream_have_not_changed():
    """They are equal in every process and version, unlike Python's hash() of a string."""
    stream = RandomStream.named(7, "candidates", 3)
    assert (stream.purpose, stream.uniform(0, 1, 5, 0).item()) == (-1493334469236515124, 0.652141122977471)


def test_different_streams_have_different_numbers():
    streams = [
        *(RandomStream.of_step(7, step) for step in (0, 1, 2, 10**6)),
        *(RandomStream.named(7, *names) for names in NAMES),
        RandomStream.named(8, "eval"),
    ]
    queries = torch.arange(50)
    numbers = [stream.uniform(queries, torch.zeros_like(queries), 0, 0) for stream in streams]
    assert len({tuple(row.tolist()) for row in numbers}) == len(streams)


NAMES = [
    ("eval",),
    ("heldout",),
    ("tags",),
    ("candidates", 0),
    ("candidates", 1),
    ("candidates", "1"),
    ("candidates1",),
]


def test_a_named_stream_never_equals_a_step():
    """Steps are not negative, and the hash of a name always is."""
    assert all(-(2**63) <= RandomStream.named(0, *names).purpose < 0 for names in [*NAMES, *zip(range(1000))])


def test_numbers_of_rows_of_a_batch_are_those_of_their_coordinates():
    stream = RandomStream.of_step(0, 1)
    queries, responses = torch.tensor([3, 3, 8]), torch.tensor([0, 1, 0])
    numbers = stream.at_token(queries, responses, 4)
    rows = torch.tensor([2, 0])
    assert torch.equal(numbers(rows, 2), stream.uniform(torch.tensor([8, 3]), torch.tensor([0, 0]), 4, 2))


def test_generator_seeds_differ_by_step_and_query():
    seeds = {RandomStream.of_step(0, step).generator_seed(query) for step in (1, 2) for query in (0, 1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**62 for seed in seeds)
