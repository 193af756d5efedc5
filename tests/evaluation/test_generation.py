"""Generation and metrics: hand-computed numbers, the libraries' own answers, and what must not
change a result."""

from __future__ import annotations

import itertools
import math

import nltk
import pytest
import torch

from rpo_nb.config.methods import METHODS
from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy.completing import RowSampling
from rpo_nb.policy.generation import generate, released_decoding, row_stream, samples

PROMPTS = [
    "the red lamp",
    "please write about the old boat in the harbour.",
    "a chair",
    "mention the small green book, and avoid the mat.",
]
SHORT = {"max_prompt_tokens": 32, "batch_size": 4}


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def tiny(request):
    return request.getfixturevalue(request.param)


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
