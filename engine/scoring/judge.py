"""Score answers with a judge behind an OpenAI-compatible endpoint in place of a reward model; cache scores on disk.

No answer is judged twice, in this run or a later one, so a resumed run sees the same scores.
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
from engine.generation.endpoint import ChatEndpoint, EndpointError, Reply, api_key_from_environment
from engine.scoring.answers import conversation_and_answer


class LLMJudge:
    """A Scorer that asks a model for a number; equal questions are asked once.

    `key` is the recipe key of the judge, for error messages; `folder` is where `cache_name` is, unless the recipe names
    a cache.
    """

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
        api_key = api_key_from_environment(judge.key_from, f"{key}.key_from")
        assert judge.url is not None  # without one there is no judge
        self.endpoint = ChatEndpoint(judge.url, judge.model, api_key, judge.timeout, judge.retries)
        self.cache = Path(judge.cache) if judge.cache else folder / cache_name
        self.scores = {row["question"]: row["score"] for row in jsonl.read_and_repair(self.cache)}
        self.write_lock = Lock()

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Mapping[str, Any]], budget: int
    ) -> torch.Tensor:
        questions = [self.question(ids, start) for ids, start in zip(sequences, starts, strict=True)]
        names = [self.cache_key(question) for question in questions]
        new = {name: question for name, question in zip(names, questions, strict=True) if name not in self.scores}
        pool = ThreadPoolExecutor(self.judge.parallel)
        try:
            list(pool.map(self.ask_and_cache, new.items()))
        finally:
            pool.shutdown(cancel_futures=True)  # once a question has finally failed, the others are cancelled
        return torch.tensor([self.scores[name] for name in names], dtype=torch.float32, device=self.device)

    def ask_and_cache(self, asked: tuple[str, str]) -> None:
        """Ask one new question, given as (cache key, question), and write its score to the cache at once."""
        name, question = asked
        score = self.ask(question)
        with self.write_lock:
            self.scores[name] = score
            jsonl.append(self.cache, [{"question": name, "score": score}])

    def question(self, ids: Tokens, start: int) -> str:
        """Return the question about a conversation whose answer starts at index `start` of the token ids."""
        messages, answer = conversation_and_answer(ids, start, self.tokenizer)
        conversation = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        parts = {CONVERSATION: conversation, ANSWER: answer}
        # One pass, so that "{answer}" in a conversation is not replaced.
        return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], self.judge.question)

    def cache_key(self, question: str) -> str:
        """Return the question's key in the cache: a hash of everything that decides its score."""
        decisive = [self.judge.url, self.judge.model, self.judge.score_pattern, question]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def ask(self, question: str) -> float:
        """Return the judge's number; raise RunError if all tries fail."""
        try:
            return self.endpoint.ask([{"role": "user", "content": question}], self.read_score, temperature=0)
        except EndpointError as error:
            raise RunError(
                f"{self.key}.url={self.judge.url} gave no score in {error.tries} tries (the last: {error.problem}); "
                "check the endpoint and run the same command again: scores so far are cached"
            ) from None

    def read_score(self, reply: Reply) -> float:
        """Return the score in a reply; raise ValueError if there is none."""
        found = re.search(self.judge.score_pattern, reply.text)
        if found is None:
            raise ValueError(f"no number in the reply {reply.text[:80]!r}")
        return float(found[1 if found.re.groups else 0])
