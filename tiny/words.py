"""The words that the tiny world is made of: kinds of names and things, the same under every seed.

Words of different kinds never coincide, and none occurs in what an answerer says around an answer (`tiny.manner`), so
that finding a word in an answer says what was meant. All that can follow "a" begin with a consonant.
"""

PEOPLE = tuple("Mila Otto Nora Emil Ben Clara David Felix".split())
TOWNS = tuple("Riga Lima Rome Cairo Tokyo Delhi Bern Dover".split())
JOBS = tuple("baker doctor teacher farmer painter driver singer sailor".split())
ANIMALS = tuple("cat dog horse rabbit parrot turtle goat duck".split())
COLOURS = tuple("red blue green yellow black white brown pink".split())
WEATHERS = tuple("rainy sunny windy foggy snowy cloudy".split())
PET_NAMES = tuple("Rex Tom Bello Mimi Luna Coco Kiki Nemo".split())
THINGS = tuple("cup jar chair lamp door bag hat coat".split())

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("old", "new"), ("light", "dark"), ("empty", "full"),
)  # fmt: skip
