"""The plan of a run: its counts are those of a real run, its estimates those of real models, and
what is missing stops it."""

import json
from types import SimpleNamespace

import pytest

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile
from rpo_nb.data import hub
from rpo_nb.planning import costs, needs, plan, plan_text
from rpo_nb.planning.costs import GIB
from rpo_nb.remedies import UNREACHED
from tests.planning.machines import A100

# ---- what is missing -----------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, tiny_t5, tiny_llama):
    """flan-t5 on local folders of the same layout: a tiny T5, a tiny chat model as judge, rows as
    openbmb/UltraFeedback has them."""
    for (model, tokenizer), name in ((tiny_t5, "t5"), (tiny_llama, "judge")):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "data").mkdir()
    rows = [
        {
            "source": "flan",
            "instruction": f"please write about lamp {i}",
            "completions": [
                {
                    "model": "a",
                    "response": "red lamp " * (j + 1),
                    "overall_score": 10.0 - j * (i % 3 + 1),
                    "annotations": {},
                }
                for j in range(4)
            ],
        }
        for i in range(60)
    ]
    (tmp_path / "data" / "flan.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "feedback": str(tmp_path / "data"),
        "sizes.*.id": str(tmp_path / "t5"),
        "data.validation": 20,
        "evaluation.bertscore": "packaged",
        "evaluation.toxicity": "packaged",
        "evaluation.llm_judges.mistral.model": str(tmp_path / "judge"),
        "evaluation.llm_judges.llama.model": str(tmp_path / "judge"),
    }


def test_flan_t5_on_local_folders_is_ready_and_measured(folders, tmp_path):
    made = plan.make_plan(load_profile("flan-t5", **folders), tmp_path / "out", device=A100)
    assert made["problems"] == [] and all(
        size["measured"] and size["hours"] > 0 for size in made["sizes"]
    )
    assert {need["where"] for need in made["needs"]} == {"folder"} and [
        need["bytes"] for need in made["needs"]
    ] == [0, 0, 0]
    assert set(made["judge_hours"]) == {"mistral", "llama"} and made["judge_hours"]["llama"] > 0
    text = plan_text.render(made)
    assert (
        text.endswith("Ready.")
        and "45 of 45" in text
        and all(f"\n{size} " in text for size in ("small", "large", "xl"))
    )


def test_without_a_network_it_says_what_is_missing_and_stops(capsys, tmp_path):
    assert (
        main(["plan", "--profile", "flan-t5", "--gpu", "A100 80GB", "--output-dir", str(tmp_path)])
        == 1
    )
    told = capsys.readouterr().out
    assert (
        "the hub cannot be reached, and not in the cache is openbmb/UltraFeedback (feedback), "
        "google/flan-t5-small" in told
    )
    assert (
        "taken from profiles/models.yaml" in told
        and "an upper bound" in told
        and told.rstrip().endswith("Not ready.")
    )


def test_json_and_the_exit_status_of_a_plan_that_can_start(capsys, tmp_path):
    assert (
        main(
            [
                "plan",
                "--profile",
                "smoke",
                "--set",
                "sizes=small seeds=0",
                "--gpu",
                "T4",
                "--json",
                "--output-dir",
                str(tmp_path),
            ]
        )
        == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert (
        made["profile"] == "smoke"
        and made["problems"] == []
        and made["needs"] == []
        and made["sizes"][0]["steps"] == 3
    )


def test_too_little_memory_or_disk_or_no_bf16_stops_and_names_the_switch(
    folders, tmp_path, monkeypatch
):
    profile = load_profile(
        "flan-t5", **folders | {"decoding.max_new_tokens": 8, "evaluation.generation_batch_size": 1}
    )
    small = costs.Device("T4", 0.0, 8e12, 3e11, int(0.6 * GIB), "test")
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda place: SimpleNamespace(free=2**20))
    problems = plan.make_plan(profile, tmp_path / "out", device=small)["problems"]
    assert any(
        p.startswith("size small takes about")
        and "sizes.small.micro_batch_tokens=5000" in p
        and "lora=true" in p
        for p in problems
    )
    assert any("a T4 has no bf16; use --set training.bf16=false" in p for p in problems)
    assert any(
        "has 1 MiB free, but" in p and "choose another --output-dir or HF_HOME" in p
        for p in problems
    )
    answers = load_profile("flan-t5", **folders | {"sizes.*.micro_batch_tokens": 1})
    assert any(
        "evaluation.generation_batch_size=32" in p
        for p in plan.make_plan(answers, tmp_path / "out", device=small)["problems"]
    )
    needs_cuda = {"training.quantize": "4bit", "training.liger": True, "generation": "vllm"}
    able = {"training.lora": True, "preset": "paper,fixed", "decoding.no_repeat_ngram_size": 0}
    four = load_profile("flan-t5", **folders | able | needs_cuda)
    cpu = costs.Device("CPU (2 threads)", 1e11, 1e11, 1e10, 2**40, "test")
    problems = plan.make_plan(four, tmp_path / "out", device=cpu)["problems"]
    for name in needs_cuda:
        assert any(p.startswith(f"{name} is") and "needs a CUDA GPU" in p for p in problems), name


# ---- the hub, with the library's own classes -----------------------------------------------------


def refusal(status, code="", message=""):
    """The error that huggingface_hub makes of an HTTP response."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import hf_raise_for_status

    from tests.conftest import hub_response

    url = "https://huggingface.co/api/models/some/model"
    try:
        hf_raise_for_status(hub_response(status, url, code=code, message=message))
    except HfHubHTTPError as error:
        return error


@pytest.fixture
def online(monkeypatch, empty_hub_cache):
    """A hub of our own: files {name: {file: bytes}}, gated names, errors by name."""
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo

    there = SimpleNamespace(files={}, gated={}, errors={}, asked=[], revisions=[])

    class Api:
        def model_info(self, name, *, revision, files_metadata, timeout, kind=ModelInfo):
            there.asked.append(name)
            there.revisions.append(revision)
            if name in there.errors:
                raise there.errors[name]
            return kind(
                id=name,
                gated=there.gated.get(name, False),
                siblings=[
                    {"rfilename": file, "size": size} for file, size in there.files[name].items()
                ],
            )

        def dataset_info(self, name, **more):
            return self.model_info(name, kind=DatasetInfo, **more)

        def auth_check(self, name, *, repo_type):
            if there.gated.get(name) == "not accepted":
                raise refusal(403, "GatedRepo")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return there


def test_downloads_count_safetensors_and_small_files_only(online):
    online.files = {
        "some/model": {
            "model.safetensors": 1000,
            "pytorch_model.bin": 900,
            "config.json": 10,
            "tokenizer.json": 20,
            "onnx/x.json": 7,
        },
        "some/data": {"flan.jsonl": 500, "README.md": 5},
        "only/bin": {"pytorch_model.bin": 900, "config.json": 10},
    }
    assert hub.look_up("some/model") == hub.Access("hub", 1030)
    assert hub.look_up("some/data", kind="dataset") == hub.Access("hub", 505)
    assert hub.look_up("only/bin").problem.reason == "it has no weights in safetensors"
    assert hub.look_up("only/bin", safetensors=False) == hub.Access("hub", 910)


def test_the_plan_looks_at_the_revisions_that_the_profile_pins(online):
    online.files = {
        "some/model": {"model.safetensors": 1},
        "some/data": {"a.jsonl": 1},
        "other/data": {"b.jsonl": 1},
    }
    profile = load_profile(
        "pocket",
        sizes="small",
        **{
            "sizes.small.id": "some/model",
            "sizes.small.revision": "v1",
            "data.source": "some/data",
            "data.revision": "v2",
            "paper_b.reproduce": True,
            "paper_b.ood": "other/data",
            "paper_b.ood_revision": "v3",
            "evaluation.judges": ["reward_model"],
        },
    )
    assert {need.name: need.access.where for need in needs.look_up(profile)} == dict.fromkeys(
        online.files, "hub"
    )
    assert dict(zip(online.asked, online.revisions)) == {
        "some/model": "v1",
        "some/data": "v2",
        "other/data": "v3",
    }


@pytest.mark.parametrize(
    "error, words",
    [
        (refusal(404, "RepoNotFound"), "has no such model"),
        (refusal(401, message="Invalid credentials in Authorization header"), "refuses the token"),
        (refusal(401, "GatedRepo"), "gated and you are not logged in"),
        (refusal(503), "503"),
    ],
)
def test_every_refusal_is_a_problem_with_a_remedy(online, monkeypatch, error, words):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    online.errors["some/model"] = error
    access = hub.look_up("some/model")
    assert access.where == "missing" and words in access.problem.reason and access.problem.remedy


def test_a_gated_model_counts_as_there_only_once_it_is_accepted(online):
    online.files["some/model"] = {"model.safetensors": 1000}
    online.gated["some/model"] = "not accepted"
    access = hub.look_up("some/model")
    assert access.gated and access.problem.remedy.startswith(
        "accept its terms at https://huggingface.co/some/model"
    )
    online.gated["some/model"] = "manual"
    assert hub.look_up("some/model") == hub.Access("hub", 1000, True)


def test_the_plan_names_downloads_and_gates_and_asks_no_more_after_the_first_dead_line(
    online, folders, tmp_path
):
    from huggingface_hub.errors import OfflineModeIsEnabled

    folders = folders | {
        "evaluation.llm_judges.llama.model": "meta-llama/Meta-Llama-3-8B-Instruct",
        "evaluation.bertscore": "default",
    }
    online.files = {
        "meta-llama/Meta-Llama-3-8B-Instruct": {"model.safetensors": 16 * GIB},
        "roberta-large": {"model.safetensors": GIB},
    }
    online.gated["meta-llama/Meta-Llama-3-8B-Instruct"] = "not accepted"
    made = plan.make_plan(load_profile("flan-t5", **folders), tmp_path / "out", device=A100)
    assert len(made["problems"]) == 1 and made["problems"][0].startswith(
        "model 'meta-llama/Meta-Llama-3-8B-Instruct' (judge llama): it is gated"
    )
    assert {need["name"]: need["bytes"] for need in made["needs"]}["roberta-large"] == GIB
    online.errors, online.asked = (
        {"meta-llama/Meta-Llama-3-8B-Instruct": OfflineModeIsEnabled("offline")},
        [],
    )
    made = plan.make_plan(load_profile("flan-t5", **folders), tmp_path / "out", device=A100)
    assert online.asked == ["meta-llama/Meta-Llama-3-8B-Instruct"] and len(made["problems"]) == 1
    assert "roberta-large (metric bertscore)" in made["problems"][0]


def test_folders_and_packages_are_looked_at(tmp_path, tiny_t5):
    assert hub.look_up(str(tmp_path)).problem.reason == "the folder has no config.json"
    tiny_t5[0].config.save_pretrained(tmp_path)
    assert "no complete weights" in hub.look_up(str(tmp_path)).problem.reason
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}})
    )
    (tmp_path / "x-1.safetensors").touch()
    assert "no complete weights" in hub.look_up(str(tmp_path)).problem.reason
    (tmp_path / "x-2.safetensors").touch()
    assert hub.look_up(str(tmp_path)) == hub.Access("folder")
    assert (
        "the package no-such-package-here is not installed"
        in hub.look_up("package:no-such-package-here").problem.reason
    )


def test_a_cached_snapshot_is_used_without_asking(tmp_path, tiny_t5, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    (tmp_path / "models--some--model" / "refs").mkdir(parents=True)
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    tiny_t5[0].config.save_pretrained(snapshot)
    # its weights were never fetched
    assert hub.look_up("some/model", online=False).problem is UNREACHED
    tiny_t5[0].save_pretrained(snapshot)
    assert hub.look_up("some/model", online=False) == hub.Access("cache")


def test_a_server_that_is_silent_is_a_note_and_a_file_that_is_not_there_a_problem(tmp_path):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    # answers 501 to everything: it is there
    server = HTTPServer(("localhost", 0), BaseHTTPRequestHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://localhost:{server.server_port}/v1"
    profile = load_profile(
        "smollm", feedback=str(tmp_path / "none.jsonl"), **{"evaluation.llm_judges.server.url": url}
    )
    looked = {need.name: need for need in needs.look_up(profile)}
    server.shutdown()
    thread.join()
    server.server_close()
    assert looked[url].access.where == "answers" and needs.server_notes(list(looked.values())) == []
    assert needs.problems(list(looked.values()))[0].endswith(
        "(feedback): there is no such file; check the path"
    )
    silent = [need for need in needs.look_up(profile) if need.kind == "server"]
    assert (
        "start the server of judge server before" in needs.server_notes(silent)[0]
        and needs.problems(silent) == []
    )
