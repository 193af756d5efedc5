"""A finished policy as a folder for the hub: what is in it, what is not, that it loads again, and
what the hub may refuse."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard, errors

from rpo_nb.__main__ import main
from rpo_nb.config import loading, schema
from rpo_nb.experiment import grid, inputs
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.reporting import card as reporting_card
from rpo_nb.reporting import publish
from rpo_nb.store import seal, write_json

ROOT = Path(__file__).parents[2]
REPO = "someone/tiny-rpo"


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
    assert (chosen.method, chosen.preset, chosen.size, chosen.tau, chosen.seed) == (
        "rpo",
        "fixed",
        "small",
        0.3,
        0,
    )
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
    assert f"code: {chosen.recipe['code']}" in text and "another version" not in text


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


# ---- LoRA, other bases ---------------------------------------------------------------------------


def lora_run(folder: Path, tiny_t5, **overrides) -> tuple[schema.Profile, Path]:
    """An output folder with one finished LoRA policy of RPO, trained from `tiny_t5` in a local
    folder."""
    out, model, tokenizer = folder / "results", *tiny_t5
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    profile = loading.load_profile(
        "smoke", sizes="small", seeds="0", lora=True, **{"sizes.small.id": str(base), **overrides}
    )
    run = grid.recipe(profile, profile.presets["fixed"], "rpo", "small", 0.3, 0)
    adapted, _ = load.load_policy(base, lora_rank=profile.training.lora_rank)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(run.folder(out) / "policy")
    tokenizer.save_pretrained(run.folder(out) / "policy")
    (run.folder(out) / "policy" / "training_args.bin").write_bytes(b"not for the hub")
    write_json(run.folder(out) / "recipe.json", run.recipe)
    seal(run.folder(out), {"seconds": 1.5, "steps": 3, "rows": 96, "parameters": 1024})
    loading.write_profile(profile, out / "profile.yaml")
    return profile, out


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
        f"a local file, mine.jsonl (content hash {chosen.recipe['data']['source']})" in text
        and "inputs/" not in text
    )
    assert ModelCard(text).data.datasets is None


def test_a_hub_base_names_itself_and_an_unknown_licence_is_asked_for():
    profile = loading.load_profile("flan-t5")
    chosen = SimpleNamespace(profile=profile, out=Path("nowhere"), size="xl")
    assert (
        publish._base_model(chosen) == "google/flan-t5-xl"
        and publish._licence("google/flan-t5-xl") == "apache-2.0"
    )
    assert (
        publish._base_model(
            SimpleNamespace(
                profile=loading.load_profile("smollm"), out=Path("nowhere"), size="135m"
            )
        )
        == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    with pytest.raises(
        ValueError, match="the licence of owner/model is not known here; .*--license"
    ):
        publish._licence("owner/model")


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


# ---- the command, the hub ------------------------------------------------------------------------


@pytest.fixture
def finished(tiny_t5, tmp_path):
    """(arguments of a working dry run, its folder)."""
    _, out = lora_run(tmp_path, tiny_t5)
    return (
        [
            "publish",
            "--profile",
            "smoke",
            "--output-dir",
            str(out),
            "--base-model",
            "google/flan-t5-small",
            "--repo",
            REPO,
        ],
        out / "publish" / "smoke-small-rpo-fixed-seed0",
    )


class FakeHub:
    """Stands for HfApi: notes the calls, or fails as the hub does."""

    calls: list = []
    error: Exception | None = None

    def create_repo(self, repo_id, **options):
        if self.error:
            raise self.error
        self.calls.append(("create_repo", repo_id, options))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **options):
        files = sorted(file.name for file in Path(options["folder_path"]).iterdir())
        self.calls.append(("upload_folder", options["repo_id"], files))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


def test_a_dry_run_prints_what_would_be_pushed_and_calls_nobody(finished, hub, capsys):
    arguments, folder = finished
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        hub.calls == []
        and "Nothing left this machine" in printed
        and "https://huggingface.co/someone/tiny-rpo" in printed
    )
    for name, size in publish.listing(folder):
        assert re.search(rf"{re.escape(name)} +{re.escape(publish.megabytes(size))}\n", printed)


def test_push_creates_the_repository_and_uploads_the_folder(finished, hub, capsys):
    arguments, folder = finished
    assert main([*arguments, "--push", "--private"]) == 0
    assert hub.calls == [
        ("create_repo", REPO, {"private": True, "exist_ok": True}),
        ("upload_folder", REPO, sorted(file.name for file in folder.iterdir())),
    ]
    assert "pushed to https://huggingface.co/someone/tiny-rpo" in capsys.readouterr().out


def http_error(status: int) -> Exception:
    """huggingface_hub's error for a status, without a server."""
    error = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    Exception.__init__(error, f"{status} Client Error")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (http_error(401), "the hub does not know your token (401); log in with `hf auth login`"),
        (http_error(403), "your token may not write to someone (403)"),
        (errors.LocalTokenNotFoundError("Token is required"), "you are not logged in"),
        (ConnectionError("Network is unreachable"), "the hub cannot be reached; check the network"),
        (OSError("disk\nand more"), "OSError, disk"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_and_the_folder_stays(
    finished, hub, monkeypatch, capsys, error, words
):
    arguments, folder = finished
    monkeypatch.setattr(hub, "error", error)
    assert main([*arguments, "--push"]) == 2
    told = capsys.readouterr().err
    assert (
        told.startswith("error: someone/tiny-rpo was not published: ")
        and words in told
        and told.count("\n") == 1
    )
    assert "push again" in told and (folder / "README.md").is_file()


def test_without_a_network_the_real_client_is_told_in_one_sentence(finished, monkeypatch, capsys):
    """No fake: the hub's own client, kept offline, or without a server behind its address."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    assert main([*finished[0], "--push"]) == 2
    told = capsys.readouterr().err
    assert re.search(
        "HF_HUB_OFFLINE is set; unset it|the hub cannot be reached; check the network", told
    )
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--repo", "no-owner"], "--repo 'no-owner' is no name for a repository"),
        (["--repo", "a b/c"], "--repo 'a b/c' is no name for a repository"),
        (["--repo", "one/two/three"], "--repo 'one/two/three' is no name"),
        (
            ["--method", "ppo"],
            "--method 'ppo' is not in this profile; choose one of sft, best_of_k, kto, dro, rpo",
        ),
        (["--method", "reference"], "--method 'reference' is not in this profile"),
        (
            ["--preset", "best"],
            "--preset 'best' is not in this profile; choose one of paper, released, fixed",
        ),
        (["--size", "xl"], "--size 'xl' is not in this profile; choose one of small"),
        (["--method", "kto", "--tau", "1"], "--tau 1: kto has no temperature; leave it out"),
        (
            ["--method", "dro", "--tau", "1"],
            "--tau 1: dro has τ = 0.3 under this preset; leave it out",
        ),
        (
            ["--seed", "9"],
            "results has no finished policy rpo small preset fixed tau 0.3 seed 9; "
            "finished are: rpo-small-seed0-",
        ),
        (["--base-model", "flan"], "--base-model 'flan' is no hub id; give owner/name"),
        (["--output-dir", "no/such/folder"], "has no profile.yaml"),
    ],
)
def test_a_bad_name_is_refused_in_one_sentence(finished, hub, capsys, more, words):
    arguments, folder = finished
    assert main([*arguments, *more, "--push"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and words in told and told.count("\n") == 1
    assert not hub.calls and not folder.exists()
