"""Conversations to token ids and labels, beside what trl.SFTTrainer does with the same conversations.

TRL is given messages already in memory, its own training chat template of Qwen2.5 and `assistant_only_loss`, and is
timed from there to a data set with labels; we are timed from the file to rows on disk, the account of them included.
Both work in one process; tokenizers are free to use threads. Of several times, the first aside, the median counts.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.base import made_base, real
from bench.race import race
from bench.row import Figures, Row, compare

NAME, MAX_LENGTH, TIMES = "encoding conversations", 2048, 5
# Said in so many words, because the template would put in one of its own.
SYSTEM = "You are a helpful assistant."


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    arguments = {"records": str(real(data, "alpaca_en.json")), "base": str(made_base(data, folder))}
    sides = {"ours": ("bench.encoding:ours", arguments), "trl": ("bench.encoding:trl", arguments)}
    found = race(sides, rounds)
    beside = "trl.SFTTrainer, its training template and assistant masks"
    return [compare(NAME, beside, "tokens_per_second", found["ours"], found["trl"], bar=3)]


def ours(records: str, base: str) -> Figures:
    """The rows of the file, nothing of which was prepared before."""
    import datasets
    from transformers import AutoTokenizer

    from bench.stage_rows import stage_rows
    from config.sections import Run
    from engine.data import encoding
    from engine.data.chatml_section import ChatML
    from sft.recipe import SFT, Data

    recipe = SFT("sft", chatml=ChatML(system=SYSTEM), data=Data(train=records, max_length=MAX_LENGTH), run=Run(dir=""))
    tokenizer = AutoTokenizer.from_pretrained(base)

    def prepare() -> Any:
        with tempfile.TemporaryDirectory() as cache:
            datasets.config.HF_DATASETS_CACHE = cache
            return stage_rows(encoding.conversations, recipe, tokenizer)

    return rate(prepare)


def trl(records: str, base: str) -> Figures:
    """What the trainer's constructor does with a data set of messages."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.chat_template_utils import qwen2_5_chat_template

    datasets.disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = qwen2_5_chat_template
    given = [{"messages": messages(record)} for record in json.loads(Path(records).read_text(encoding="utf-8"))]
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
        return rate(lambda: trainer._prepare_dataset(data, tokenizer, trainer.args, False, None, "train"))


def messages(record: dict[str, str]) -> list[dict[str, str]]:
    """An alpaca record as TRL takes it."""
    question = "\n".join(text for text in (record["instruction"], record["input"]) if text)
    said = {"system": SYSTEM, "user": question, "assistant": record["output"]}
    return [{"role": role, "content": text} for role, text in said.items()]


def rate(prepare: Callable[[], Any]) -> Figures:
    """Tokens a second of the rows that `prepare` returns."""
    tokens, seconds = sum(map(len, prepare()["input_ids"])), []
    for _ in range(TIMES):
        began = time.perf_counter()
        prepare()
        seconds.append(time.perf_counter() - began)
    return {"tokens_per_second": tokens / median(seconds)}
