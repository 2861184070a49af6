"""A Python function in place of a reward model, handed over by a recipe as "module:function"."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from chatml import read_back
from engine.errors import RunError
from engine.forward.responses import Tokens


def load_function(path: str, key: str) -> Callable[..., Any]:
    """The function at "module:function"; RunError, naming the recipe's key, if there is no such thing."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RunError(
            f"{key}={path}: {module_name} cannot be imported ({error}); name a module that python finds from here, "
            f"or leave {key} out"
        ) from None
    function = vars(module).get(name)
    if not callable(function):
        raise RunError(f"{key}={path}: {module_name} has no function {name}; write module:function")
    return function


class RuleScorer:
    """Scores by `function(messages, answer, record)`: the conversation up to the answer, its text, and its record."""

    def __init__(self, path: str, key: str, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.function, self.name = load_function(path, key), f"{key}={path}"
        self.tokenizer, self.device = tokenizer, device

    def __call__(self, sequences: Sequence[Tokens], records: Sequence[Mapping[str, Any]], budget: int) -> torch.Tensor:
        scores = [self.score(ids, record) for ids, record in zip(sequences, records, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=self.device)

    def score(self, ids: Tokens, record: Mapping[str, Any]) -> float:
        *messages, answer = read_back(ids, self.tokenizer)
        try:
            score = self.function(messages, answer["content"], record)
        except Exception as error:
            raise RunError(
                f"{self.name} failed on the answer {answer['content'][:80]!r}: {type(error).__name__}: {error}"
            ) from error
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RunError(f"{self.name} returned {score!r} for the answer {answer['content'][:80]!r}; return a number")
        return float(score)
