"""Upload a finished run's model to the hub, with a card: after the run (`run.push_to_hub`), or with `make push`.

The card is model_card.md of the run folder. The user may edit it (for example, choose a license) and push again: the
edits are kept, and the repository's name in the card is updated.
"""

import re
import shutil
import sys
from pathlib import Path

from config.sections import TrainingRun
from engine.errors import RunError, first_line
from engine.files import durable
from engine.run.card import model_card
from engine.run.folder import RunFolder

CARD, PUSHED_CARD = "model_card.md", "README.md"


def refuse_without_token(run: TrainingRun) -> None:
    """Raise RunError, before the run starts, if it is to be pushed and there is no hub token."""
    from huggingface_hub import get_token

    if run.push_to_hub and not get_token():
        raise RunError(
            f"run.push_to_hub={run.push_to_hub} needs a hub token; log in with hf auth login, set HF_TOKEN, "
            "or leave run.push_to_hub out"
        )


def push_after(folder: RunFolder, run: TrainingRun) -> None:
    """Push a run that has just finished, if `run.push_to_hub` is set. A failure is printed and not raised."""
    if run.push_to_hub is None:
        return
    try:
        push(folder.path, run.push_to_hub, run.hub_private)
    except RunError as error:
        print(f"{error}", file=sys.stderr, flush=True)


def card_for(run: Path, repository: str) -> str:
    """Return the run's card for a repository: the user's edited one with that name, otherwise a newly rendered one."""
    fresh, card = model_card(run, repository), run / CARD
    text = card.read_text(encoding="utf-8") if card.exists() else fresh
    title = re.search(r"^# (\S+/\S+)$", text, re.MULTILINE)
    if title is None or title[1] == repository:
        return text
    if text == model_card(run, title[1]):
        return fresh
    print(f"{card}: your edits are kept, for {repository}; delete it to get a new one", flush=True)
    for place in ("# {}\n", 'from_pretrained("{}")'):
        text = text.replace(place.format(title[1]), place.format(repository))
    return text


def push(run: Path, repository: str, private: bool) -> None:
    """Upload `model/` and the card, and create the repository if it does not exist.

    Raises RunError, with the command to retry, if the upload fails.
    """
    from huggingface_hub import HfApi

    card = run / CARD
    durable.write_text(card, card_for(run, repository))
    shutil.copyfile(card, run / "model" / PUSHED_CARD)  # in place of the empty one that peft leaves
    try:
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=run / "model", commit_message=f"{run.name}, by plumbline")
    except Exception as error:  # the client raises many kinds: network, token, quota
        raise RunError(
            f"{run}/model is complete, but could not be pushed to {repository} ({first_line(error)}); "
            f'push it later with: make push ARGS="{run} {repository}"'
        ) from None
    print(f"{run}: pushed to {url}", flush=True)
