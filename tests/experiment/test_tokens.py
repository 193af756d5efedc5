"""What tokenizers lose of texts."""

from pathlib import Path

import pytest

from rpo_nb import pocket
from rpo_nb.config import loading
from rpo_nb.experiment import references, tokenizers

T5 = Path(__file__).resolve().parents[3] / "shared" / "models" / "t5-tokenizer"
needs_t5 = pytest.mark.skipif(
    not T5.is_dir(), reason="T5's tokenizer, ../shared/models/t5-tokenizer, is not here"
)
CODE = "def f(x):\n    return {x: `y`} < z ^ ~w \\ {1}"


@pytest.fixture(scope="module")
def t5():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(T5)


def test_shares_and_characters_by_hand(tiny_t5):
    _, tokenizer = tiny_t5  # words of WORDS only, in lower case
    loss = tokenizers.lossy_text(
        tokenizer, ["red lamp", "red\nlamp", "Red lamp", "red zebra", "red lamp."]
    )
    # "red\nlamp" is one unknown word
    assert (loss.texts, loss.unknown, loss.newline) == (5, 2 / 5, 1 / 5)
    assert loss.changed == 3 / 5
    counts = dict(loss.characters.itertuples(index=False))
    assert counts["\n"] == 1 and counts["R"] == 1 and counts["z"] == 1
    assert "3" not in counts and list(loss.characters["count"]) == sorted(
        counts.values(), reverse=True
    )


def test_the_pockets_tokenizer_is_lossless_on_its_world():
    rows = pocket.make_feedback(40, seed=0)
    texts = [row["instruction"] for row in rows] + [
        c["response"] for row in rows for c in row["completions"]
    ]
    loss = tokenizers.lossy_text(pocket.make_tokenizer(), texts)
    assert (loss.changed, loss.unknown, loss.newline, len(loss.characters)) == (0, 0, 0, 0)
    assert loss.sentence == f"all {len(texts)} texts survive: lossless"


def test_a_tokenizer_trained_on_bytes_is_lossless_on_any_text():
    loss = tokenizers.lossy_text(
        references.train_tokenizer([CODE, "é 漢 🙂"]), [CODE, "é 漢 🙂", "never\tseen\u2028"]
    )
    assert loss.changed == loss.unknown == 0


@needs_t5
def test_t5s_tokenizer_loses_newlines_and_these_characters(t5):
    texts = ["Plain words, nothing else.", "Two\nlines", CODE, "two  spaces", "漢"]
    loss = tokenizers.lossy_text(t5, texts)
    counts = dict(loss.characters.itertuples(index=False))
    assert (loss.changed, loss.newline, loss.unknown) == (4 / 5, 2 / 5, 2 / 5)
    assert (
        counts["\n"] == 2 and counts["{"] == counts["}"] == counts["`"] == 2 and counts["漢"] == 1
    )
    assert all(counts[c] == 1 for c in "<\\~^") and "a" not in counts
    assert (
        "80 % of 5 texts do not survive; 40 % lose a newline, 40 % have an unknown token"
        in loss.sentence
    )


def test_no_text_is_an_error(tiny_t5):
    with pytest.raises(ValueError, match="no text to measure"):
        tokenizers.lossy_text(tiny_t5[1], [])


def test_a_profiles_tokenizers_and_the_sentence_for_one_that_cannot_be_had(
    tmp_path, tiny_t5, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    smoke = tokenizers.of_profile(loading.load_profile("smoke"), [])
    assert list(smoke) == ["small, large (word-level)"] and tokenizers.lossy_text(
        smoke["small, large (word-level)"], ["Write about a cat."]
    )
    tiny_t5[1].save_pretrained(tmp_path)
    own = tokenizers.of_profile(
        loading.load_profile("flan-t5", **{"sizes.small.id": str(tmp_path)}), []
    )
    assert list(own) == ["small", "large", "xl"] and own["small"]("red lamp")["input_ids"]
    assert own["large"].startswith(
        "its tokenizer cannot be had (the hub cannot be reached and it "
        "is not in the local cache): check"
    )
    trained = tokenizers.of_profile(
        loading.load_profile("smoke", feedback="x.jsonl", **{"sizes.*.tokenizer": ["train"]}),
        [(CODE, "b")],
    )
    assert tokenizers.lossy_text(trained["small, large"], [CODE]).changed == 0
