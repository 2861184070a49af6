"""python -m release.chat RECIPE.yaml [--check] [key=value ...]: chat with the model that a recipe's run has made.

The recipe of any stage that makes a model will do. Of its sections `model`, `run`, `chatml` and `sampling` count here.
"""

from config.cli import main
from release.chat_recipe import Chat, chat_recipe

if __name__ == "__main__":
    main(Chat, "release.dialogue:talk", read=chat_recipe)
