"""Send requests to a chat model behind an OpenAI-compatible endpoint, one at a time, with retries.

Uses only the standard library: these few lines do not justify an HTTP client in the requirements.
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

# HTTP statuses after which a retry may succeed; with any other, the request itself is wrong.
RETRIED_STATUSES = {408, 409, 425, 429, *range(500, 600)}
# Seconds before the first retry; each further pause is twice as long.
FIRST_PAUSE_SECONDS = 0.5
# An error quotes at most this many characters of a server's explanation.
QUOTED_CHARACTERS = 200

Answer = TypeVar("Answer")


class EndpointError(Exception):
    """All tries of a request failed, or one failed in a way that a retry would not change."""

    def __init__(self, problem: str, tries: int) -> None:
        super().__init__(f"no reply in {tries} {'try' if tries == 1 else 'tries'} (the last: {problem})")
        self.problem, self.tries = problem, tries


@dataclass(frozen=True)
class Reply:
    """A model's reply to one request."""

    text: str
    cut_off: bool
    """whether the reply reached the token limit (finish_reason `length`)"""


@dataclass(frozen=True)
class ChatEndpoint:
    """An endpoint, the model to ask there, and how patiently to ask."""

    url: str
    """base URL including the version: http://localhost:8000/v1"""
    model: str
    api_key: str | None = None
    timeout: float = 60.0
    """seconds to wait for a reply"""
    retries: int = 4
    """how often a failed request is sent again, after ½, 1, 2, ... seconds"""

    def reply(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> str:
        """Return the model's reply to a conversation; `sampling` is added to the request. Raises EndpointError."""
        return self.ask(messages, lambda reply: reply.text, **sampling)

    def ask(self, messages: Sequence[Mapping[str, Any]], read: Callable[[Reply], Answer], **sampling: Any) -> Answer:
        """Return `read` of the model's reply; a ValueError raised by `read` counts as a failed try.

        Raises EndpointError once all tries have failed, or at once for a status that a retry would not change.
        """
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                return read(self._request({"model": self.model, "messages": list(messages), **sampling}))
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in RETRIED_STATUSES:
                    problem += _explanation(error)
                    break
            # No connection, a timeout, a reply that is not JSON or has no text.
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
            raise ValueError(f"a reply without text: {json.dumps(choice)[:QUOTED_CHARACTERS]}")
        # JSON can contain half of a surrogate pair, which can be neither written to a file nor tokenised.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return Reply(text, choice.get("finish_reason") == "length")


def api_key_from_environment(variable: str | None, key: str) -> str | None:
    """Return the API key in the environment variable `variable`; None if that is None.

    Raises RunError, naming the recipe key `key`, if the variable is not set.
    """
    if variable is not None and variable not in os.environ:
        raise RunError(f"{key}={variable}: no such environment variable; set it to the key")
    return None if variable is None else os.environ[variable]


def _explanation(error: urllib.error.HTTPError) -> str:
    """Return the start of the server's explanation for a refused request."""
    try:
        explanation = " ".join(error.read(4 * QUOTED_CHARACTERS).decode("utf-8", "replace").split())[:QUOTED_CHARACTERS]
    except OSError:
        return ""
    return f": {explanation}" if explanation else ""
