"""A finished policy as a folder for the hub: what is in it, what is not, that it loads again, and
what the hub may refuse."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard

from rpo_nb.config import loading
from rpo_nb.config.methods import ROWS, tau_of
from rpo_nb.experiment import grid, inputs
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.reporting import card as reporting_card
from rpo_nb.reporting import publish
from rpo_nb.store import seal, write_json
from tests.reporting.published import REPO, lora_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published(reproduction, tmp_path_factory):
    """(chosen, folder): RPO of the smoke reproduction, its folder written elsewhere than in the
    shared results."""
    profile = loading.load_profile(str(reproduction.out / "profile.yaml"))
    chosen = publish.choose(profile, reproduction.out)
    return chosen, publish.write(
        chosen, REPO, folder=tmp_path_factory.mktemp("publish") / chosen.name
    )


def test_by_default_the_recommended_rpo_is_chosen_and_all_of_it_is_written(published):
    chosen, folder = published
    assert chosen.run.cell == ("fixed", "rpo", "small", 0.3, 0)
    assert folder.name == "smoke-small-rpo-fixed-seed0"
    assert {name for name, _ in publish.listing(folder)} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_card_says_what_the_tables_say(published):
    chosen, folder = published
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "transformers", "en")
    assert (
        {"rpo_nb", "rpo", "trained-from-scratch"} <= set(data.tags)
        and data.base_model is None
        and data.datasets is None
    )
    table = (
        pd.read_csv(chosen.out / "tables" / "metrics.csv")
        .dropna(subset="value")
        .query(
            "preset == 'fixed' and method == 'rpo' and size == 'small' and seed == 0 and tau == 0.3"
        )
        .set_index("metric")
    )
    assert {result.metric_type: result.metric_value for result in data.eval_results} == table[
        "value"
    ].to_dict()
    assert len(table) > 8
    for result in data.eval_results:
        low, high = table.loc[result.metric_type, ["ci_low", "ci_high"]]
        assert result.metric_args.get("confidence_interval_95", [None]) == (
            [None] if pd.isna(low) else [low, high]
        )
    rouge = table.loc["rouge_l"]
    assert (
        f"| ROUGE-L | {rouge['value']:.4f} [{rouge['ci_low']:.4f}, {rouge['ci_high']:.4f}] | "
        f"{rouge['n']} |" in card.text
    )
    wins = pd.read_csv(chosen.out / "tables" / "table3.csv").query(
        "preset == 'fixed' and size == 'small'"
    )
    claims = pd.read_csv(chosen.out / "tables" / "claims.csv").query("preset == 'fixed'")
    assert len(wins) and all(
        f"| {row.judge} | {row.baseline} | {row.win_rate:.1f} [" in card.text
        for row in wins.itertuples()
    )
    assert len(claims) and all(
        f"| {row.claim} | {row.verdict} |" in card.text for row in claims.itertuples()
    )


def test_the_card_says_how_it_was_made(published):
    chosen, folder = published
    text = (folder / "README.md").read_text()
    manifest = json.loads((chosen.out / "manifest.json").read_text())
    assert (
        f"torch {manifest['packages']['torch']}" in text
        and f"Trained on: {manifest['hardware']['cpu']}" in text
    )
    for field, value in chosen.profile.presets["fixed"].model_dump().items():
        assert f"| {field} | {value} |" in text
    done = json.loads((chosen.folder / "done.json").read_text())
    assert f"{done['rows']} rows, {done['steps']} steps" in text and "learning rate 0.001" in text
    assert (
        "arXiv:2506.13702" in text and "Faye, Bilal and Azzag, Hanane and Lebbah, Mustapha" in text
    )
    assert f"code: {chosen.run.recipe['code']}" in text and "another version" not in text


def test_the_metadata_is_what_the_hub_asks_for(published):
    """The hub's rules for a model-index: a result has a task, a data set with type and name, and
    metrics with type and value."""
    import yaml

    head = yaml.safe_load((published[1] / "README.md").read_text().split("---\n")[1])
    (model,) = head["model-index"]
    assert model["name"] == "tiny-rpo" and model["results"]
    for result in model["results"]:
        assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
        assert all(
            metric["type"] and isinstance(metric["value"], float) for metric in result["metrics"]
        )
    assert json.loads(json.dumps(head)) == head, "plain values only"


def test_nothing_private_leaves(published, reproduction):
    chosen, folder = published
    for file in folder.iterdir():
        content = file.read_bytes()
        for path in (
            reproduction.out,
            reproduction.cache,
            ROOT,
            Path.home() if len(Path.home().parts) > 2 else ROOT,
        ):
            assert str(path).encode() not in content, file.name
    assert not {"optimizer.pt", "training_args.bin", "recipe.json", "done.json"} & {
        file.name for file in folder.iterdir()
    }


def test_the_published_policy_gives_the_same_log_probabilities(published):
    chosen, folder = published
    models = [load.load_policy(path) for path in (chosen.folder / "policy", folder)]
    validation = inputs.splits(chosen.profile, 0, "small").validation
    scores = []
    for model, tokenizer in models:
        rows = encoding.encode(
            tokenizer,
            validation["prompt"],
            validation["completion"],
            **chosen.profile.limits("small"),
        )
        scores.append(score_completions(model, tokenizer, rows)[0])
    assert torch.equal(*scores) and len(scores[0]) == chosen.profile.data.validation


def test_of_a_lora_policy_the_adapter_is_published_and_its_base_named(tiny_t5, tmp_path):
    profile, out = lora_run(tmp_path, tiny_t5)
    chosen = publish.choose(profile, out)
    with pytest.raises(ValueError, match="give --base-model owner/name"):
        publish.write(chosen, REPO)
    assert not (out / "publish").exists() or not list((out / "publish").iterdir())
    folder = publish.write(chosen, REPO, base_model="google/flan-t5-small")
    names = {file.name for file in folder.iterdir()}
    assert folder == out / "publish" / "smoke-small-rpo-fixed-seed0"
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert not {"model.safetensors", "training_args.bin"} & names
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "google/flan-t5-small"
    )
    card = ModelCard.load(folder / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == (
        "google/flan-t5-small",
        "peft",
        "apache-2.0",
    )
    assert (
        "lora" in card.data.tags
        and 'PeftModel.from_pretrained(model, "someone/tiny-rpo")' in card.text
    )
    assert str(tmp_path) not in (folder / "README.md").read_text()
    assert (
        "No metric has been measured" in card.text
        and "versions and hardware are not known" in card.text
    )
    rows = [([2, 3, 1], [4, 5, 1]), ([6, 1], [7, 1])]
    places = (chosen.folder / "policy", ""), (folder, tmp_path / "base"), (tmp_path / "base", "")
    logps = [
        score_completions(*load.load_policy(path, base=base), rows)[0] for path, base in places
    ]
    assert torch.equal(logps[0], logps[1]) and not torch.allclose(logps[0], logps[2])


def test_a_card_names_every_method_and_what_was_not_trained_is_refused(tiny_t5, tmp_path):
    profile, out = lora_run(tmp_path, tiny_t5)
    chosen, preset = publish.choose(profile, out), profile.presets["fixed"]
    for method, row in ROWS.items():
        tau = tau_of(preset, method)
        run = replace(grid.recipe(profile, preset, method, "small", tau, 0), preset="fixed")
        if not run.trained:
            with pytest.raises(ValueError, match=f"--method '{method}' .* choose one of .*qrpo$"):
                publish.choose(profile, out, method=method)
            continue
        text = reporting_card.card(
            replace(chosen, run=run), REPO, base="google/flan-t5-small", licence="apache-2.0"
        )
        (named,) = re.findall("aligned with\n(.*) on scalar rewards", text)
        assert {"best_of_k": "best-of-K"}.get(method, row.title) in named
        slopes = re.findall(r"\| ([τβ]) \| (.*) \|", text)
        own = f"{getattr(preset, row.temperature):g}" if row.temperature else ""
        assert slopes == ([(row.symbol, own)] if own else [])
        assert ("arXiv 2507.08068" in named) == (method == "qrpo")  # not of the paper reproduced


def test_feedback_of_the_users_own_is_named_by_file_name_and_hash_only(
    tiny_t5, tmp_path, monkeypatch
):
    """Jobs run inside the output folder and read inputs/…; publish is typed anywhere and finds the
    same policy."""
    staged = tmp_path / "results" / "inputs" / "feedback" / "mine.jsonl"
    staged.parent.mkdir(parents=True)
    staged.write_text('{"prompt": "p", "completion": "c", "reward": 1}\n')
    monkeypatch.chdir(tmp_path / "results")
    profile, out = lora_run(tmp_path, tiny_t5, **{"data.source": "inputs/feedback/mine.jsonl"})
    monkeypatch.chdir(tmp_path)
    chosen = publish.choose(profile, out)
    text = (
        publish.write(chosen, REPO, base_model="google/flan-t5-small") / "README.md"
    ).read_text()
    assert (
        f"a local file, mine.jsonl (content hash {chosen.run.recipe['data']['source']})" in text
        and "inputs/" not in text
    )
    assert ModelCard(text).data.datasets is None


def test_a_hub_base_names_itself_and_an_unknown_licence_is_asked_for(tiny_t5, tmp_path):
    profile, out = lora_run(tmp_path, tiny_t5)
    chosen = publish.choose(profile, out)

    def started_from(model):
        size = profile.sizes["small"].model_copy(update={"id": model})
        return replace(chosen, profile=profile.model_copy(update={"sizes": {"small": size}}))

    for name, size, base in (
        ("flan-t5", "xl", "google/flan-t5-xl"),
        ("smollm", "135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ):
        model = loading.load_profile(name).sizes[size].id
        folder = publish.write(started_from(model), REPO, folder=tmp_path / name)
        data = ModelCard.load(folder / "README.md").data
        assert (data.base_model, data.license) == (base, "apache-2.0")
    with pytest.raises(ValueError, match="licence of owner/model .*--license"):
        publish.write(started_from("owner/model"), REPO, folder=tmp_path / "unknown")
    assert not (tmp_path / "unknown").exists()


def test_a_token_or_a_path_in_a_file_stops_it_and_leaves_no_folder(tiny_t5, tmp_path, monkeypatch):
    profile, out = lora_run(tmp_path, tiny_t5)
    chosen = publish.choose(profile, out)
    template = chosen.folder / "policy" / "chat_template.jinja"
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-shape")
    for text, words in (
        ("hf_" + "a1B2" * 9, "an access token"),
        (f"see {out}/notes", "a path of this machine"),
        ("or a-token-of-another-shape", "an access token"),
    ):
        template.write_text(text)
        with pytest.raises(ValueError, match=f"chat_template.jinja .*{words}"):
            publish.write(chosen, REPO, base_model="google/flan-t5-small")
        assert not list((out / "publish").iterdir())


def test_a_policy_of_another_version_of_the_code_is_found_and_the_card_says_so(tiny_t5, tmp_path):
    profile, out = lora_run(tmp_path, tiny_t5)
    run = publish.choose(profile, out).folder
    old = run.with_name("rpo-small-seed0-0000000000000000")
    shutil.move(run, old)
    write_json(
        old / "recipe.json", json.loads((old / "recipe.json").read_text()) | {"code": "0" * 16}
    )
    seal(old, json.loads((old / "done.json").read_text()))
    chosen = publish.choose(profile, out)
    assert chosen.folder == old
    card = reporting_card.card(chosen, REPO, base="google/flan-t5-small", licence="apache-2.0")
    assert "trained by another version of rpo_nb's code" in card
