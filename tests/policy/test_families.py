"""Every family that users bring: right, or refused by name. The table is docs/models.md."""

import pytest
import transformers

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy import completing, encoding, generation, load
from tests.policy import families, family_configs
from tests.policy.families import measured, page
from tests.policy.family_configs import DOCS, FAMILIES, FLOAT32, tokenizer_of
from tests.policy.scripts import scripted

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


@pytest.mark.parametrize(("stop", "named"), [("</turn>", None), ("</s>", None), ("ro_RO", "ro_RO")])
def test_sampling_stops_at_every_end_and_says_none_of_it(stop, named, monkeypatch):
    model, tokenizer = families.build("Llama"), tokenizer_of("turn")
    number = tokenizer.convert_tokens_to_ids
    if named:
        model.generation_config.eos_token_id = [1, number(named)]
    monkeypatch.setattr(generation, "way_of", lambda core: next(iter(completing.WAYS)))
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
            family_configs.PROMPTS,
            decoding=DecodingConfig(max_new_tokens=4),
            seed=0,
            batch_size=4,
            max_prompt_tokens=32,
        )
    cut = [i for i, one in enumerate(drawn[None]) if 1 not in one.ids]
    assert cut
    for i in cut:
        assert drawn[1][i].ids == drawn[None][i].ids[:3]
