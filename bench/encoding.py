"""Conversations to token ids and labels, beside what trl.SFTTrainer does with the same conversations.

TRL is given them as messages already, its own training chat template of Qwen2.5 and `assistant_only_loss`; it is timed
from there to a data set with labels, which it keeps on disk, as we do. We read alpaca's records from the file. Both
work in one process; tokenizers are free to use threads. Neither finds anything prepared earlier.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.base import made_base, real
from bench.race import race
from bench.row import Figures, Row, compare

NAME, LONGEST = "encoding conversations", 2048


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    arguments = {"records": str(real(data, "alpaca_en.json")), "base": str(made_base(data, folder))}
    sides = {"ours": ("bench.encoding:ours", arguments), "trl": ("bench.encoding:trl", arguments)}
    found = race(sides, rounds)
    beside = "trl.SFTTrainer, its training template and assistant masks"
    return [compare(NAME, beside, "tokens_per_second", found["ours"], found["trl"], bar=3)]


def ours(records: str, base: str) -> Figures:
    """`conversation_rows` of the file."""
    import datasets
    from transformers import AutoTokenizer

    from engine.data.rows import conversation_rows
    from recipes.sections import ChatML, Run
    from sft.recipe import SFT, Data

    recipe = SFT(chatml=ChatML(), data=Data(train=records, max_length=LONGEST), run=Run(dir=""))
    tokenizer = AutoTokenizer.from_pretrained(base)
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = cache
        began = time.perf_counter()
        made, _ = conversation_rows(records, recipe, tokenizer, key="data.train", max_length=LONGEST)
        return _rate(made, time.perf_counter() - began)


def trl(records: str, base: str) -> Figures:
    """What the trainer's constructor does with a data set of messages."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.chat_template_utils import qwen2_5_chat_template

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = qwen2_5_chat_template
    messages = Dataset.from_list([{"messages": _messages(record)} for record in json.loads(Path(records).read_text())])

    class Timed(SFTTrainer):
        def _prepare_dataset(self, *args: Any, **options: Any) -> Dataset:
            began = time.perf_counter()
            made = super()._prepare_dataset(*args, **options)
            self.prepared_in = time.perf_counter() - began
            return made

    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            AutoModelForCausalLM.from_pretrained(base),
            SFTConfig(folder, assistant_only_loss=True, max_length=LONGEST, use_cpu=True, bf16=False, report_to="none"),
            train_dataset=messages,
            processing_class=tokenizer,
        )
    return _rate(trainer.train_dataset, trainer.prepared_in)


def _messages(record: dict[str, str]) -> list[dict[str, str]]:
    question = "\n".join(text for text in (record["instruction"], record["input"]) if text)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": record["output"]}]


def _rate(made: Any, seconds: float) -> Figures:
    return {"tokens_per_second": sum(map(len, made["input_ids"])) / seconds}
