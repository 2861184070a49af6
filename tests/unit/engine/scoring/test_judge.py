"""A judge behind an endpoint, against a local server: its requests, the cache, retries and failures."""

import json

import pytest
import torch

from chatml import encode
from config.scoring import Judge
from engine.errors import RunError
from engine.generation import endpoint
from engine.scoring.answers import last_turn_start
from engine.scoring.judge import LLMJudge
from tests.support.judge_server import serving
from tests.support.tokenizers import qwen

QUESTION = "{conversation}\n--\n{answer}"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_SECONDS", 0.001)


def talk(question, answer, system=None):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if system:
        turns.insert(0, {"role": "system", "content": system})
    return encode(turns, qwen()).input_ids[:-1]


def scorer(url, folder, **settings):
    judge = Judge(url=url, model="m", question=QUESTION, **settings)
    return LLMJudge(judge, "reward.judge", qwen(), folder, torch.device("cpu"))


def length_of_answer(_, body):
    return f"I say {len(body['messages'][0]['content'].split('--')[1].strip())}."


def scores(judge, *talks):
    starts = [last_turn_start(talk, qwen()) for talk in talks]
    return judge(list(talks), starts, [{}] * len(talks), 0).tolist()


def test_the_request_has_the_recipes_question_key_and_model(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    with serving(length_of_answer) as (url, requests):
        got = scores(scorer(url, tmp_path, key_from="A_KEY"), talk("Hi <|im_end|> {answer}", "Hello", "Be kind."))
    assert got == [5.0]
    ((path, headers, body),) = requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    question = "system: Be kind.\n\nuser: Hi <|im_end|> {answer}\n--\nHello"
    assert body == {"model": "m", "messages": [{"role": "user", "content": question}], "temperature": 0}


def test_scores_keep_their_order_and_equal_questions_are_asked_once(tmp_path):
    talks = [talk("Hi", "a" * n) for n in (3, 1, 4, 1, 5)]
    with serving(length_of_answer) as (url, requests):
        judge = scorer(url, tmp_path, parallel=3)
        assert scores(judge, *talks) == [3, 1, 4, 1, 5]
        assert len(requests) == 4
        assert scores(judge, *talks[:2]) == [3, 1]
        assert scores(scorer(url, tmp_path), *talks) == [3, 1, 4, 1, 5]  # from the cache file of the first run
        assert len(requests) == 4
        scores(scorer(url, tmp_path, score_pattern=r"say (\d)"), talks[0])  # another pattern does not use the cache
        assert len(requests) == 5


def test_an_incomplete_line_of_the_cache_is_asked_again(tmp_path):
    with serving(length_of_answer) as (url, requests):
        scores(scorer(url, tmp_path), talk("Hi", "aa"), talk("Hi", "aaa"))
        cache = tmp_path / "judge.jsonl"
        cache.write_text(cache.read_text()[:-5])
        assert scores(scorer(url, tmp_path), talk("Hi", "aa"), talk("Hi", "aaa")) == [2, 3]
        assert len(requests) == 3
    assert [set(json.loads(line)) for line in cache.read_text().splitlines()] == [{"question", "score"}] * 2


def timeout_seconds(failure):
    """Return the timeout in seconds: short only if no reply will come."""
    return 1 if isinstance(failure, float) else 60


@pytest.mark.parametrize("failure", [500, 429, "no idea", 5.0], ids=["error", "too many", "no number", "timeout"])
def test_temporary_failures_are_retried(tmp_path, failure):
    with serving(lambda number, _: failure if number < 2 else "7") as (url, requests):
        assert scores(scorer(url, tmp_path, timeout=timeout_seconds(failure)), talk("Hi", "Hello")) == [7]
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("failure", "tries", "last"),
    [
        (503, 3, "HTTP 503 Service Unavailable"),
        (401, 1, "HTTP 401 Unauthorized"),
        ("well", 3, "no number in the reply 'well'"),
        (5.0, 3, "timed out"),
    ],
)
def test_lasting_failures_end_the_run(tmp_path, failure, tries, last):
    with serving(lambda number, _: failure) as (url, requests), pytest.raises(RunError) as error:
        scores(scorer(url, tmp_path, retries=2, timeout=timeout_seconds(failure)), talk("Hi", "Hello"))
    assert str(error.value) == (
        f"reward.judge.url={url} gave no score in {tries} tries (the last: {last}); check the endpoint and run the "
        "same command again: scores so far are cached"
    )
    assert len(requests) == tries


def test_scores_from_before_a_failure_are_kept(tmp_path):
    talks = [talk("Hi", "a" * n) for n in (1, 2, 3)]
    with serving(lambda n, body: length_of_answer(n, body) if n < 2 else 400) as (url, requests):
        with pytest.raises(RunError):
            scores(scorer(url, tmp_path, parallel=1), *talks)
        assert scores(scorer(url, tmp_path), *talks[:2]) == [1, 2]
        assert len(requests) == 3


def test_a_refused_connection_is_retried_and_reported(tmp_path):
    with pytest.raises(RunError, match=r"gave no score in 2 tries \(the last: .*refused"):
        scores(scorer("http://127.0.0.1:9/v1", tmp_path, retries=1), talk("Hi", "Hello"))


def test_a_missing_environment_variable_of_the_key_is_reported(tmp_path):
    with pytest.raises(RunError) as error:
        scorer("http://127.0.0.1:9/v1", tmp_path, key_from="NO_SUCH_KEY")
    assert str(error.value) == ("reward.judge.key_from=NO_SUCH_KEY: no such environment variable; set it to the key")
