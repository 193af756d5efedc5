"""Every family that users bring: right, or refused by name. The table is docs/models.md."""

import warnings

import pytest
import torch
import transformers

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy import completing, encoding, forward, generation, load, logps, prefixes
from tests.policy import families
from tests.policy.families import DOCS, FAMILIES, FLOAT32, measured, page, tokenizer_of

REFUSED = {
    "ProphetNet",  # its logits come from another stream than its last states
    "FSMT",  # its decoder asks for masks that its model makes
    "NLLB-MoE",
    "BigBird-PEGASUS, sparse",
    "Doge",
}  # their rows depend on those beside
WHOLE = {
    "SwitchTransformers",
    "BLOOM",
    "MPT",
    "RecurrentGemma",
    "LFM2",
    "MiniMax",
    "Mamba",
    "RWKV",
    "Jamba",
    "Falcon H1",
    "Qwen 3 Next",
    "Qwen 3.5",
    "Nemotron-H",
}
VERSION = transformers.__version__.rpartition(".")[0]
OURS = f"of transformers {VERSION}:" in DOCS.read_text(encoding="utf-8")  # others may refuse more


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_right_or_refused_by_name(name):
    found = measured(name)
    near = 1e-3 if name in FLOAT32 else 1e-5  # parts of some are float32 whatever the model's dtype
    assert bool(found.refused) == (name in REFUSED) or not OURS
    if found.refused:
        assert found.refused.startswith(f"{found.model}: ") and "\n" not in found.refused
        assert "use another architecture" in found.refused
        return
    assert found.texts == (5, 5)
    assert found.whole < near and found.grouped < near
    assert found.gradient < (1e-3 if name in FLOAT32 else 1e-6)
    assert found.shared == (name not in WHOLE) or not OURS
    slower = [sentence for sentence in found.said if "slower but to the same" in sentence]
    assert len(slower) == (not found.shared) + bool(found.way)


def test_the_page_of_models_is_this_table():
    if not OURS:
        pytest.skip(f"docs/models.md is of another transformers than {VERSION}")
    assert DOCS.read_text(encoding="utf-8") == page([measured(name) for name in FAMILIES]), (
        "run python -m tests.policy.families"
    )


# ---- special tokens --------------------------------------------------------------------------


def encoded(kind, *, causal=None, prompt="red lamp", completion="green rope"):
    tokenizer = tokenizer_of(kind)
    if causal is not None:
        tokenizer.for_causal_model = causal
    ((ids, answer),) = encoding.encode(
        tokenizer, [prompt], [completion], max_prompt_tokens=8, max_completion_tokens=8
    )
    return [tokenizer.convert_ids_to_tokens(part) for part in (ids, answer)]


@pytest.mark.parametrize(
    ("kind", "causal", "prompt", "completion"),
    [
        ("plain", None, "red lamp", "green rope </s>"),
        ("BOS", None, "<s> red lamp", "green rope </s>"),
        ("both", True, "<s> red lamp", "green rope </s>"),
        ("EOS", True, "red lamp", "green rope </s>"),
        ("EOS", None, "red lamp </s>", "green rope </s>"),
        ("both", None, "<s> red lamp </s>", "<s> green rope </s>"),
        ("language", None, "en_XX red lamp </s>", "en_XX green rope </s>"),
        ("turn", None, "<turn> red lamp </turn> <turn>", "green rope </turn>"),
    ],
)
def test_what_a_tokenizer_adds_is_there_and_a_causal_prompt_is_not_ended(
    kind, causal, prompt, completion
):
    assert encoded(kind, causal=causal) == [prompt.split(), completion.split()]


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("BOS", "<s> red lamp red red lamp red lamp"),
        ("both", "<s> red lamp red lamp red lamp </s>"),
        ("turn", "<turn> red lamp lamp red lamp </turn> <turn>"),
    ],
)
def test_too_long_a_text_keeps_its_special_tokens(kind, prompt):
    found, answer = encoded(kind, prompt="red lamp " * 9, completion="green rope " * 9)
    assert found == prompt.split()
    assert len(answer) == 8 and answer[-1] in ("</s>", "</turn>")


def test_a_target_text_has_the_code_of_its_own_language():
    """As NLLB's tokenizer has it; mBART's older one puts it after the end, unread."""
    from transformers import NllbTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abc"]
    tokenizer = NllbTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        src_lang="eng_Latn",
        tgt_lang="ron_Latn",
    )
    ((ids, answer),) = encoding.encode(
        tokenizer, ["a"], ["b"], max_prompt_tokens=8, max_completion_tokens=8
    )
    assert ids == tokenizer("a")["input_ids"]
    assert answer == tokenizer(text_target="b")["input_ids"] != tokenizer("b")["input_ids"]
    tokenizer.legacy_behaviour = True
    ((_, answer),) = encoding.encode(
        tokenizer, ["a"], ["b"], max_prompt_tokens=8, max_completion_tokens=8
    )
    assert answer == tokenizer("b", add_special_tokens=False)["input_ids"] + [2]


def test_a_tokenizer_whose_special_tokens_cannot_be_told_is_refused():
    """No BOS, in silence, would be the worse."""
    from tokenizers import normalizers

    tokenizer = tokenizer_of("BOS")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("a", "")
    with pytest.raises(ValueError, match="which tokens it adds.*use another tokenizer"):
        encoding.encode(tokenizer, ["red"], ["red"], max_prompt_tokens=8, max_completion_tokens=8)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}<turn> {{ m.content }} </turn> </s>{% endfor %}", "</turn>"),
        ("{% for m in messages %}<turn> {{ m.content }}</s> {% endfor %}", "</s>"),
        ("{% for m in messages %}<turn> {{ m.content }} door </turn> {% endfor %}", "door </turn>"),
        ("{% for m in messages %}<turn> {{ m.content }} {% endfor %}", "</s>"),
    ],
)
def test_a_completion_ends_as_the_template_ends_a_turn(template, end):
    tokenizer = tokenizer_of("turn")
    tokenizer.chat_template = template
    assert tokenizer.convert_ids_to_tokens(encoding.end_of_turn(tokenizer)) == end.split()


def test_a_causal_model_that_is_loaded_gets_no_end_after_its_prompt(tmp_path):
    """Whatever its tokenizer adds: the model says what it is."""
    for kind, name in (("both", "Llama"), ("both", "BART")):
        families.build(name).float().save_pretrained(tmp_path / name)
        tokenizer_of(kind).save_pretrained(tmp_path / name)
        for tokenizer in (
            load.load_policy(tmp_path / name)[1],
            load.load_tokenizer(tmp_path / name),
        ):
            ((ids, _),) = encoding.encode(
                tokenizer, ["red"], [""], max_prompt_tokens=8, max_completion_tokens=8
            )
            last = {"Llama": "red", "BART": "</s>"}[name]
            assert tokenizer.convert_ids_to_tokens(ids)[-1] == last


def scripted(monkeypatch, model, tokens):
    """The model says these tokens, whatever it reads."""
    real = model.forward

    def said(*args, **kwargs):
        out = real(*args, **kwargs)
        read = kwargs["attention_mask"].shape[1] - said.start
        out.logits[:, -1] = -50.0
        out.logits[:, -1, tokens[read]] = 50.0
        return out

    said.start = 0
    monkeypatch.setattr(model, "forward", said)
    return said


@pytest.mark.parametrize(("stop", "named"), [("</turn>", None), ("</s>", None), ("ro_RO", "ro_RO")])
def test_sampling_stops_at_every_end_and_says_none_of_it(stop, named, monkeypatch):
    model, tokenizer = families.build("Llama"), tokenizer_of("turn")
    number = tokenizer.convert_tokens_to_ids
    if named:
        model.generation_config.eos_token_id = [1, number(named)]
    monkeypatch.setattr(generation, "way_of", lambda core: completing._complete)
    said = scripted(monkeypatch, model, [number(t) for t in ("red", "lamp", stop, *["rope"] * 9)])
    said.start = 4  # of the prompt in its template
    greedy = DecodingConfig(do_sample=False, max_new_tokens=8)
    (text,) = generation.generate(
        model, tokenizer, ["door"], decoding=greedy, seed=0, batch_size=1, max_prompt_tokens=8
    )
    assert text == "red lamp"
    assert set(generation.stop_tokens(model, tokenizer)) >= {1, number("</turn>"), number(stop)}


def test_an_end_that_a_checkpoint_forces_at_the_limit_was_not_drawn():
    """BART, mBART and PEGASUS force one, which KL and entropy must not count."""
    model, tokenizer = families.build("BART").float(), tokenizer_of("both")
    drawn = {}
    for forced in (None, 1):
        model.generation_config.forced_eos_token_id = forced
        drawn[forced] = generation.samples(
            model,
            tokenizer,
            families.PROMPTS,
            decoding=DecodingConfig(max_new_tokens=4),
            seed=0,
            batch_size=4,
            max_prompt_tokens=32,
        )
    cut = [i for i, one in enumerate(drawn[None]) if 1 not in one.ids]
    assert cut
    for i in cut:
        assert drawn[1][i].ids == drawn[None][i].ids[:3]


# ---- windows, heads, positions ----------------------------------------------------------------

GREEDY = {
    "decoding": DecodingConfig(do_sample=False, max_new_tokens=4),
    "seed": 0,
    "batch_size": 4,
    "max_prompt_tokens": 32,
}


def test_padding_that_moves_logits_is_seen_where_it_moves_no_token(monkeypatch):
    """RecurrentGemma reads left padding, and most of its greedy tokens hide it."""
    model, tokenizer = families.build("Llama").float(), tokenizer_of("BOS")
    plain = model.forward

    def padded(*args, **kwargs):
        out = plain(*args, **kwargs)
        beside = (kwargs["attention_mask"] == 0).any(1)
        lowest = out.logits[:, -1].argmin(-1)
        out.logits[beside, -1, lowest[beside]] -= 1.0
        return out

    monkeypatch.setattr(model, "forward", padded)
    with pytest.warns(UserWarning, match="Llama.*prompts of one length at a time.*logits"):
        generation.generate(model, tokenizer, families.PROMPTS, **GREEDY)


def test_a_model_whose_generate_passes_its_processors_by_is_refused(monkeypatch):
    """Its completions would be greedy where samples are asked for."""
    model, tokenizer = families.build("Llama").float(), tokenizer_of("BOS")
    plain = model.generate
    monkeypatch.setattr(
        model,
        "generate",
        lambda **asked: plain(
            **{name: value for name, value in asked.items() if name != "logits_processor"}
        ),
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM: .*passes its logits by.*another"):
        generation.generate(model, tokenizer, families.PROMPTS, **GREEDY)


def test_broken_weights_are_the_rows_error_and_no_architectures():
    model, tokenizer = families.build("Llama").float(), tokenizer_of("BOS")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    drawn = generation.samples(model, tokenizer, families.PROMPTS, **GREEDY)
    with pytest.raises(ValueError, match="row 0: its log-probability"):
        logps.score_completions(model, tokenizer, [one.row for one in drawn])


@pytest.mark.parametrize("least", [float("-inf"), torch.finfo(torch.float32).min])
def test_a_token_that_a_model_never_says_hides_no_other_difference(least, monkeypatch):
    """Its logit has no size that the others could be compared with."""
    model, tokenizer = families.build("BART").float(), tokenizer_of("both")
    model.final_logits_bias[0, 7] = least
    rows = encoding.encode(tokenizer, ["red"], ["green"], **families.LIMITS)
    assert logps.score_completions(model, tokenizer, rows)[0].isfinite().all()
    forward._FACTORS.pop(model)
    plain = model.forward

    def more(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits[..., 8] += 1
        return out

    monkeypatch.setattr(model, "forward", more)
    with pytest.raises(ValueError, match="BartFor.*use another architecture"):
        logps.score_completions(model, tokenizer, rows)


def test_rounding_of_bfloat16_refuses_no_deep_model():
    """48 layers came to 1.8 % of the largest logit, where a cap is looked for to 5.4 % of it."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        **FAMILIES["Gemma 2"][2]
        | {
            "hidden_size": 256,
            "num_hidden_layers": 48,
            "num_attention_heads": 8,
            "head_dim": 32,
            "intermediate_size": 768,
            "vocab_size": 2000,
        }
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, weight.shape[-1] ** -0.5)
        model.get_output_embeddings().weight.mul_(4)
    model = model.bfloat16().eval()
    rows = encoding.encode(tokenizer_of("BOS"), ["red"], ["green"], **families.LIMITS)
    assert logps.score_completions(model, tokenizer_of("BOS"), rows)[0].isfinite().all()
    generation.generate(model, tokenizer_of("BOS"), families.PROMPTS, **GREEDY)


def test_step_0_of_a_windowed_model_has_no_log_ratio(monkeypatch):
    """The policy, prompts read once, against the reference, row by row, beyond the window."""
    model = families.build("Mistral").float()
    rows = encoding.encode(tokenizer_of("BOS"), families.ROWS, families.TEXTS, **families.LIMITS)
    alone = torch.cat([logps.score_completions(model, tokenizer_of("BOS"), [r])[0] for r in rows])
    monkeypatch.setattr(prefixes, "overhead", lambda _: 0.0)
    monkeypatch.setattr(logps, "overhead", lambda _: 1e9)
    together = logps.grouped_logps(model.train(), logps.collate(rows, pad_id=0), reduce="sum")
    assert prefixes._READS[model] == {3: True, families.W + 3: True}
    torch.testing.assert_close(together.logps, alone, rtol=1e-5, atol=1e-4)


def test_a_window_that_the_configuration_hides_is_found_by_no_rule_but_by_the_check(monkeypatch):
    """A model whose shared prefixes go wrong beyond its window reads whole rows, and says so."""
    model = families.build("Mistral")
    rows = encoding.encode(tokenizer_of("BOS"), families.ROWS, families.TEXTS, **families.LIMITS)
    monkeypatch.setattr(prefixes, "overhead", lambda _: 0.0)
    kept = prefixes._kept

    def right(core, ids, mask):  # as if padding on the right were right for any window
        with monkeypatch.context() as patch:
            patch.setattr(prefixes, "narrowest_window", lambda _: None)
            return kept(core, ids, mask)

    monkeypatch.setattr(prefixes, "_kept", right)
    with pytest.warns(UserWarning, match="MistralForCausalLM reads every prompt again"):
        found = logps.grouped_logps(model, logps.collate(rows, pad_id=0), reduce="sum").logps
    torch.testing.assert_close(found, families.plain_logps(model, rows))


def test_caps_and_biases_count_however_small_they_were_when_the_model_was_tried():
    model = families.build("Gemma 2").double()
    rows = encoding.encode(tokenizer_of("BOS"), families.ROWS, families.TEXTS, **families.LIMITS)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(1e-3)
        for _ in range(2):
            whole = logps.sequence_logps(model, *families.whole_rows(model, rows), reduce="sum")
            torch.testing.assert_close(whole, families.plain_logps(model, rows))
            head.mul_(1e4)


def test_a_projection_of_zeros_hides_its_scale_and_is_refused():
    model = families.build("Granite")
    rows = encoding.encode(tokenizer_of("plain"), ["red"], ["green"], **families.LIMITS)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    with pytest.raises(ValueError, match="GraniteForCausalLM.*logits are equal"):
        logps.score_completions(model, tokenizer_of("plain"), rows)


def test_positions_that_depend_on_the_batch_are_told_at_load(tmp_path):
    families.build("Phi-3, LongRoPE").float().save_pretrained(tmp_path)
    tokenizer_of("turn").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="Phi3ForCausalLM scales.*longrope.*48 tokens"):
        load.load_policy(tmp_path)
    assert forward.depends_on_the_batch(families.build("Llama")) == ""


def test_a_decoder_without_a_start_is_refused_by_name():
    from transformers import MBartConfig, MBartForConditionalGeneration

    config = MBartConfig(**families.BART | {"decoder_start_token_id": None})
    model = MBartForConditionalGeneration(config)
    with pytest.raises(ValueError, match="MBartForConditionalGeneration.*decoder_start_token_id"):
        logps.score_completions(model, tokenizer_of("language"), [([6, 9, 1], [10, 1])])


def test_rows_that_depend_on_those_beside_are_refused_at_load(tmp_path):
    families.build("NLLB-MoE").float().save_pretrained(tmp_path)
    tokenizer_of("language").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NllbMoe.*depend on the rows beside.*use another"):
        load.load_policy(tmp_path)


def test_lora_names_an_architecture_whose_projections_peft_does_not_know():
    with pytest.raises(ValueError, match="training.lora.*MambaForCausalLM.*set it to false"):
        load.add_lora(families.build("Mamba").float(), 4)


def test_an_error_without_a_text_is_told_by_its_kind():
    assert forward.told(AssertionError()) == "AssertionError"
    assert forward.told(ValueError("one\ntwo")) == "ValueError: one"


@pytest.mark.parametrize(
    "decoding",
    [
        DecodingConfig(do_sample=False, max_new_tokens=6, repetition_penalty=1.5),
        DecodingConfig(max_new_tokens=6, repetition_penalty=1.5),
    ],
)
def test_a_penalty_does_not_count_the_padding_of_a_batch(decoding, monkeypatch):
    """transformers 5.15 counts it: where the end pads, rows beside longer ones went on."""
    model, tokenizer = families.build("Llama").float(), tokenizer_of("plain")
    tokenizer.pad_token = tokenizer.eos_token
    plain = model.forward

    def ending(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits[..., 1] = 1 + out.logits.abs().max(-1).values  # the end is the likeliest
        return out

    monkeypatch.setattr(model, "forward", ending)
    prompts = [*families.PROMPTS, "red", "red"]
    together, alone = (
        [
            one.ids
            for one in generation.samples(
                model, tokenizer, prompts, **GREEDY | {"decoding": decoding, "batch_size": size}
            )
        ]
        for size in (len(prompts), 1)
    )
    assert together == alone
    assert decoding.do_sample or set(together) == {(1,)}


@pytest.mark.parametrize(
    "own",
    [
        {"suppress_tokens": list(range(8, 28))},
        {"begin_suppress_tokens": list(range(1, 28))},
        {"bad_words_ids": [[i] for i in range(8, 28)]},
        {"sequence_bias": [[[i], -90.0] for i in range(2, 28)]},
    ],
    ids=lambda own: next(iter(own)),
)
@pytest.mark.parametrize("name", ["Llama", "T5", "BART"])
def test_what_a_checkpoint_says_of_its_tokens_is_followed(name, own):
    """As `model.generate` does, in rows that go on when others have ended, too."""
    tokenizer, kept = tokenizer_of(FAMILIES[name][0]), {}
    for config in ({}, own):
        model = families.build(name)
        model.generation_config.update(**config)
        (same, asked), _ = families.same_texts(model, tokenizer)
        assert same == asked
        kept[bool(config)] = generation.generate(model, tokenizer, families.PROMPTS, **GREEDY)
    assert kept[True] != kept[False]


def test_words_that_must_not_begin_a_completion_may_go_on_in_it(monkeypatch):
    """In rows that go on from their cache, as half of a batch has ended, too."""
    model, tokenizer = families.build("Llama").float(), tokenizer_of("plain")
    plain, red = model.forward, tokenizer.convert_tokens_to_ids("red")
    model.generation_config.begin_suppress_tokens = [red]

    def scripted(*args, **kwargs):  # red for ever, but a chair where that may not be; two rows end
        out, read = plain(*args, **kwargs), kwargs["attention_mask"].sum(1)
        out.logits[:, -1] = -50.0
        out.logits[:, -1, red], out.logits[:, -1, red + 5] = 50.0, 40.0
        out.logits[(read > 3) & (read < 9), -1, 1] = 60.0
        return out

    monkeypatch.setattr(generation, "way_of", lambda core: completing._complete)
    monkeypatch.setattr(model, "forward", scripted)
    texts = generation.generate(model, tokenizer, ["red " * n for n in (3, 3, 12, 10)], **GREEDY)
    assert texts[2:] == ["chair red red red"] * 2 and "red red" not in texts[0]


def test_the_search_of_a_checkpoint_is_told_at_load(tmp_path):
    for name, kind, own in (
        ("BART", "both", {"num_beams": 4, "min_length": 5}),
        (
            "Llama",
            "BOS",
            {"temperature": 0.6, "do_sample": True, "num_beams": 1, "repetition_penalty": 1.0},
        ),
    ):
        model = families.build(name).float()
        model.generation_config.update(**own)
        model.save_pretrained(tmp_path / name)
        tokenizer_of(kind).save_pretrained(tmp_path / name)
    with pytest.warns(UserWarning, match="BartFor.*num_beams 4, min_length 5, which.*profile"):
        load.load_policy(tmp_path / "BART")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load.load_policy(tmp_path / "Llama")


@pytest.mark.parametrize("error", [KeyError("a fault"), torch.OutOfMemoryError("a fault")])
@pytest.mark.parametrize(
    "place", ["forward.whole_states", "prefixes._kept", "completing._complete"]
)
def test_a_fault_is_not_told_as_what_an_architecture_cannot(place, error, monkeypatch):
    model, tokenizer = families.build("Llama").float(), tokenizer_of("BOS")

    def broken(*args, **kwargs):
        raise error

    module, name = place.split(".")
    monkeypatch.setattr(f"rpo_nb.policy.{place}", broken)
    monkeypatch.setattr(completing, "WAYS", {broken: "", completing._complete_alone: "alone"})
    with pytest.raises(type(error), match="a fault"):
        if module == "forward":
            forward.head_of(model)
        elif module == "prefixes":
            prefixes.reads_cache(model)
        else:
            generation.generate(model, tokenizer, families.PROMPTS, **GREEDY)
