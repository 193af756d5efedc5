"""A chat with a policy and its reference: what is asked, what is told, and what is refused."""

from __future__ import annotations

import copy
import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rpo_nb import __main__ as command_line
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.evaluation import asking
from rpo_nb.experiment import grid, inputs
from rpo_nb.experiment.grid import Run
from rpo_nb.pocket import checker, violations
from rpo_nb.policy import encoding
from rpo_nb.store import read_json, seal, write_json
from rpo_nb.studies.browse import chat

CLONE = Path(__file__).parents[2] / "results" / "pocket"
PROMPT = (
    "Write two sentences about a silver lantern beside the lake. Keep a calm tone, mention music "
    "and avoid tall."
)
TEMPLATE = (
    "{% for m in messages %}about {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %}please {% endif %}"
)


def pair_of(model, tokenizer, reference=None, profile=None) -> chat.Pair:
    profile = profile or load_profile("smoke")
    run = Run("rpo", 0.3, "small", 0, "fixed", decoding=profile.decoding)
    pair = chat.Pair(SimpleNamespace(profile=profile, run=run), model, tokenizer, "")
    if reference is not None:
        pair.loaded = reference
    return pair


def test_the_reference_beside_itself_says_the_same_with_a_log_ratio_of_nothing(tiny_t5):
    model, tokenizer = tiny_t5
    mine, theirs = pair_of(model, tokenizer, copy.deepcopy(model)).answer("the red lamp")
    assert (mine["who"], theirs["who"]) == ("RPO τ 0.3", "reference")
    assert mine["completion"] == theirs["completion"]
    assert mine["log_ratio"] == theirs["log_ratio"] == 0.0


def test_the_log_ratio_is_of_policy_over_reference(tiny_t5):
    model, tokenizer = tiny_t5
    policy = copy.deepcopy(model)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)
    mine, theirs = pair_of(policy, tokenizer, model).answer("the red lamp")
    swapped = pair_of(model, tokenizer, policy).answer("the red lamp")
    assert mine["log_ratio"] != 0
    assert [one["log_ratio"] for one in swapped] == pytest.approx(
        [-theirs["log_ratio"], -mine["log_ratio"]]
    )


def test_of_an_adapter_the_reference_is_the_model_without_it(tiny_llama):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny_llama
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["v_proj"],
        lora_alpha=200,  # an adapter that changes what is said
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(copy.deepcopy(model), config).eval()
    mine, theirs = pair_of(adapted, tokenizer).answer("the red lamp")
    merged = copy.deepcopy(adapted).merge_and_unload()  # the policy as a model of its own
    expected = pair_of(merged, tokenizer, model).answer("the red lamp")
    assert mine["completion"] != theirs["completion"] and abs(mine["log_ratio"]) > 1e-3
    for one, other in zip((mine, theirs), expected, strict=True):
        assert one["completion"] == other["completion"]
        assert one["log_ratio"] == pytest.approx(other["log_ratio"], abs=1e-4)


def test_a_chat_model_reads_a_line_as_a_message_in_its_template(tiny_llama, monkeypatch):
    model, tokenizer = tiny_llama
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    asked = []
    samples = chat.samples

    def spy(*arguments, **settings):
        drawn = samples(*arguments, **settings)
        asked.extend(one.prompt for one in drawn)
        return drawn

    monkeypatch.setattr(chat, "samples", spy)
    pair_of(model, tokenizer, model).answer("the red lamp")
    ((trained, _),) = encoding.encode(
        tokenizer,
        [[{"role": "user", "content": "the red lamp"}]],
        ["a"],
        max_prompt_tokens=64,
        max_completion_tokens=8,
    )
    assert asked == [tuple(trained)] * 2
    assert tokenizer.decode(trained).startswith("about")


def test_a_prompt_asked_again_is_another_draw(tiny_t5):
    model, tokenizer = tiny_t5
    pair = pair_of(model, tokenizer, model)
    assert len({pair.answer("the red lamp")[0]["completion"] for _ in range(5)}) > 1


def test_only_the_pocket_world_knows_a_reward_and_only_of_its_prompts(tiny_t5):
    model, tokenizer = tiny_t5
    (mine, _) = pair_of(model, tokenizer, model).answer(PROMPT)
    assert mine["reward"] == checker.score(PROMPT, mine["completion"])
    assert mine["lost"] == violations.lost(PROMPT, mine["completion"])
    assert pair_of(model, tokenizer, model).answer("the red lamp")[0]["reward"] is None
    told = "\n".join(chat.lines_of([mine | {"lost": ["place"], "reward": 2.5}]))
    assert "2.50 of 10; lost: place; log-ratio" in told


# ---- a finished run ------------------------------------------------------------------------------


def test_a_clone_has_no_policies_and_says_so_in_one_sentence(tmp_path, capsys):
    # here `make reproduce` may have made them
    cloned = shutil.copytree(CLONE, tmp_path / "pocket", ignore=shutil.ignore_patterns("runs"))
    assert command_line.main(["chat", str(cloned)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no policies" in line and "reproduce" in line


def test_a_finished_policy_answers_lines_from_a_file(reproduction, monkeypatch, capsys):
    monkeypatch.setenv("RPO_NB_CACHE", str(reproduction.cache))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROMPT}\n\n{PROMPT}\n"))
    assert command_line.main(["chat", str(reproduction.out), "--size", "small"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"> {PROMPT}") == 2 and printed.count("  reference: ") == 2
    assert printed.count("  RPO τ 0.3: ") == 2 and printed.count(" of 10; ") == 4


def test_a_policy_of_earlier_code_stands_beside_its_own_reference_or_is_refused(
    tmp_path, tiny_t5, monkeypatch
):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    model, tokenizer = tiny_t5
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "base")
    more = {"sizes.small.id": str(tmp_path / "base")}
    profile, out = load_profile("smoke", sizes="small", seeds="0", **more), tmp_path / "mine"
    write_profile(profile, out / "profile.yaml")
    (run,) = asking.chosen_runs(profile, presets="fixed", methods="rpo")
    folder = out / "runs" / "rpo-small-seed0-earlier"
    shutil.copytree(tmp_path / "base", folder / "policy")
    known = inputs.inputs_key(profile, run, inputs.prepare(profile, "small", 0))
    write_json(folder / "recipe.json", run.recipe | {"code": "earlier", "inputs": known})

    def opened(**stamp: str) -> chat.Pair:
        seal(folder, stamp)
        return chat.open_pair(out)

    assert opened(world=grid.world_key(profile, "small", 0)).chosen.folder == folder
    # the code is another one, and what it was trained on the same
    assert opened(world="earlier", inputs=known).chosen.folder == folder
    for stamp in ({"world": "earlier", "inputs": "of another reference"}, {}):
        with pytest.raises(ValueError, match="rpo-small-seed0-earlier was trained from another"):
            opened(**stamp)


def test_a_policy_without_its_weights_is_refused(reproduction, tmp_path, monkeypatch):
    monkeypatch.setenv("RPO_NB_CACHE", str(reproduction.cache))
    out = tmp_path / "light"
    shutil.copytree(reproduction.out, out, ignore=shutil.ignore_patterns("notebooks"))
    for done in (out / "runs").glob("rpo-small-seed0-*/done.json"):
        stamp = read_json(done)
        weights = {n: h for n, h in stamp["sha256"].items() if n.startswith("policy/")}
        kept = {n: h for n, h in stamp["sha256"].items() if n not in weights}
        shutil.rmtree(done.parent / "policy")
        write_json(done, stamp | {"sha256": kept, "left_out": weights})
    with pytest.raises(ValueError, match="without its weights"):
        chat.open_pair(out, size="small")
