"""Ten minutes on a GPU, rehearsed on a CPU with tiny shapes: what is measured, told and kept."""

import pandas as pd
import pytest
import torch

from benchmarks import gpu, half, throughput
from benchmarks.cases import Settings
from benchmarks.throughput import SAMPLING, Shape, Spec
from benchmarks.workloads import Case, fresh
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.planning import costs
from tests.tensors import counted_flops

SETTINGS = {"bf16": True, "batch_size": 8, "micro_batch_tokens": 64}
T5 = Shape("T5, tiny", TrainingConfig(**SETTINGS), 12)
LLAMA = Shape("Llama, tiny", TrainingConfig(lora=True, **SETTINGS), 12)
DEVICE = costs.Device("CPU (a test)", 1e9, 1e9, 1e9, 2**30, "made up")


@pytest.fixture(autouse=True)
def device(monkeypatch):
    monkeypatch.setattr(throughput, "here", lambda: DEVICE)
    monkeypatch.setattr(gpu, "here", lambda: DEVICE)


@pytest.fixture
def stood_in(monkeypatch):
    """Trainings that take no time; what is asked for, in order."""
    asked = []
    monkeypatch.setattr(
        throughput, "trained", lambda spec, case, end: asked.append(spec) or (0.5, 100.0)
    )
    monkeypatch.setattr(throughput, "sampled", lambda spec, case: asked.append(spec) or (2.0, 64.0))
    return asked


def test_tiny_shapes_are_measured_and_what_is_not_here_says_so(tmp_path):
    rows = [
        *(Spec(LLAMA, True, method) for method in ("rpo", "kto")),
        *(Spec(T5, False, method) for method in ("sft", "dro")),
        Spec(LLAMA, True, SAMPLING),
        Spec(LLAMA, True, "rpo", "liger"),
        Spec(T5, False, "rpo", "fsdp"),
    ]
    gpu.every(rows, minutes=30, steps=1, table=tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table.columns) == throughput.COLUMNS and len(table) == len(rows)
    kit, others = table[table["way"] == "kit"], table[table["way"] != "kit"]
    assert kit["said"].isna().all() and (kit["tokens_per_second"] > 0).all()
    steps = kit[kit["method"] != SAMPLING]
    assert (steps["rows"] == 8).all() and (steps["share_of_peak"] > 0).all()
    assert others["seconds"].isna().all()
    if not torch.cuda.is_available():
        liger, fsdp = others["said"]
        assert "needs a CUDA GPU" in liger and "FSDP needs a CUDA GPU" in fsdp


def test_a_full_memory_is_a_row_and_the_next_is_measured(tmp_path, stood_in, monkeypatch):
    quick = throughput.trained

    def full(spec, case, end):
        if spec.method == "sft":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 GiB.")
        return quick(spec, case, end)

    monkeypatch.setattr(throughput, "trained", full)
    specs = [Spec(T5, False, "sft"), Spec(T5, False, "rpo")]
    first, second = gpu.every(specs, minutes=10, table=tmp_path / "t.csv")
    assert first["seconds"] is None and "has no room for 96.00 GiB more" in first["said"]
    assert "micro_batch_tokens" in first["said"] and second["tokens_per_second"] == 200.0


def test_a_row_that_fails_is_told_and_costs_no_other(tmp_path, stood_in, monkeypatch, capsys):
    def broken(spec, case):
        raise KeyError("a kernel")

    monkeypatch.setattr(throughput, "sampled", broken)
    specs = [Spec(LLAMA, True, SAMPLING), Spec(T5, False, "rpo")]
    first, second = gpu.every(specs, minutes=10, table=tmp_path / "t.csv")
    assert first["said"] == f"{gpu.FAILED} KeyError: 'a kernel'" and second["seconds"] == 0.5
    assert "KeyError: 'a kernel'" in capsys.readouterr().out


def test_what_does_not_fit_into_the_time_is_named_and_comes_the_next_time(
    tmp_path, stood_in, monkeypatch
):
    table, said = tmp_path / "t.csv", []
    specs = [Spec(T5, False, "sft"), Spec(LLAMA, True, "sft"), Spec(T5, False, "rpo")]
    monkeypatch.setattr(
        gpu, "expected", lambda spec, *_: 1e9 if spec is specs[1] and not said else 0.0
    )
    gpu.every(specs, minutes=10, table=table, left=said.append)
    assert stood_in == [specs[0], specs[2]]
    (sentence,) = said
    assert sentence.startswith("1 rows did not fit into 10 minutes; the same command again")
    assert sentence.endswith("Llama, tiny, LoRA, sft, kit")
    gpu.every(specs, minutes=10, table=table, left=said.append)
    assert stood_in[2:] == [specs[1]] and len(said) == 1 and len(pd.read_csv(table)) == 3
    gpu.every(specs, minutes=10, table=table, again=True)
    assert stood_in[3:] == specs and len(pd.read_csv(table)) == 3


def test_a_training_ends_when_its_time_is_over():
    with pytest.raises(ValueError, match="T5, tiny, full, sft, kit: the time was over"):
        throughput.trained(Spec(T5, False, "sft"), Spec(T5, False, "sft").case(3), end=0.0)


def test_a_process_that_fails_gives_its_last_line(monkeypatch):
    monkeypatch.setattr(gpu.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="T5, tiny, full, rpo, fsdp: its process ended with 1"):
        gpu.apart(Spec(T5, False, "rpo", "fsdp"), 1, 60.0)


def test_the_order_of_worth_has_everything_once_and_what_plan_reads_first():
    shapes = throughput.shapes()
    models = [shape.model for shape in shapes]
    assert [name.rpartition("-")[2] for name in models[:3]] == ["small", "large", "xl"]
    assert "8B" in models[3] and [s.training.lora for s in shapes] == [False] * 3 + [True]
    specs = gpu.wanted(shapes)
    assert len(set(specs)) == len(specs)
    kit = {(s.shape.model, s.lora, s.method) for s in specs if s.way == "kit"}
    assert {(m, x, y) for m in models for x in (True, False) for y in throughput.METHODS} <= kit
    assert {s.way for s in specs} == set(throughput.WAYS)
    assert [s.method for s in specs[:8]] == ["sft"] * 4 + ["rpo"] * 4
    assert all(s.lora == s.shape.training.lora for s in specs[:8])


def test_a_larger_model_is_expected_to_take_longer():
    specs = [Spec(shape, shape.training.lora, "sft") for shape in throughput.shapes()]
    h100 = costs.device("H100")
    small, large, *_ = (gpu.expected(spec, 5, h100) for spec in specs[:2])
    assert 0 < small < large < 60


@pytest.mark.parametrize("shape", [T5, LLAMA], ids=lambda shape: shape.model)
def test_the_arithmetic_of_a_step_is_near_what_torch_counts(shape):
    """One prompt with one completion, so that there is nothing to share."""
    case = Case(shape.model, [(24, [24])], 1)
    once = counted_flops(fresh(case.config), case, backward=False)
    assert Spec(shape, False, "sft").flops(case) == pytest.approx(3 * once, rel=0.25)
    assert Spec(shape, True, "sft").flops(case) == pytest.approx(2 * once, rel=0.25)
    # KTO reads a completion more, without a gradient, under the prompt that it has read
    count = costs.parameters(case.config, TrainingConfig())
    more = 2 * 24 * (count.decoder + count.head)
    found = {method: Spec(shape, False, method).flops(case) for method in throughput.METHODS}
    assert found["sft"] == found["rpo"] == found["dro"] == pytest.approx(found["kto"] - more)


def test_without_a_gpu_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given, said in (([], "no CUDA GPU is here"), (["t5"], "'t5' is unknown; there are google")):
        monkeypatch.setattr(gpu.sys, "argv", ["gpu", *given])
        with pytest.raises(SystemExit):
            gpu.main()
        assert said in capsys.readouterr().err


def test_plan_takes_the_share_of_the_model_itself_and_of_the_kits_own_steps(tmp_path):
    def row(model, share, way="kit", lora="False"):
        return {
            "device": "NVIDIA H100 80GB HBM3",
            "model": model,
            "lora": lora,
            "way": way,
            "share_of_peak": share,
        }

    rows = [
        row("small", "0.1"),
        row("large", "0.4"),
        row("xl", "0.5"),
        row("large", "0.9", way="liger"),
        row("xl", ""),  # it did not fit into memory
        row("small", "0.05", lora="True"),
    ]
    assert costs.share_of_peak(rows, "H100", False, "large") == 0.4
    assert costs.share_of_peak(rows, "H100", False, "xl") == 0.5
    assert costs.share_of_peak(rows, "H100", False, "another") == 0.4
    assert costs.share_of_peak(rows, "H100", True, "xl") == 0.05
    assert costs.share_of_peak(rows, "A100 80GB", False, "xl") is None


def test_bfloat16_is_measured_beside_float32_with_all_else_equal():
    ratios, details = half.half(Settings(repetitions=1, quick=True))
    rates = {(one.name, one.what): one.value for one in details if one.quantity.startswith("tok")}
    for found in ratios:
        ours, theirs = (rates[found.name, side] for side in half.SIDES)
        assert found.ratio == pytest.approx(theirs / ours) and found.goal == 0.5
    assert [one.name.split(",")[0] for one in ratios] == [
        "RPO step",
        "log-probabilities",
        "sampling",
    ]
    shares = [one.name.split(",")[0] for one in details if one.quantity.endswith("peak")]
    assert shares == 2 * ["RPO step"] + 2 * ["log-probabilities"]


@pytest.mark.parametrize("on, held", [(True, torch.bfloat16), (False, torch.float32)])
def test_a_side_holds_its_frozen_weights_as_a_training_of_the_kit_does(on, held):
    spec = half.spec_of(LLAMA, "rpo", on)
    model = throughput.model_of(spec, spec.case(1))
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert frozen == {held} and trained == {torch.float32}


def test_the_arithmetic_of_a_scoring_pass_is_near_what_torch_counts():
    spec, case = half.spec_of(LLAMA, "sft", False), Case(LLAMA.model, [(24, [24])], 1)
    counted = counted_flops(fresh(case.config), case, backward=False)  # adapters are left out
    assert half.flops_a_token(spec, case) * (24 + 24) == pytest.approx(counted, rel=0.25)
