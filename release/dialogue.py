"""Chat in the terminal. Prompts are encoded as in training, so control tokens that you type are encoded as text."""

import contextlib
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from chatml import Message, RecordError, control, encode
from chatml.parsing import parse_messages
from config.sections import Sampling
from engine.dist.devices import default_device
from engine.errors import RunError
from engine.forward.attention import decoding_attention
from engine.models.loading import load_causal, scalar_config
from engine.models.tokenizer import decode, load_tokenizer
from engine.run.experimental import print_notes
from release.chat_recipe import Chat

HELP = "/reset starts a new conversation, /quit or Ctrl-D exits, Ctrl-C stops a response"
Messages = list[dict[str, str] | Message]


def chat(recipe: Chat) -> None:
    """Read the user's messages and print the model's responses until the user exits."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - enables line editing and history in input()

    print_notes(recipe)
    model, tokenizer = load_chat_model(recipe)
    console = Console(highlight=False)
    console.print(f"{recipe.model_path}: {HELP}", style="dim")
    torch.manual_seed(recipe.run.seed)
    messages = initial_messages(recipe)
    while True:
        try:
            typed = console.input("[bold blue]you[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if typed == "/quit":
            return
        if typed == "/reset":
            messages = initial_messages(recipe)
            console.print("new conversation", style="dim")
            continue
        if typed.startswith("/"):
            console.print(HELP, style="dim")
            continue
        if not typed:
            continue
        asked = [*messages, {"role": "user", "content": typed}]
        console.print("[bold dark_orange]model[/] ", end="")
        try:
            prompt, asked = fit_prompt(asked, tokenizer, max_prompt_tokens(model, recipe))
            room = model.config.max_position_embeddings - len(prompt)
            text, ended, with_markers = print_response(model, tokenizer, prompt, recipe.sampling, room)
        except KeyboardInterrupt:
            console.print("\nstopped; your message and the response are discarded", style="dim")
        except RecordError as error:
            console.print(str(error), style="dim")
        else:
            if not ended:
                full = f"the context length, {room + len(prompt)} tokens,"
                limit = full if room < recipe.sampling.max_new_tokens else "sampling.max_new_tokens"
                console.print(f"cut off; {limit} is the limit", style="dim")
            messages = [*asked, response_message(text, with_markers)]


def response_message(text: str, with_markers: bool) -> Message:
    """Return a response as a message for the next prompt; with markers, its reasoning and calls are parsed."""
    message = Message("assistant", text)
    if with_markers:
        with contextlib.suppress(RecordError):  # malformed markup stays text
            (message,) = parse_messages([message])
    return message


def load_chat_model(recipe: Chat) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model to chat with and its tokenizer. Raises RunError for a reward model."""
    model = recipe.chat_model
    if scalar_config(model.path, model) is not None:
        raise RunError(f"{model.path} is a reward model, which cannot generate responses; chat with an sft or ppo run")
    tokenizer = load_tokenizer(model.path, model.revision)
    return load_causal(model.path, model, tokenizer, trained=False, device=default_device()), tokenizer


def initial_messages(recipe: Chat) -> Messages:
    """Return the messages of a new conversation: the recipe's system prompt, if it has one."""
    return [{"role": "system", "content": recipe.chatml.system}] if recipe.chatml.system else []


def max_prompt_tokens(model: PreTrainedModel, recipe: Chat) -> int:
    """Return the context length minus sampling.max_new_tokens, but at least half the context length."""
    positions = model.config.max_position_embeddings
    return max(positions - recipe.sampling.max_new_tokens, positions // 2)


def fit_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase, tokens: int) -> tuple[list[int], Messages]:
    """Drop the oldest exchanges, but not the system prompt, until the prompt has at most `tokens` tokens.

    Returns the prompt's token ids and the remaining messages. Raises RecordError if the last message alone is too long.
    """
    start = messages[0]
    first = 1 if isinstance(start, dict) and start["role"] == "system" else 0
    while True:
        prompt = encode(messages, tokenizer, add_generation_prompt=True).input_ids
        if len(prompt) <= tokens:
            return prompt, messages
        if len(messages) <= first + 1:
            raise RecordError(f"too long: {len(prompt):,} tokens, and the model has room for {tokens:,}")
        messages = messages[:first] + messages[first + 2 :]


@torch.no_grad()
def print_response(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int], sampling: Sampling, room: int
) -> tuple[str, bool, bool]:
    """Generate a response of at most `room` tokens to `prompt` (token ids), and print it token by token.

    Returns its text, whether it has an end token, and whether it contains marker tokens, which enclose reasoning and
    tool calls. Text that only spells a marker does not count.
    """
    ids = torch.tensor([prompt], device=model.device)
    with decoding_attention(model):
        generate: Any = model.generate  # its decorator hides that it is callable
        (tokens,) = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            top_p=sampling.top_p,
            temperature=sampling.temperature,
            max_new_tokens=min(sampling.max_new_tokens, room),
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
    response = tokens[len(prompt) :].tolist()
    ended = response[-1] in model.generation_config.eos_token_id
    with_markers = not set(control(tokenizer).markers.values()).isdisjoint(response)
    return decode(tokenizer, response[:-1] if ended else response), ended, with_markers
