"""A Python function in place of a reward model, handed over by a recipe as "module:function"."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from engine.errors import RunError
from engine.forward.responses import Tokens
from engine.scoring.answers import conversation_and_answer
from engine.scoring.functions import QUOTED, failed, is_number, load_function

# Seconds that the answers of one call may take before a line says that the function is still at them.
SLOW_SECONDS = 60.0


class RuleScorer:
    """Scores by `function(messages, answer, record)`: the conversation up to the answer, its text, and its record."""

    def __init__(self, path: str, key: str, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.function, self.name = load_function(path, key, "messages", "answer", "record"), f"{key}={path}"
        self.tokenizer, self.device = tokenizer, device
        self.present = ""
        """the answer that is being scored"""

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Mapping[str, Any]], budget: int
    ) -> torch.Tensor:
        with self.said_when_slow():
            scores = [self.score(*each) for each in zip(sequences, starts, records, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=self.device)

    def score(self, ids: Tokens, start: int, record: Mapping[str, Any]) -> float:
        messages, self.present = conversation_and_answer(ids, start, self.tokenizer)
        try:
            score = self.function(messages, self.present, record)
        except Exception as error:
            raise failed(self.name, self.present, error) from error
        if not is_number(score):
            raise RunError(f"{self.name} returned {score!r} for the answer {self.present[:QUOTED]!r}; return a number")
        return float(score)

    @contextmanager
    def said_when_slow(self) -> Iterator[None]:
        """Print a line if the block takes long: the function runs in this process, and nothing ends it."""

        def say() -> None:
            print(
                f"{self.name} has been scoring for {SLOW_SECONDS:.0f} s, now the answer {self.present[:QUOTED]!r}; "
                "it has no time limit",
                flush=True,
            )

        timer = Timer(SLOW_SECONDS, say)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
