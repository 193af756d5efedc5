"""Windows, heads, positions."""

import warnings

import pytest
import torch
import transformers

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy import completing, encoding, forward, generation, heads, load, logps, prefixes
from tests.policy import families, family_configs
from tests.policy.family_configs import FAMILIES, tokenizer_of

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
        generation.generate(model, tokenizer, family_configs.PROMPTS, **GREEDY)


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
        generation.generate(model, tokenizer, family_configs.PROMPTS, **GREEDY)


def test_broken_weights_are_the_rows_error_and_no_architectures():
    model, tokenizer = families.build("Llama").float(), tokenizer_of("BOS")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    drawn = generation.samples(model, tokenizer, family_configs.PROMPTS, **GREEDY)
    with pytest.raises(ValueError, match="row 0: its log-probability"):
        logps.score_completions(model, tokenizer, [one.row for one in drawn])


@pytest.mark.parametrize("least", [float("-inf"), torch.finfo(torch.float32).min])
def test_a_token_that_a_model_never_says_hides_no_other_difference(least, monkeypatch):
    """Its logit has no size that the others could be compared with."""
    model, tokenizer = families.build("BART").float(), tokenizer_of("both")
    model.final_logits_bias[0, 7] = least
    rows = encoding.encode(tokenizer, ["red"], ["green"], **family_configs.LIMITS)
    assert logps.score_completions(model, tokenizer, rows)[0].isfinite().all()
    heads._FACTORS.pop(model)
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
    rows = encoding.encode(tokenizer_of("BOS"), ["red"], ["green"], **family_configs.LIMITS)
    assert logps.score_completions(model, tokenizer_of("BOS"), rows)[0].isfinite().all()
    generation.generate(model, tokenizer_of("BOS"), family_configs.PROMPTS, **GREEDY)


def test_step_0_of_a_windowed_model_has_no_log_ratio(monkeypatch):
    """The policy, prompts read once, against the reference, row by row, beyond the window."""
    model = families.build("Mistral").float()
    rows = encoding.encode(
        tokenizer_of("BOS"), family_configs.ROWS, family_configs.TEXTS, **family_configs.LIMITS
    )
    alone = torch.cat([logps.score_completions(model, tokenizer_of("BOS"), [r])[0] for r in rows])
    monkeypatch.setattr(prefixes, "overhead", lambda _: 0.0)
    monkeypatch.setattr(logps, "overhead", lambda _: 1e9)
    together = logps.grouped_logps(model.train(), logps.collate(rows, pad_id=0), reduce="sum")
    assert prefixes._READS[model] == {3: True, family_configs.W + 3: True}
    torch.testing.assert_close(together.logps, alone, rtol=1e-5, atol=1e-4)


def test_a_window_that_the_configuration_hides_is_found_by_no_rule_but_by_the_check(monkeypatch):
    """A model whose shared prefixes go wrong beyond its window reads whole rows, and says so."""
    model = families.build("Mistral")
    rows = encoding.encode(
        tokenizer_of("BOS"), family_configs.ROWS, family_configs.TEXTS, **family_configs.LIMITS
    )
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
    rows = encoding.encode(
        tokenizer_of("BOS"), family_configs.ROWS, family_configs.TEXTS, **family_configs.LIMITS
    )
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(1e-3)
        for _ in range(2):
            whole = logps.sequence_logps(model, *families.whole_rows(model, rows), reduce="sum")
            torch.testing.assert_close(whole, families.plain_logps(model, rows))
            head.mul_(1e4)


def test_a_projection_of_zeros_hides_its_scale_and_is_refused():
    model = families.build("Granite")
    rows = encoding.encode(tokenizer_of("plain"), ["red"], ["green"], **family_configs.LIMITS)
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

    config = MBartConfig(**family_configs.BART | {"decoder_start_token_id": None})
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
    prompts = [*family_configs.PROMPTS, "red", "red"]
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
        kept[bool(config)] = generation.generate(model, tokenizer, family_configs.PROMPTS, **GREEDY)
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

    monkeypatch.setattr(generation, "way_of", lambda core: next(iter(completing.WAYS)))
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
@pytest.mark.parametrize("place", ["heads.whole_states", "prefixes._kept", "completing.WAYS"])
def test_a_fault_is_not_told_as_what_an_architecture_cannot(place, error, monkeypatch):
    model, tokenizer = families.build("Llama").float(), tokenizer_of("BOS")

    def broken(*args, **kwargs):
        raise error

    module, name = place.split(".")
    if module != "completing":
        monkeypatch.setattr(f"rpo_nb.policy.{place}", broken)
    slowest = list(completing.WAYS)[-1]
    monkeypatch.setattr(completing, "WAYS", {broken: "", slowest: "alone"})
    with pytest.raises(type(error), match="a fault"):
        if module == "heads":
            heads.head_of(model)
        elif module == "prefixes":
            prefixes.reads_cache(model)
        else:
            generation.generate(model, tokenizer, family_configs.PROMPTS, **GREEDY)
