"""The profile of the published reproduction, end to end without a hub: folders of the same layout
stand for its models and data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from rpo_nb import pocket
from rpo_nb.experiment import references
from rpo_nb.reporting.published import published_numbers

ROOT = Path(__file__).parents[2]
T5_TOKENIZER = ROOT.parent / "shared" / "models" / "t5-tokenizer"
CHAT = (
    "{% for m in messages %}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}{% "
    "endif %}"
)


def flan_t5(folder, tokenizer):
    """Random weights of Flan-T5's architecture (gated activation, untied head), and the tokenizer
    beside them."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            dropout_rate=0.1,
            decoder_start_token_id=0,
        )
    )
    # transformers 5 ties the head of a fresh T5
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chat_model(folder):
    """A causal model of random weights with a chat template, whose tokenizer knows letters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = references.train_tokenizer(
        [published_numbers()["paper_a"]["setup"]["judge_prompt"]], vocabulary=400
    )
    tokenizer.chat_template = CHAT
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=4096,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ultrafeedback(folder):
    """Pocket feedback as openbmb/UltraFeedback lies on the hub: JSON lines, one file a source of
    prompts."""
    rows = pocket.make_feedback(60, seed=3)
    folder.mkdir()
    for name, part in (("evol_instruct", rows[:30]), ("sharegpt", rows[30:])):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in part), encoding="utf-8"
        )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(output folder, printed) of `reproduce --profile flan-t5` with folders for its hub ids."""
    if not T5_TOKENIZER.is_dir():
        pytest.skip("../shared, with T5's real tokenizer, is not on this machine")
    from transformers import AutoTokenizer

    home = tmp_path_factory.mktemp("flan-t5")
    tokenizer = AutoTokenizer.from_pretrained(T5_TOKENIZER)
    flan_t5(home / "flan-t5-small", tokenizer)
    flan_t5(home / "flan-t5-small-rpo", tokenizer)
    ultrafeedback(home / "UltraFeedback")
    chat_model(home / "judge")
    settings = [
        "sizes=small seeds=0 preset=paper,released taus=1",
        f"sizes.small.id={home / 'flan-t5-small'}",
        f"sizes.small.authors={home / 'flan-t5-small-rpo'} evaluation.authors=true "
        f"data.source={home / 'UltraFeedback'}",
        f"evaluation.llm_judges.mistral.model={home / 'judge'} "
        f"evaluation.llm_judges.llama.model={home / 'judge'}",
        "data.validation=8 training.warmup_steps=1 decoding.max_new_tokens=12 "
        "training.threads=1 training.report_to=[]",
    ]
    command = [
        sys.executable,
        "-m",
        "rpo_nb",
        "reproduce",
        "--profile",
        "flan-t5",
        "--output-dir",
        str(home / "out"),
        *(part for text in settings for part in ("--set", text)),
    ]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "RPO_NB_CACHE": str(home / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "out", done.stdout


def test_every_table_of_the_published_reproduction_is_made(published):
    out, _ = published
    for name in ("table1", "table2", "table3", "table4"):
        assert (out / "tables" / f"{name}.csv").is_file()
    table3 = pd.read_csv(out / "tables" / "table3.csv")
    assert set(table3["judge"]) == {"mistral", "llama"} and table3["published"].notna().any()
    assert (out / "report.html").is_file()


def test_metrics_that_need_the_hub_are_not_measured_and_say_why(published):
    table2 = pd.read_csv(published[0] / "tables" / "table2.csv")
    assert table2.loc[table2["metric"].eq("rouge_l"), "value"].notna().all()
    for metric in ("bertscore_f1", "toxicity"):
        assert table2.loc[table2["metric"].eq(metric), "value"].isna().all()
    assert "could not be loaded" in (published[0] / "tables" / "table2.md").read_text()


def test_the_authors_checkpoint_stands_beside_ours(published):
    table2 = pd.read_csv(published[0] / "tables" / "table2.csv")
    theirs = table2[table2["method"].eq("rpo_authors") & table2["metric"].eq("rouge_l")]
    assert theirs["preset"].tolist() == ["released"] and theirs["value"].notna().all()
    # Table II, RPO, Small: what that checkpoint is said to reach
    assert theirs["published"].tolist() == [0.2885]


def test_verdicts_keep_both_readings(published):
    from rpo_nb.store import unpacked

    rows = unpacked(published[0] / "verdicts" / "table3-mistral.jsonl.gz")
    assert rows and all(set(row) >= {"verdict", "log_odds", "verdict_average"} for row in rows)
    assert (published[0] / "tables" / "table3_average.csv").is_file()
