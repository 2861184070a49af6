"""A chat in the terminal. Prompts go through the encoder that training uses, so typed control tokens stay text."""

import contextlib

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from chatml import Message, RecordError, control, encode
from chatml.parsing import parsed
from engine.dist.devices import default_device
from engine.errors import RunError
from engine.forward.attention import decoding_attention
from engine.models.loading import load_causal, scalar_config
from engine.models.tokenizer import load_tokenizer
from release.chat_recipe import Chat

HELP = "/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
Messages = list[dict[str, str] | Message]


def talk(recipe: Chat) -> None:
    """Read a question and answer it, until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lets the user edit typed lines and recall earlier ones

    model, tokenizer = load_partner(recipe)
    console = Console(highlight=False)
    console.print(f"{recipe.path}: {HELP}", style="dim")
    torch.manual_seed(recipe.run.seed)
    messages = beginning(recipe)
    while True:
        try:
            typed = console.input("[bold blue]you[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if typed == "/quit":
            return
        if typed == "/reset":
            messages = beginning(recipe)
            console.print("forgotten", style="dim")
            continue
        if typed.startswith("/"):
            console.print(HELP, style="dim")
            continue
        if not typed:
            continue
        asked = [*messages, {"role": "user", "content": typed}]
        console.print("[bold dark_orange]model[/] ", end="")
        try:
            prompt, asked = fit(asked, tokenizer, room(model, recipe))
            text, ended, with_markers = answer(model, tokenizer, prompt, recipe)
        except KeyboardInterrupt:
            console.print("\nstopped; neither question nor answer is kept", style="dim")
        except RecordError as error:
            console.print(str(error), style="dim")
        else:
            if not ended:
                console.print("cut off; sampling.max_new_tokens is the limit", style="dim")
            messages = [*asked, spoken(text, with_markers)]


def spoken(text: str, with_markers: bool) -> Message:
    """Return an answer as the next prompt holds it: its reasoning and calls are read where it has tokens of these."""
    message = Message("assistant", text)
    if with_markers:
        with contextlib.suppress(RecordError):  # what is not well formed stays text
            (message,) = parsed([message])
    return message


def load_partner(recipe: Chat) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model and its tokenizer. Raises RunError for a reward model, which generates nothing."""
    model = recipe.partner
    if scalar_config(model.path, model) is not None:
        raise RunError(f"{model.path} is a reward model: it scores answers and gives none; chat with an sft or ppo run")
    tokenizer = load_tokenizer(model.path, model.revision)
    return load_causal(model.path, model, tokenizer, trained=False, device=default_device()), tokenizer


def beginning(recipe: Chat) -> Messages:
    """Return the messages before the first question: the recipe's system prompt, if it has one."""
    return [{"role": "system", "content": recipe.chatml.system}] if recipe.chatml.system else []


def room(model: PreTrainedModel, recipe: Chat) -> int:
    """Return how many tokens a prompt may have: the model's positions less the answer's, but at least half of them."""
    positions = model.config.max_position_embeddings
    return max(positions - recipe.sampling.max_new_tokens, positions // 2)


def fit(messages: Messages, tokenizer: PreTrainedTokenizerBase, tokens: int) -> tuple[list[int], Messages]:
    """Return a prompt of at most `tokens` tokens and its messages; drop the oldest exchanges, keep the system prompt.

    Raises RecordError if the last question alone is longer.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    while True:
        prompt = encode(messages, tokenizer, add_generation_prompt=True).input_ids
        if len(prompt) <= tokens:
            return prompt, messages
        if len(messages) <= first + 1:
            raise RecordError(f"too long: {len(prompt):,} tokens, and the model has room for {tokens:,}")
        messages = messages[:first] + messages[first + 2 :]


@torch.no_grad()
def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int], recipe: Chat
) -> tuple[str, bool, bool]:
    """Print the answer token by token; return its text, whether the model ended it, and whether it has marker tokens.

    Markers are the tokens around reasoning and calls; text that spells one has none.
    """
    ids = torch.tensor([prompt], device=model.device)
    with decoding_attention(model):
        (tokens,) = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            top_p=recipe.sampling.top_p,
            temperature=recipe.sampling.temperature,
            max_new_tokens=min(recipe.sampling.max_new_tokens, model.config.max_position_embeddings - len(prompt)),
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
    response = tokens[len(prompt) :].tolist()
    ended = response[-1] in model.generation_config.eos_token_id
    with_markers = not set(control(tokenizer).markers.values()).isdisjoint(response)
    return tokenizer.decode(response[:-1] if ended else response), ended, with_markers
