"""Score answers with a Python function in place of a reward model; a recipe names it as "module:function"."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from engine.errors import RunError
from engine.forward.responses import Tokens
from engine.scoring.answers import conversation_and_answer
from engine.scoring.functions import QUOTED_CHARACTERS, function_error, is_number, load_function

# Seconds that one call may take before a line reports which answer is being scored.
SLOW_SECONDS = 60.0


class RuleScorer:
    """A Scorer by `function(messages, answer, record)`: messages before the answer, its text, the prompt's record."""

    def __init__(self, path: str, key: str, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.function, self.name = load_function(path, key, "messages", "answer", "record"), f"{key}={path}"
        self.tokenizer, self.device = tokenizer, device
        self.answer = ""
        """the answer that is being scored"""

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Mapping[str, Any]], budget: int
    ) -> torch.Tensor:
        with self.report_when_slow():
            scores = [self.score(*each) for each in zip(sequences, starts, records, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=self.device)

    def score(self, ids: Tokens, start: int, record: Mapping[str, Any]) -> float:
        """Return the score of one answer; raise RunError if the function fails or returns no number."""
        messages, self.answer = conversation_and_answer(ids, start, self.tokenizer)
        try:
            score = self.function(messages, self.answer, record)
        except Exception as error:
            raise function_error(self.name, self.answer, error) from error
        if not is_number(score):
            raise RunError(
                f"{self.name} returned {score!r} for the answer {self.answer[:QUOTED_CHARACTERS]!r}; return a number"
            )
        return float(score)

    @contextmanager
    def report_when_slow(self) -> Iterator[None]:
        """Print a line if the block takes long: the function runs in this process and has no time limit."""

        def report() -> None:
            print(
                f"{self.name} has been running for {SLOW_SECONDS:.0f} s, now on the answer "
                f"{self.answer[:QUOTED_CHARACTERS]!r}; it has no time limit",
                flush=True,
            )

        timer = Timer(SLOW_SECONDS, report)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
