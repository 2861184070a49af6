"""Conversations to token ids and labels, compared with trl.SFTTrainer on the same conversations.

TRL gets messages in memory, its own training chat template for Qwen2.5 and `assistant_only_loss`; its time is that from
the messages to a data set with labels. Our time is that from the file to rows on disk, with the report on the data.
Each side runs in one process; tokenizers may use threads. The result is the median of several runs after a first one.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.base import base_model, real_file
from bench.race import race
from bench.row import Figures, Row, compare

TITLE, MAX_LENGTH, TIMED_RUNS = "encoding conversations", 2048, 5
# Explicit, because TRL's template would otherwise insert its own default.
SYSTEM = "You are a helpful assistant."


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    arguments = {"records": str(real_file(data, "alpaca_en.json")), "base": str(base_model(data, folder))}
    sides = {"ours": ("bench.encoding:ours", arguments), "trl": ("bench.encoding:trl", arguments)}
    found = race(sides, rounds)
    beside = "trl.SFTTrainer, its training template and assistant masks"
    return [compare(TITLE, beside, "tokens_per_second", found["ours"], found["trl"], bar=3)]


def ours(records: str, base: str) -> Figures:
    """Prepare the rows of the file, each time with an empty cache."""
    import datasets
    from transformers import AutoTokenizer

    from bench.stage_rows import stage_rows
    from config.sections import TrainingRun
    from engine.data import encoding
    from engine.data.chatml_section import ChatML
    from sft.recipe import SFT, Data

    recipe = SFT(
        "sft",
        chatml=ChatML(system=SYSTEM),
        data=Data(train=records, max_length=MAX_LENGTH),
        run=TrainingRun(dir=""),
    )
    tokenizer = AutoTokenizer.from_pretrained(base)

    def prepare() -> Any:
        with tempfile.TemporaryDirectory() as cache:
            datasets.config.HF_DATASETS_CACHE = cache
            return stage_rows(encoding.conversations, recipe, tokenizer)

    return tokens_per_second(prepare)


def trl(records: str, base: str) -> Figures:
    """Prepare a data set of messages as the constructor of SFTTrainer does."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.chat_template_utils import qwen2_5_chat_template

    from engine.compat import trl_prepared

    datasets.disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = qwen2_5_chat_template
    given = [{"messages": alpaca_messages(record)} for record in json.loads(Path(records).read_text(encoding="utf-8"))]
    data = datasets.Dataset.from_list(given)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(base),
            SFTConfig(
                folder, assistant_only_loss=True, max_length=MAX_LENGTH, use_cpu=True, bf16=False, report_to="none"
            ),
            train_dataset=data,
            processing_class=tokenizer,
        )
        return tokens_per_second(lambda: trl_prepared(trainer, data, tokenizer))


def alpaca_messages(record: dict[str, str]) -> list[dict[str, str]]:
    """Return the messages of an alpaca record, in the format that TRL expects."""
    question = "\n".join(text for text in (record["instruction"], record["input"]) if text)
    contents = {"system": SYSTEM, "user": question, "assistant": record["output"]}
    return [{"role": role, "content": text} for role, text in contents.items()]


def tokens_per_second(prepare: Callable[[], Any]) -> Figures:
    """Return the tokens per second of `prepare`, which returns tokenised rows."""
    tokens, seconds = sum(map(len, prepare()["input_ids"])), []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        prepare()
        seconds.append(time.perf_counter() - began)
    return {"tokens_per_second": tokens / median(seconds)}
