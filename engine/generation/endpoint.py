"""Send requests to a chat model behind an OpenAI-compatible endpoint, with retries."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import httpx2

from engine.errors import RunError

# HTTP statuses after which a retry may succeed; with any other, the request itself is wrong.
RETRIED_STATUSES = {408, 409, 425, 429, *range(500, 600)}
HTTP_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL)
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
    """An endpoint, the model to ask there, and how patiently to ask. Threads may share it."""

    url: str
    """base URL including the version: http://localhost:8000/v1"""
    model: str
    api_key: str | None = None
    timeout: float = 60.0
    """seconds to wait for a reply"""
    retries: int = 4
    """how often a failed request is sent again, after ½, 1, 2, ... seconds"""

    @cached_property
    def _client(self) -> httpx2.Client:
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return httpx2.Client(headers=headers, timeout=self.timeout)

    def ask(self, messages: Sequence[Mapping[str, Any]], read: Callable[[Reply], Answer], **sampling: Any) -> Answer:
        """Return `read` of the model's reply; a ValueError raised by `read` counts as a failed try.

        `sampling` is added to the request. Raises EndpointError once all tries have failed, or at once for a status
        that a retry would not change.
        """
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                return read(self._request({"model": self.model, "messages": list(messages), **sampling}))
            except httpx2.HTTPStatusError as error:
                problem = f"HTTP {error.response.status_code} {error.response.reason_phrase}"
                if error.response.status_code not in RETRIED_STATUSES:
                    explanation = " ".join(error.response.text.split())[:QUOTED_CHARACTERS]
                    problem += f": {explanation}" if explanation else ""
                    break
            # No connection, a timeout, a proxy or certificate that cannot be used, a reply that has no text.
            except (*HTTP_ERRORS, OSError, ImportError, ValueError, LookupError, TypeError) as error:
                problem = str(error) or type(error).__name__
        raise EndpointError(problem, attempt + 1)

    def _request(self, body: dict[str, Any]) -> Reply:
        response = self._client.post(f"{self.url.rstrip('/')}/chat/completions", content=json.dumps(body))
        response.raise_for_status()
        choice = response.json()["choices"][0]
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
