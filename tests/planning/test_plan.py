"""The plan of a run: its counts are those of a real run, its estimates those of real models, and
what is missing stops it."""

import json
from types import SimpleNamespace

import pytest
import torch

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.data import hub
from rpo_nb.experiment import grid, inputs
from rpo_nb.experiment.generations import ensure_runs, load_generations
from rpo_nb.experiment.runs import build_trainer
from rpo_nb.judging import verdicts
from rpo_nb.planning import costs, needs, plan, plan_text, sizes
from rpo_nb.planning.costs import GIB
from rpo_nb.policy import load, prefixes
from rpo_nb.remedies import UNREACHED

A100 = costs.device("A100 80GB")


@pytest.fixture(scope="module")
def profile():
    return load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="sft,best_of_k,rpo",
        preset="paper",
        **{"training.batch_size": 24, "training.epochs": 2, "data.prompts": 23},
    )


@pytest.fixture(scope="module")
def before(profile, tmp_path_factory):
    """The plan, made before anything was trained."""
    return plan.make_plan(profile, tmp_path_factory.mktemp("empty"), device=A100)


@pytest.fixture(scope="module")
def done(profile, tmp_path_factory):
    """The same profile, really run."""
    out = tmp_path_factory.mktemp("out")
    ensure_runs(profile, out, progress=False)
    return out


# ---- counts, against a real run ------------------------------------------------------------------


def test_policies_rows_and_steps_are_those_of_a_real_run(profile, before, done):
    size = before["sizes"][0]
    runs = grid.plan(profile)
    ran = {run.method: json.loads(run.done_file(done).read_text()) for run in runs}
    assert (size["policies"], size["to train"]) == (len(runs), len(runs)) and before[
        "problems"
    ] == []
    assert (size["rows"], size["steps"]) == (ran["sft"]["rows"], ran["sft"]["steps"])
    assert size["steps in all"] == sum(
        json.loads(run.done_file(done).read_text())["steps"] for run in runs
    )
    assert ran["best_of_k"]["steps"] != ran["sft"]["steps"]
    assert size["parameters"] == ran["sft"]["parameters"]


def test_training_tokens_are_those_of_the_batches(profile, before, done, tmp_path):
    prepared, tokens = inputs.prepare(profile, "small", 0), {}
    for run in grid.plan(profile):
        loader = build_trainer(profile, run, prepared, tmp_path).get_train_dataloader()
        tokens[run.key] = profile.training.epochs * sum(
            len(item["encoded"][0][0]) + sum(len(completion) for _, completion in item["encoded"])
            for step in loader
            for item in step.items
        )
    best = sum(tokens[run.key] for run in grid.plan(profile) if run.method == "best_of_k")
    size = before["sizes"][0]
    # the best may be longer
    assert size["measured"] and size["training tokens"] == pytest.approx(
        sum(tokens.values()), abs=0.1 * best
    )
    others = load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="sft",
        preset="paper",
        **{"data.prompts": 23, "training.epochs": 2},
    )
    again = plan.make_plan(others, tmp_path, device=A100)["sizes"][0]
    assert (
        again["training tokens"]
        == tokens[next(run.key for run in grid.plan(profile) if run.method == "sft")]
    )


def test_questions_to_the_judges_are_those_of_the_real_generations(profile, done):
    generations = load_generations(done)
    validation = len(set(generations["prompt_id"]))
    for table, n in plan.verdicts(profile, validation).items():
        assert n == 2 * len(verdicts.make_pairs(generations, profile, table=table)) > 0


def test_what_is_done_is_not_planned_again(profile, done):
    size = plan.make_plan(profile, done, device=A100)["sizes"][0]
    assert (
        size["to train"],
        size["steps in all"],
        size["training tokens"],
        size["generated tokens"],
        size["hours"],
    ) == (0, 0, 0, 0, 0)


# ---- memory and parameters, against real models --------------------------------------------------


def really_saved(model, work):
    """Bytes that autograd keeps of a real forward pass."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage()) and t,
        lambda t: t,
    ):
        out = work()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    del out
    return sum(s.nbytes() for key, s in kept.items() if key not in own)


def test_a_t5s_activations_are_what_autograd_keeps(tiny_t5):
    model, training = tiny_t5[0].train(), TrainingConfig()
    batch = {"rows": 6, "prompts": 2, "prompt_tokens": 40, "completion_tokens": 25}
    load.set_dropout(model, 0.0)
    real = really_saved(model, lambda: costs._t5_pass(model, **batch))
    planned = costs.activations(model.config, training, **batch)
    assert real <= planned <= 1.15 * real
    assert costs.activations(model.config, training, **batch, dropout=0.1) > planned
    model.eval()


def test_a_causal_models_activations_are_what_autograd_keeps_and_checkpointing_saves_most(
    tiny_llama,
):
    model = tiny_llama[0].train()
    # 2 × 70 + 4 × 50 tokens, as three whole rows have nearly
    batch = {"rows": 4, "prompts": 2, "prompt_tokens": 70, "completion_tokens": 50}
    load.set_dropout(model, 0.0)
    ids, group, labels = (
        torch.zeros(2, 70, dtype=torch.long),
        torch.tensor([0, 0, 1, 1]),
        torch.zeros(4, 50, dtype=torch.long),
    )
    real = really_saved(
        model,
        lambda: prefixes.read_prompts(model, ids, torch.ones_like(ids), keep=True).hidden(
            group, labels
        ),
    )
    planned = costs.activations(model.config, TrainingConfig(), **batch)
    # the prompts' keys and values copied to their rows are left out
    assert planned == pytest.approx(real, rel=0.3)
    assert (
        costs.activations(model.config, TrainingConfig(gradient_checkpointing=True), **batch)
        < planned / 4
    )
    assert costs.activations(model.config, TrainingConfig(bf16=True), **batch) < planned
    model.eval()


def test_parameters_and_what_lora_trains_are_counted_without_weights(tiny_t5, tiny_llama):
    for model, _ in (tiny_t5, tiny_llama):
        count = costs.parameters(model.config, TrainingConfig())
        assert count.all == count.trained == sum(p.numel() for p in model.parameters())
        adapters = costs.parameters(model.config, TrainingConfig(lora=True, lora_rank=4)).trained
        real = load.add_lora(costs.empty_model(model.config).to_empty(device="cpu"), 4)
        assert adapters == sum(p.numel() for p in real.parameters() if p.requires_grad) < count.all
    assert costs.parameters(tiny_llama[0].config, TrainingConfig()).encoder == 0


@pytest.mark.parametrize(
    "name, millions",
    [
        ("google/flan-t5-small", 77),
        ("google/flan-t5-large", 783),
        ("google/flan-t5-xl", 2850),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8030),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7248),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134.5),
    ],
)
def test_the_shapes_of_well_known_models_have_their_published_size(name, millions, monkeypatch):
    monkeypatch.setattr(hub, "_cached", lambda name, kind, revision, safetensors: False)
    config, source = sizes.named_config(name, online=False)
    assert source == "profiles/models.yaml"
    assert costs.parameters(config, TrainingConfig()).all / 1e6 == pytest.approx(millions, rel=2e-3)


def test_memory_by_hand():
    count = costs.Parameters(all=1000, encoder=0, decoder=900, head=50, trained=1000)
    # trained weights stay in float32
    assert costs.weight_bytes(count, TrainingConfig(bf16=True)) == 4000
    assert costs.weight_bytes(count, TrainingConfig(bf16=True, lora=True)) == 2000
    assert costs.weight_bytes(
        count, TrainingConfig(bf16=True, lora=True, quantize="4bit")
    ) == pytest.approx(2 * 100 + 0.55 * 900)
    assert (
        costs.train_passes(TrainingConfig()) == 3
        and costs.train_passes(TrainingConfig(lora=True, gradient_checkpointing=True)) == 3
    )
    assert count.forward(10, 20, 5) == 2 * (900 * 20 + 50 * 5)


# ---- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told, name",
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_cuda_names_find_their_row(told, name):
    assert costs.known_gpu(told).name == name


def test_an_unknown_gpu_is_an_error_and_the_cpu_is_timed(monkeypatch):
    assert costs.known_gpu("AMD Instinct MI300X") is None
    with pytest.raises(ValueError, match="--gpu 'B9000' is not in the table; it has T4, L4"):
        costs.device("B9000")
    monkeypatch.setattr(costs, "probe", lambda where, dtype: 5e10)
    cpu = costs.device()
    assert torch.cuda.is_available() or (
        cpu.cpu and cpu.rate(True) == 5e10 and cpu.bandwidth > 1e8 and cpu.memory > GIB / 2
    )
    monkeypatch.undo()
    assert 1e8 < costs.probe(torch.device("cpu"), torch.float32, seconds=0.05, size=256) < 1e14


def test_a_measured_share_of_the_peak_replaces_the_assumed_one(profile, tmp_path, monkeypatch):
    table = tmp_path / "throughput.csv"
    table.write_text(
        "device,size,lora,share_of_peak\nNVIDIA "
        "A100-SXM4-80GB,small,false,0.1\nNVIDIA A100-SXM4-80GB,large,false,0.6\n"
        "NVIDIA A100-SXM4-80GB,xl,false,0.55\nNVIDIA "
        "A100-SXM4-80GB,xl,true,0.2\nTesla T4,small,false,0.9\n"
    )
    slow = plan.make_plan(profile, tmp_path / "out", device=A100)
    monkeypatch.setattr(sizes, "BENCHMARKS", table)
    fast = plan.make_plan(profile, tmp_path / "out", device=A100)
    assert any(
        note.startswith("Speeds: 55% of the peak, the median measured") for note in fast["notes"]
    )
    assert (
        any("30% of its peak is assumed" in note for note in slow["notes"])
        and fast["hours"] < slow["hours"]
    )
    assert costs.share_of_peak(sizes.benchmark_rows(), "NVIDIA A100-SXM4-80GB", lora=True) == 0.2
    assert costs.share_of_peak(sizes.benchmark_rows(), "NVIDIA H100 PCIe", lora=False) is None


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
    four = load_profile("flan-t5", **folders | {"training.lora": True, "training.quantize": "4bit"})
    cpu = costs.Device("CPU (2 threads)", 1e11, 1e11, 1e10, 2**40, "test")
    assert any(
        "needs a CUDA GPU" in p
        for p in plan.make_plan(four, tmp_path / "out", device=cpu)["problems"]
    )


# ---- the hub, with the library's own classes -----------------------------------------------------


def refusal(status, code="", message=""):
    """The error that huggingface_hub makes of an HTTP response."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import hf_raise_for_status

    from tests.conftest import hub_http

    request = hub_http().Request("GET", "https://huggingface.co/api/models/some/model")
    try:
        hf_raise_for_status(
            hub_http().Response(
                status, headers={"X-Error-Code": code, "X-Error-Message": message}, request=request
            )
        )
    except HfHubHTTPError as error:
        return error


@pytest.fixture
def online(monkeypatch):
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
    monkeypatch.setattr(hub, "_cached", lambda name, kind, revision, safetensors: False)
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
