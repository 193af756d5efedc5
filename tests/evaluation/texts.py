"""What the tests of evaluation are made of."""

from __future__ import annotations

import random


def random_texts(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    vocabulary = "the cat sat on a mat and red lamp stood near it quietly .".split()
    return [" ".join(draw.choices(vocabulary, k=draw.randint(1, 14))) for _ in range(n)]
