"""What the tests of data_shapes are made of."""

from collections import Counter

from rpo_nb.config.schema import DataConfig
from rpo_nb.data.feedback import load_feedback

Q, GOOD, BAD = "Name a colour.", "Red.", "Bl"


def load(source, **config):
    return load_feedback(source, config=DataConfig(**config), return_report=True)


def rewards(feedback):
    return dict(zip(feedback["completion"], feedback["reward"], strict=True))


def told(report, action="dropped"):
    return Counter(row["reason"] for row in report if row["action"] == action)


ROWS = [
    {"prompt": Q, "completion": GOOD, "reward": 7.5},
    {"prompt": Q, "completion": 'Blue, perhaps; "or"\nnot.', "reward": 2.0},
]
