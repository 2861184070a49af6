"""Tasks of our own in HumanEval's shape: (name, prompt, entry point, body, tests)."""
# ruff: noqa: E501 - whole programs on one line

PROBLEMS = [
    ("double", 'def double(x: int) -> int:\n    """Twice x.\n    >>> double(2)\n    4\n    """\n', "double",
     "    return 2 * x\n", "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n"),
    ("mean", 'from typing import List\n\n\ndef mean(xs: List[float]) -> float:\n    """Mean."""\n', "mean",
     "    return sum(xs) / len(xs)\n", "def check(candidate):\n    assert abs(candidate([1.0, 2.0]) - 1.5) < 1e-6\n"),
    ("words", 'def words(s):\n    """Words and their counts."""\n', "words",
     "    return {w: s.split().count(w) for w in s.split()}\n",
     "def check(candidate):\n    assert candidate('a b a') == {'a': 2, 'b': 1}\n    assert candidate('') == {}\n"),
    ("root", "import math\n\n\ndef poly(cs: list, x: float):\n    return sum(c * math.pow(x, i) for i, c in enumerate(cs))\n"
     '\n\ndef root(cs: list):\n    """A root of a polynomial of degree 1."""\n', "root", "    return -cs[0] / cs[1]\n",
     "def check(candidate):\n    import math\n    import random\n    import copy\n    rng = random.Random(42)\n"
     "    for _ in range(20):\n        cs = [rng.randint(-9, 9), rng.randint(1, 9)]\n"
     "        assert math.fabs(poly(cs, candidate(copy.deepcopy(cs)))) < 1e-4\n"),
    ("decode", 'def encode(s: str):\n    return s[1:] + s[:1]\n\n\ndef decode(s: str):\n    """Undo encode."""\n', "decode",
     "    return s[-1:] + s[:-1]\n",
     "def check(candidate):\n    for s in ('', 'a', 'abc'):\n        assert candidate(encode(s)) == s\n"),
    ("pair", 'def pair(a, b):\n    """Sum and product, as a tuple."""\n', "pair", "    return a + b, a * b\n",
     "METADATA = {'author': 'us'}\n\n\ndef check(candidate):\n    assert candidate(2, 3) == (5, 6)\n"),
    ("flag", 'def flag(x):\n    """Whether x is even."""\n', "flag", "    return x % 2 == 0\n",
     "def check(candidate):\n    assert candidate(2) is True\n    assert candidate(1) is False\n    assert True\n"),
    ("first", 'from typing import List, Optional\n\n\ndef first(xs: List[str]) -> Optional[str]:\n    """The first, or None."""\n',
     "first", "    return xs[0] if xs else None\n",
     "def check(candidate):\n    assert candidate([]) is None\n    assert candidate(['x', 'y']) == 'x'\n"),
    ("digest", 'def digest(text):\n    """md5 of a text, None for an empty one."""\n', "digest",
     "    import hashlib\n    return hashlib.md5(text.encode('ascii')).hexdigest() if text else None\n",
     "def check(candidate):\n    assert candidate('') is None\n    assert candidate('a') == '0cc175b9c0f1b6a831c399e269772661'\n"),
    ("big", 'def big(n):\n    """n factorial."""\n', "big", "    return 1 if n == 0 else n * big(n - 1)\n",
     "def check(candidate):\n    assert candidate(5) == 120\n    assert candidate(30) == 265252859812191058636308480000000\n"),
    ("unique", 'def unique(xs: list):\n    """Distinct items, in order."""\n', "unique", "    return sorted(set(xs))\n",
     "def check(candidate):\n    assert candidate([5, 3, 5]) == [3, 5]\n    xs = [2, 1]\n    candidate(xs)\n    assert xs == [2, 1]\n"),
]  # fmt: skip


def empty_body(prompt: str, body: str) -> str:
    return f"{prompt}    pass\n"
