"""A conversation in the terminal. Prompts go through the encoder that training uses: what is typed stays text."""

import contextlib

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from chatml import RecordError, encode
from config.sections import Model
from engine.errors import RunError
from engine.forward.packed import attention
from engine.models.loading import load_causal, scalar_config
from engine.models.tokenizer import load_tokenizer
from release.chat import Chat

HELP = "/reset forgets what was said, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
Messages = list[dict[str, str]]


def talk(recipe: Chat) -> None:
    """Read, answer, and again, until the person leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - what is typed can be edited, and called back

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
            text, ended = answer(model, tokenizer, prompt, recipe)
        except KeyboardInterrupt:
            console.print("\nstopped; neither question nor answer is kept", style="dim")
        except RecordError as error:
            console.print(str(error), style="dim")
        else:
            if not ended:
                console.print("cut off; sampling.max_new_tokens is the limit", style="dim")
            messages = [*asked, {"role": "assistant", "content": text}]


def load_partner(recipe: Chat) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer; RunError for a model that cannot talk."""
    model = Model(path=recipe.path)
    if scalar_config(recipe.path, model) is not None:
        raise RunError(
            f"{recipe.path} is a reward model: it scores answers and gives none; chat with an sft or ppo run"
        )
    tokenizer = load_tokenizer(recipe.path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_causal(recipe.path, model, tokenizer, trained=False, device=device), tokenizer


def beginning(recipe: Chat) -> Messages:
    """What stands before the first question."""
    return [{"role": "system", "content": recipe.chatml.system}] if recipe.chatml.system else []


def room(model: PreTrainedModel, recipe: Chat) -> int:
    """Tokens that a prompt may have: the model's positions without the answer's, but half of them in any case."""
    positions = model.config.max_position_embeddings
    return max(positions - recipe.sampling.max_new_tokens, positions // 2)


def fit(messages: Messages, tokenizer: PreTrainedTokenizerBase, tokens: int) -> tuple[list[int], Messages]:
    """The prompt in at most `tokens` tokens, and the messages it holds: the oldest exchanges go, a system prompt stays.

    Raises RecordError if the question alone is longer.
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
) -> tuple[str, bool]:
    """Print the answer as it comes; its text, and whether it came to its end."""
    ids = torch.tensor([prompt], device=model.device)
    with attention(model, "sdpa"):
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
    said = tokens[len(prompt) :].tolist()
    ended = said[-1] in model.generation_config.eos_token_id
    return tokenizer.decode(said[:-1] if ended else said), ended
