"""A judge behind an OpenAI-compatible endpoint in place of a reward model: asked over HTTP, remembered on disk.

What was judged once is not asked again, in this run or a later one, so a run that resumes sees the same scores.
"""

import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from chatml import read_back
from config.scoring import ANSWER, CONVERSATION, Judge
from engine.errors import RunError
from engine.files import durable
from engine.forward.responses import Tokens

# Replies of a server that may do better next time; all other errors are the request's own.
PASSING = {408, 409, 425, 429, *range(500, 600)}
FIRST_PAUSE = 0.5


class LLMJudge:
    """Scores by asking; equal questions are asked once."""

    def __init__(
        self, judge: Judge, key: str, tokenizer: PreTrainedTokenizerBase, folder: Path, device: torch.device
    ) -> None:
        self.judge, self.key, self.tokenizer, self.device = judge, key, tokenizer, device
        if judge.key_from is not None and judge.key_from not in os.environ:
            raise RunError(f"{key}.key_from={judge.key_from}: no such environment variable; set it to the key")
        self.cache = Path(judge.cache) if judge.cache else folder / "judge.jsonl"
        self.known, self.writing = read_cache(self.cache), Lock()

    def __call__(self, sequences: Sequence[Tokens], records: Sequence[Mapping[str, Any]], budget: int) -> torch.Tensor:
        questions = [self.question(ids) for ids in sequences]
        names = [self.name(question) for question in questions]
        new = {name: question for name, question in zip(names, questions, strict=True) if name not in self.known}
        pool = ThreadPoolExecutor(self.judge.parallel)
        try:
            list(pool.map(self.learn, new.items()))
        finally:
            pool.shutdown(cancel_futures=True)  # the first that fails for good ends the others
        return torch.tensor([self.known[name] for name in names], dtype=torch.float32, device=self.device)

    def learn(self, asked: tuple[str, str]) -> None:
        """Ask one new question, by its name, and keep what comes back at once."""
        name, question = asked
        score = self.ask(question)
        with self.writing:
            self.known[name] = score
            append(self.cache, {"question": name, "score": score})

    def question(self, ids: Tokens) -> str:
        """What the judge is asked of a conversation, its last turn being the answer."""
        *messages, answer = read_back(ids, self.tokenizer)
        said = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        parts = {CONVERSATION: said, ANSWER: answer["content"]}
        # One pass, so that text which spells {answer} stays text.
        return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], self.judge.question)

    def name(self, question: str) -> str:
        """What a question is remembered by: all that decides its score."""
        decisive = [self.judge.url, self.judge.model, self.judge.score_pattern, question]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def ask(self, question: str) -> float:
        """The judge's number. RunError once all tries have failed."""
        for attempt in range(self.judge.retries + 1):
            if attempt:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return self.number_in(self.reply(question))
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in PASSING:
                    break
            except (OSError, ValueError, LookupError, TypeError) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
        raise RunError(
            f"{self.key}.url={self.judge.url} gave no score in {attempt + 1} tries (the last: {problem}); see to the "
            "endpoint and run the same command again: what was judged is kept"
        )

    def reply(self, question: str) -> str:
        """One request; what the model said."""
        headers = {"Content-Type": "application/json"}
        if self.judge.key_from is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.judge.key_from]}"
        body = {"model": self.judge.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        request = urllib.request.Request(
            f"{self.judge.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=self.judge.timeout) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    def number_in(self, reply: str) -> float:
        found = re.search(self.judge.score_pattern, reply)
        if found is None:
            raise ValueError(f"no number in the reply {reply[:80]!r}")
        return float(found[1 if found.re.groups else 0])


def read_cache(path: Path) -> dict[str, float]:
    """question -> score; a last line that a kill left half-written is taken out of the file."""
    if not path.exists():
        return {}
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        durable.write_text(path, "".join(line + "\n" for line in lines))
    return {row["question"]: row["score"] for row in map(json.loads, lines)}


def append(path: Path, row: dict[str, Any]) -> None:
    """One line in one write, so that several processes can add to the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
