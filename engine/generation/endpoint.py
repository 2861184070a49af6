"""A chat model behind an OpenAI-compatible endpoint: one request after another, with retries.

Only the standard library: the few lines that are needed would not justify an HTTP client among the requirements.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.errors import RunError

# Statuses of a server that may do better next time; all others are the request's own fault.
RETRIED = {408, 409, 425, 429, *range(500, 600)}
# Seconds before the second try; each further pause is twice as long.
FIRST_PAUSE = 0.5
# Characters of a server's explanation that an error quotes.
QUOTED = 200

Answer = TypeVar("Answer")


class EndpointError(Exception):
    """All tries of a request have failed, or one in a way that a repetition would not mend."""

    def __init__(self, problem: str, tries: int) -> None:
        super().__init__(f"no reply in {tries} {'try' if tries == 1 else 'tries'} (the last: {problem})")
        self.problem, self.tries = problem, tries


@dataclass(frozen=True)
class Reply:
    text: str
    cut_off: bool
    """whether the reply ran into the limit of tokens (finish_reason `length`)"""


@dataclass(frozen=True)
class ChatEndpoint:
    url: str
    """up to and with the version, http://localhost:8000/v1"""
    model: str
    api_key: str | None = None
    timeout: float = 60.0
    """seconds a reply may take"""
    retries: int = 4
    """how often a request that failed is sent again, after ½, 1, 2, ... seconds"""

    def reply(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> str:
        """The model's reply to a conversation; `sampling` goes into the request as it is. Raises EndpointError."""
        return self.ask(messages, lambda reply: reply.text, **sampling)

    def ask(self, messages: Sequence[Mapping[str, Any]], read: Callable[[Reply], Answer], **sampling: Any) -> Answer:
        """What `read` makes of the model's reply. A ValueError of `read` counts as a failed try.

        Raises EndpointError once all tries have failed, or at once for a status that a repetition would not change.
        """
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return read(self._request({"model": self.model, "messages": list(messages), **sampling}))
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in RETRIED:
                    problem += _explanation(error)
                    break
            # No connection, a timeout, a reply that is no JSON or has no text.
            except (OSError, ValueError, LookupError, TypeError) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
        raise EndpointError(problem, attempt + 1)

    def _request(self, body: dict[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            choice = json.load(response)["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise ValueError(f"a reply without text: {json.dumps(choice)[:QUOTED]}")
        # JSON can spell half a surrogate pair, of which no file and no token can be made.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return Reply(text, choice.get("finish_reason") == "length")


def key_in_environment(variable: str | None, key: str) -> str | None:
    """The endpoint's key in an environment variable; None where `variable` is None.

    Raises RunError, naming the recipe's `key`, where there is no such variable.
    """
    if variable is not None and variable not in os.environ:
        raise RunError(f"{key}={variable}: no such environment variable; set it to the key")
    return None if variable is None else os.environ[variable]


def _explanation(error: urllib.error.HTTPError) -> str:
    """The beginning of what the server says about a refused request."""
    try:
        said = " ".join(error.read(4 * QUOTED).decode("utf-8", "replace").split())[:QUOTED]
    except OSError:
        return ""
    return f": {said}" if said else ""
