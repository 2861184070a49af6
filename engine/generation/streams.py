"""Random streams: each random number depends only on the token that it is for.

The number for token t of response k to query q, at draw attempt a, is a hash of (seed, purpose, q, k, t, a) and of
nothing else, so batch size, order, finished rows and the number of ranks do not change it. A stream fixes the first two
coordinates: the seed, and a purpose, which is a training step or a name.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

# splitmix64's constants as signed 64-bit integers; their arithmetic wraps around like that of unsigned integers.
GOLDEN, MIX_1, MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = x + GOLDEN
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def uniform(*coordinates: torch.Tensor | int) -> torch.Tensor:
    """Return uniform numbers in [0, 1), float64, in the shape of the coordinates (ints, or int64 tensors of one shape).

    The coordinates are hashed one after the other with splitmix64 (Steele, Lea & Flood 2014).
    """
    state = torch.zeros((), dtype=torch.int64)
    for coordinate in coordinates:
        coordinate = torch.as_tensor(coordinate, dtype=torch.int64)
        state = _mix(state.to(coordinate.device) ^ coordinate)
    return _shift_right(state, 11).double() * 2.0**-53


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of one purpose: the same (query, response, token, attempt) always has the same number."""

    seed: int
    purpose: int
    """a training step, which is not negative, or the hash of a name, which is negative"""

    @classmethod
    def of_step(cls, seed: int, step: int) -> "RandomStream":
        """Return the stream of a training step's rollout; steps are counted from 1."""
        return cls(seed, step)

    @classmethod
    def named(cls, seed: int, *names: str | int) -> "RandomStream":
        """Return the stream of a named purpose, such as ("heldout",) or ("candidates", 3).

        It shares no coordinate with any training step: a name's hash has the sign bit set, and steps are not negative.
        """
        digest = hashlib.blake2b(json.dumps(names).encode(), digest_size=8).digest()
        return cls(seed, int.from_bytes(digest) % 2**63 - 2**63)

    def uniform(
        self, queries: torch.Tensor | int, responses: torch.Tensor | int, token: int, attempt: int
    ) -> torch.Tensor:
        """Return uniform numbers in [0, 1), float64, in the shape of `queries` and `responses` (int64, one shape)."""
        return uniform(self.seed, self.purpose, queries, responses, token, attempt)

    def at_token(
        self, queries: torch.Tensor, responses: torch.Tensor, token: int
    ) -> Callable[[torch.Tensor, int], torch.Tensor]:
        """Return the numbers of one token position as a function of (rows, attempt), which `draw_token` takes.

        `queries` and `responses` are (batch,) int64; the function's `rows` are indices into them.
        """

        def numbers(rows: torch.Tensor, attempt: int) -> torch.Tensor:
            return self.uniform(queries[rows], responses[rows], token, attempt)

        return numbers

    def generator_seed(self, query: int) -> int:
        """Return a seed for another library's random generator, for a batch that starts with `query`."""
        return int(float(uniform(self.seed, self.purpose, query)) * 2**62)
