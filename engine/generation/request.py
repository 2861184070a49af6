"""What is asked of a model or an engine, and what comes back."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.generation.streams import RandomStream


@dataclass(frozen=True)
class GenerationRequest:
    """Prompts, and how many responses to generate to each."""

    prompts: Sequence[Sequence[int]]
    """token ids, at least one a prompt"""
    query_ids: Sequence[int]
    """one a prompt: its number in the random stream, the same in whatever batch or rank the prompt is"""
    responses: int
    """responses to each prompt"""
    stream: RandomStream
    record_supports: bool = False
    """whether to return the set of ids that each token was drawn from"""


@dataclass(frozen=True)
class Response:
    """The tokens of one response, its end token included if it has one."""

    tokens: list[int]
    ended: bool
    """whether it ends with the end token; else it reached the length limit, or stopped at another stop token"""
    logprobs: list[float] | None = field(default=None, compare=False)
    """nats, of each token, as the engine computed them at its temperature: of the whole distribution, or within
    `supports` where those were recorded. They differ by rounding from batch to batch. None where the engine does not
    return log-probabilities of these distributions"""
    supports: list[array] | None = None
    """for each token the ids it was drawn from, if the request asked for them"""
