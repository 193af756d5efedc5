"""Who writes, and what is taught."""

import numpy as np

from rpo_nb import pocket


def test_systems_differ_in_quality_as_they_claim_and_the_teacher_limits_no_size():
    rng = np.random.default_rng(0)
    prompts = pocket.make_prompts(300, rng=rng)
    mean = {
        s.name: np.mean([pocket.score(p, pocket.write(s, p, rng=rng)) for p in prompts])
        for s in (*pocket.SYSTEMS, pocket.DEMONSTRATOR)
    }
    assert mean["scholar-large"] > mean["scholar-small"] > mean["house-small"]
    # references learn from a careful teacher, whom none of them reaches (benchmarks/ladder.csv)
    assert mean["house"] > np.mean([mean[s.name] for s in pocket.SYSTEMS]) > 7


def test_completions_have_the_promised_length():
    rng = np.random.default_rng(1)
    lengths = [
        len(pocket.write(pocket.SYSTEMS[i % 6], p, rng=rng).split())
        for i, p in enumerate(pocket.make_prompts(600, rng=rng))
    ]
    assert np.percentile(lengths, 1) >= 5 and 10 <= np.mean(lengths) <= 22 and max(lengths) <= 40


def test_regimes_differ_in_who_writes_and_references_in_whom_they_learn_from():
    quality = {
        regime: np.mean(
            [
                pocket.score(r["instruction"], c["response"])
                for r in pocket.make_feedback(200, writers=writers)
                for c in r["completions"]
            ]
        )
        for regime, writers in pocket.WRITERS.items()
    }
    taught = {
        name: pocket.demonstrations(900, seed=0, demonstrator=name) for name in pocket.DEMONSTRATORS
    }
    score = {
        name: np.mean([pocket.score(*pair) for pair in pairs]) for name, pairs in taught.items()
    }
    assert quality["much_stronger"] > quality["stronger"] + 0.5
    # how much better than the references: benchmarks/regimes.csv, tests/studies/test_regimes.py
    assert score["house"] > score["weak"] + 1
    assert taught["house"] == pocket.demonstrations(900, seed=0)
    others = {
        name: sum(not text.startswith(("The ", "Here ", "You ")) for _, text in pairs)
        for name, pairs in taught.items()
    }
    assert others["house"] > 30 > others["narrow"]
