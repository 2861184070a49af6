"""The section `chatml`: how conversations become tokens and labels.

It stands here, not in config/sections.py, since its choices are declared in chatml/, and neither of the two packages
imports the other.
"""

from dataclasses import dataclass

from chatml import Mask, ToolFormat, TrainOn
from config.schema import RecipeError, Section


@dataclass(frozen=True)
class ChatML(Section):
    mask: Mask = "assistant"
    """where the loss falls: on the assistant's text and its end token, on what Qwen's finetuning code trains on, or on
    all"""
    train_on: TrainOn = "every_answer"
    """whether the loss falls on every assistant turn of a conversation, or on the last one alone"""
    tools: ToolFormat = "hermes"
    """how tools and calls of them are written"""
    system: str | None = None
    """system prompt put before conversations that have none"""
    keep_system: bool = False
    """the chat template saved with the model puts `system` before conversations that have none, too"""
    parse_text: bool = False
    """read <think> and <tool_call> in the assistant's text as reasoning and calls of tools; no other text is read so"""

    def check(self, key: str) -> None:
        if self.keep_system and not self.system:
            raise RecipeError(
                f"{key}.keep_system=true keeps {key}.system, which is empty; set {key}.system, or "
                f"{key}.keep_system=false",
                key=f"{key}.keep_system",
            )
        if self.mask == "all" and self.train_on == "last_answer":
            raise RecipeError(
                f"{key}.train_on=last_answer does not go with {key}.mask=all, which trains on every token; "
                f"use {key}.mask=assistant",
                key=f"{key}.train_on",
            )
