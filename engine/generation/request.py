"""The request to a model or an engine for responses, and the responses that it returns."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.generation.streams import RandomStream


@dataclass(frozen=True)
class GenerationRequest:
    """Prompts, and how many responses to generate for each."""

    prompts: Sequence[Sequence[int]]
    """token ids, at least one per prompt"""
    query_ids: Sequence[int]
    """one per prompt: its number in the random stream, whatever the batch or rank of the prompt"""
    responses: int
    """number of responses per prompt"""
    stream: RandomStream
    record_supports: bool = False
    """whether to return the set of ids that each token was drawn from"""


@dataclass(frozen=True)
class Response:
    """The token ids of one response, including its end token if it has one."""

    tokens: list[int]
    ended: bool
    """whether it ends with the end token; if not, it reached the length limit or stopped at another stop token"""
    logprobs: list[float] | None = field(default=None, compare=False)
    """nats of each token, as the engine computed them at its temperature: under the full distribution, or within
    `supports` if those were recorded. They differ by rounding from batch to batch. None if the engine does not return
    log-probabilities of these distributions"""
    supports: list[array] | None = None
    """for each token the ids that it was drawn from; None unless requested"""
