"""What the tests of data are made of."""

import json

from rpo_nb.config.schema import DataConfig
from rpo_nb.data.feedback import load_feedback

EXPECTED = [
    ("Name a colour.", "Red.", 9.0),
    ("Name a colour.", "Blue, perhaps.", 4.5),
    ("Name a town.", "Oslo.", 8.0),
    ("Name a town.", "Fog.", 1.0),
]


def ultrafeedback(
    prompt="Name a colour.", answers=(("Red.", 9.0), ("Blue, perhaps.", 4.5)), **more
):
    return {
        "source": "here",
        "instruction": prompt,
        "models": [],
        **more,
        "completions": [
            {
                "model": f"m{i}",
                "response": text,
                "annotations": {"honesty": {"Rating": "5"}},
                "overall_score": score,
            }
            for i, (text, score) in enumerate(answers)
        ],
    }


GOOD = ultrafeedback()
ROWS = [GOOD, ultrafeedback("Name a town.", (("Oslo.", 8.0), ("Fog.", 1.0)))]
NESTED = [
    {
        "prompt": prompt,
        "responses": [
            {"text": text, "reward": reward} for p, text, reward in EXPECTED if p == prompt
        ],
    }
    for prompt in ("Name a colour.", "Name a town.")
]
FLAT = [{"prompt": p, "completion": t, "reward": r} for p, t, r in EXPECTED]


def lines(path, *rows, end="\n"):
    """Rows (dicts, or raw lines as str or bytes) as a JSON-lines file."""
    raw = [
        row
        if isinstance(row, bytes)
        else (row if isinstance(row, str) else json.dumps(row)).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + end.encode() for line in raw))
    return path


def load(source, **config):
    return load_feedback(source, config=DataConfig(**config), return_report=True)


def triples(feedback):
    return list(zip(feedback["prompt"], feedback["completion"], feedback["reward"], strict=True))


def reasons(report):
    return [(row["line"], row["field"], row["reason"], row["action"]) for row in report]
