"""A judge behind an OpenAI-compatible endpoint in place of a reward model; its scores are cached on disk.

What was judged once is not asked again, in this run or a later one, so a run that resumes sees the same scores.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from config.scoring import ANSWER, CONVERSATION, Judge
from engine.errors import RunError
from engine.files import jsonl
from engine.forward.responses import Tokens
from engine.generation.endpoint import ChatEndpoint, EndpointError, Reply, key_in_environment
from engine.scoring.answers import conversation_and_answer


class LLMJudge:
    """Scores answers by asking for a number; equal questions are asked once."""

    def __init__(
        self,
        judge: Judge,
        key: str,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        device: torch.device,
        cache_name: str = "judge.jsonl",
    ) -> None:
        self.judge, self.key, self.tokenizer, self.device = judge, key, tokenizer, device
        api_key = key_in_environment(judge.key_from, f"{key}.key_from")
        self.endpoint = ChatEndpoint(judge.url, judge.model, api_key, judge.timeout, judge.retries)
        self.cache = Path(judge.cache) if judge.cache else folder / cache_name
        self.known = {row["question"]: row["score"] for row in jsonl.read_and_repair(self.cache)}
        self.writing = Lock()

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Mapping[str, Any]], budget: int
    ) -> torch.Tensor:
        questions = [self.question(ids, start) for ids, start in zip(sequences, starts, strict=True)]
        names = [self.name(question) for question in questions]
        new = {name: question for name, question in zip(names, questions, strict=True) if name not in self.known}
        pool = ThreadPoolExecutor(self.judge.parallel)
        try:
            list(pool.map(self.learn, new.items()))
        finally:
            pool.shutdown(cancel_futures=True)  # the first that fails for good ends the others
        return torch.tensor([self.known[name] for name in names], dtype=torch.float32, device=self.device)

    def learn(self, asked: tuple[str, str]) -> None:
        """Ask one new question, given with its name, and keep its score at once."""
        name, question = asked
        score = self.ask(question)
        with self.writing:
            self.known[name] = score
            jsonl.append(self.cache, [{"question": name, "score": score}])

    def question(self, ids: Tokens, start: int) -> str:
        """The question about a conversation, of which the tokens from `start` on are the answer to be judged."""
        messages, answer = conversation_and_answer(ids, start, self.tokenizer)
        conversation = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        parts = {CONVERSATION: conversation, ANSWER: answer}
        # One pass, so that text which spells {answer} stays text.
        return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], self.judge.question)

    def name(self, question: str) -> str:
        """The question's name in the cache: a hash of all that decides its score."""
        decisive = [self.judge.url, self.judge.model, self.judge.score_pattern, question]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def ask(self, question: str) -> float:
        """The judge's number. RunError once all tries have failed."""
        try:
            return self.endpoint.ask([{"role": "user", "content": question}], self.number_in, temperature=0)
        except EndpointError as error:
            raise RunError(
                f"{self.key}.url={self.judge.url} gave no score in {error.tries} tries (the last: {error.problem}); "
                "see to the endpoint and run the same command again: what was judged is kept"
            ) from None

    def number_in(self, reply: Reply) -> float:
        """The score in a reply. Raises ValueError where there is none."""
        found = re.search(self.judge.score_pattern, reply.text)
        if found is None:
            raise ValueError(f"no number in the reply {reply.text[:80]!r}")
        return float(found[1 if found.re.groups else 0])
