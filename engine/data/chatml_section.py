"""The section `chatml`: how conversations become tokens and labels.

It is not in config/sections.py because its choices are declared in chatml/, and neither package imports the other.
"""

from dataclasses import dataclass

from chatml import Mask, ToolFormat, TrainOn
from config.schema import RecipeError, Section


@dataclass(frozen=True)
class ChatML(Section):
    mask: Mask = "assistant"
    """tokens that the loss is computed on: the assistant's text and its end token, those of Qwen's finetuning code, or
    all"""
    train_on: TrainOn = "every_answer"
    """whether every assistant turn of a conversation is trained on, or only the last one"""
    tools: ToolFormat = "hermes"
    """format of tool definitions and tool calls"""
    system: str | None = None
    """system prompt for conversations that have none"""
    keep_system: bool = False
    """the chat template saved with the model adds `system` to conversations that have no system prompt"""
    parse_text: bool = False
    """parse <think> and <tool_call> in the assistant's text (only there) as reasoning and tool calls"""

    def check(self, key: str) -> None:
        if self.keep_system and not self.system:
            raise RecipeError(
                f"{key}.keep_system=true needs {key}.system, which is empty; set {key}.system, or "
                f"{key}.keep_system=false",
                key=f"{key}.keep_system",
            )
        if self.mask == "all" and self.train_on == "last_answer":
            raise RecipeError(
                f"{key}.train_on=last_answer cannot be combined with {key}.mask=all, which trains on every token; "
                f"use {key}.mask=assistant",
                key=f"{key}.train_on",
            )
