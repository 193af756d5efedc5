"""What the tests of plan are made of."""

from rpo_nb.planning import costs

A100 = costs.device("A100 80GB")
