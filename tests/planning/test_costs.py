"""Counts, against a real run, memory and parameters, against real models, devices."""

import json

import pytest
import torch

from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.experiment import grid, inputs
from rpo_nb.experiment.generations import ensure_runs, load_generations
from rpo_nb.experiment.runs import build_trainer
from rpo_nb.judging import verdicts
from rpo_nb.planning import costs, plan, sizes
from rpo_nb.planning.costs import GIB
from rpo_nb.policy import load, prefixes
from tests.planning.machines import A100


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


# ---- devices -------------------------------------------------------------------------------------

HALF = TrainingConfig(bf16=True)


def test_a_cpu_that_is_slow_in_bfloat16_is_told_with_the_remedy(monkeypatch):
    said = costs.slow_half(HALF, (5e9, 66e9))
    assert "13 times as long in bfloat16" in said and "--set training.bf16=false" in said
    assert costs.slow_half(HALF, (185e9, 87e9)) == costs.slow_half(HALF, (70e9, 87e9)) == ""
    assert costs.slow_half(TrainingConfig(), (5e9, 66e9)) == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert costs.slow_half(HALF) == ""


def test_what_is_told_is_what_this_machine_takes(monkeypatch):
    speeds = {torch.bfloat16: 4.0, torch.float32: 1.0}  # seconds a product
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(costs, "probe", lambda where, kind, **_: 1e9 / speeds[kind])
    assert "4 times as long in bfloat16" in costs.slow_half(HALF)


def test_the_plan_says_it_and_counts_a_local_judge_in_float32_on_a_cpu(profile, tmp_path):
    def made(half, name="CPU (2 threads)"):
        machine = costs.Device(name, half, 66e9, 1e10, 2**36, "test")
        slow = profile.model_copy(update={"training": HALF.model_copy(update={"lora": True})})
        return plan.make_plan(slow, tmp_path, device=machine), plan.judge_hours(
            load_profile("flan-t5"), 100, machine, 0.5, online=False
        )

    (slow, judged), (quick, same) = made(5e9), made(185e9)
    assert any(note.startswith("Slow here: ") for note in slow["notes"])
    assert not any(note.startswith("Slow here: ") for note in quick["notes"])
    assert judged == same and judged["mistral"] > 0
    assert not any(note.startswith("Slow") for note in made(5e9, "GPU")[0]["notes"])


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
    ids, group, labels = (
        torch.zeros(2, 40, dtype=torch.long),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        torch.zeros(6, 25, dtype=torch.long),
    )
    real = really_saved(
        model,
        lambda: prefixes.read_prompts(model, ids, torch.ones_like(ids), keep=True).hidden(
            group, labels
        ),
    )
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
def test_the_shapes_of_well_known_models_have_their_published_size(name, millions, empty_hub_cache):
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
