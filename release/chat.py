"""`python -m release.chat RECIPE.yaml [--check] [key=value ...]`: chat with the model that a recipe's run has trained.

Accepts the recipe of any stage that trains a language model and reads its sections `model`, `run`, `chatml` and
`sampling`; `chat.model=PATH` chats with another model.
"""

from config.cli import main
from release.chat_recipe import Chat, chat_recipe

if __name__ == "__main__":
    main(Chat, "release.dialogue:chat", read=chat_recipe)
