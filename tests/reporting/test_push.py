"""The command, the hub."""

import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from rpo_nb.__main__ import main
from rpo_nb.reporting import publish
from tests.reporting.published import REPO, lora_run

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
