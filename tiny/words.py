"""The names and things of the tiny world, the same for every seed.

No word is in two lists, and none occurs in the courtesies and assurances of `tiny.manner`, so a word that is found in
an answer is unambiguous. All words that can follow "a" begin with a consonant.
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
