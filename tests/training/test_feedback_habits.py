"""Habits of Hugging Face that a FeedbackTrainer keeps, and those that it refuses by name."""

from copy import deepcopy

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, TrainingArguments

from rpo_nb import (
    DROConfig,
    DROTrainer,
    FeedbackConfig,
    FeedbackTrainer,
    KTOConfig,
    KTOTrainer,
    RPOConfig,
    RPOTrainer,
    SFTConfig,
    SFTTrainer,
    load_feedback,
)
from rpo_nb.config import DataConfig
from rpo_nb.training.batches import desirable_rows
from rpo_nb.training.feedback_rows import Scale, read
from tests.training.feedback import Hub, config, losses, rows

LORA = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=2, target_modules=["q", "v"])


def trainer(kind, folder, tmp_path, data=None, *, given=None, **more):
    args = config(tmp_path, kind.config_class, **more)
    return kind(model=str(folder), args=args, train_dataset=data or rows(), **(given or {}))


# What is saved ------------------------------------------------------------------------------------


def test_saving_leaves_what_else_is_in_the_folder(folder, tmp_path, monkeypatch):
    made = trainer(RPOTrainer, folder, tmp_path, save_strategy="steps", save_steps=2)
    made.train()
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine")
    before = {path.name for path in out.iterdir()}
    made.save_model()
    assert before < {path.name for path in out.iterdir()}
    assert (out / "notes.txt").read_text() == "mine" and (out / "checkpoint-4").is_dir()
    AutoModelForSeq2SeqLM.from_pretrained(out)
    monkeypatch.chdir(out)
    made.save_model(".")
    assert (out / "notes.txt").exists()
    assert trainer(RPOTrainer, folder, tmp_path).reference_scores == 0


def test_a_save_pushes_the_policy_as_it_is_read(folder, tmp_path, monkeypatch):
    hub = Hub(monkeypatch)
    monkeypatch.setattr("transformers.Trainer.init_hf_repo", lambda self, token=None: None)
    more = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 2}
    made = trainer(RPOTrainer, folder, tmp_path, given={"peft_config": LORA}, **more)
    made.train()
    made.save_model()
    assert [told["commit_message"] for told in hub.sent] == [
        "Training in progress, step 2",
        "Training in progress, step 4",
        "Model save",
    ]
    for told in hub.sent:
        names = told["names"]
        assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= names
        assert "model.safetensors" not in names and not [n for n in names if n.endswith(".bin")]


# Which weights train ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DROTrainer, RPOTrainer, SFTTrainer])
def test_a_stored_adapter_is_trained_on_whatever_is_kept(kind, folder, tmp_path):
    first = trainer(kind, folder, tmp_path, given={"peft_config": LORA})
    first.train()
    first.save_model(str(tmp_path / "adapter"))
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for _ in range(2):  # the second finds the reference's log-probabilities
        again = trainer(kind, tmp_path / "adapter", tmp_path)
        again.train()
        again.save_model(str(tmp_path / "again"))
        after = load_file(tmp_path / "again" / "adapter_model.safetensors")
        assert all(not torch.equal(before[name], after[name]) for name in before if "lora" in name)
        assert all(
            "lora" in name
            for name, weight in again.model.policy.named_parameters()
            if weight.requires_grad
        )


def test_a_policy_that_cannot_learn_is_refused(folder, tmp_path):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).requires_grad_(False)
    args = config(tmp_path)
    with pytest.raises(ValueError, match="every weight of this model is frozen"):
        RPOTrainer(model=model, args=args, train_dataset=rows())
    prompts = PromptTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=3)
    with pytest.raises(ValueError, match="PromptTuningConfig puts learnt tokens before a prompt"):
        trainer(DROTrainer, folder, tmp_path, given={"peft_config": prompts})
    adapted = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder), LORA)
    with pytest.raises(ValueError, match="has an adapter already; leave peft_config out"):
        RPOTrainer(model=adapted, args=args, train_dataset=rows(), peft_config=LORA)
    half = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float16)
    with pytest.raises(ValueError, match="weights are float16, which overflows"):
        RPOTrainer(model=half, args=args, train_dataset=rows())


def test_dropout_is_the_models_own_when_it_is_asked_for(folder, tmp_path):
    def rates(model):
        return {
            (name, module.p)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Dropout)
        }

    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    plain.config.dropout_rate = 0.25
    plain.config.save_pretrained(folder)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    kept = trainer(RPOTrainer, folder, tmp_path, disable_dropout=False).model.policy
    off = trainer(RPOTrainer, folder, tmp_path).model.policy
    assert rates(kept) == rates(plain) and {rate for _, rate in rates(plain)} == {0.25}
    assert {rate for _, rate in rates(off)} == {0.0}


# What is read -------------------------------------------------------------------------------------


def talks():
    turns = [{"role": "system", "content": "red"}, {"role": "user", "content": "boat"}]
    other = [{"role": "system", "content": "blue"}, {"role": "user", "content": "kettle"}]
    return [
        {"prompt": prompt, "completion": text, "reward": reward}
        for prompt in (turns, other)
        for text, reward in (("red boat", 1.0), ("blue", 0.0))
    ]


def test_what_load_feedback_gives_is_read_as_it_is(tmp_path):
    rated = [
        row | {"rater": ("Ann", "Bob")[i % 2], "reward": float(i % 7) + (20 if i % 2 else 0)}
        for i, row in enumerate(rows(12, 4))
    ]
    for given, settings in ((talks(), {}), (rated, {"level_raters": False}), (rated, {})):
        first, told = load_feedback(given, config=DataConfig(**settings), return_report=True)
        again, report = read(first, "train_dataset")
        assert {entry["reason"] for entry in report} <= {entry["reason"] for entry in told}
        for name in ("prompt_id", "prompt", "completion", "reward"):
            assert list(again[name]) == list(first[name])
        if "messages" in first.column_names:
            assert list(again["messages"]) == list(first["messages"])
    levelled, as_given = (
        load_feedback(rated, config=DataConfig(level_raters=on)) for on in (True, False)
    )
    assert list(levelled["reward"]) != list(as_given["reward"])  # else nothing was tested


def test_rows_of_no_weight_count_nowhere(folder, tmp_path):
    data = [row | {"weight": 1.0} for row in rows()]
    data[0] |= {"weight": 0.0, "reward": 100.0}
    args = config(tmp_path, SFTConfig, method="best_of_k")
    made = SFTTrainer(model=str(folder), args=args, train_dataset=data)
    rewards = [row["reward"] for row in data[1:]]
    assert made.scale.mean == pytest.approx(np.mean(rewards))
    assert made.scale.std == pytest.approx(np.std(rewards))
    assert len(made.train_dataset) == 6  # its prompt goes on with the next best
    with pytest.raises(ValueError, match="train_dataset: every row has weight 0"):
        trainer(RPOTrainer, folder, tmp_path, [row | {"weight": 0.0} for row in data])


def test_rewards_that_are_all_the_same_teach_nothing_but_imitation(folder, tmp_path):
    data = [row | {"reward": 2.0} for row in rows()]
    with pytest.raises(ValueError, match="all 18 rewards are 2, so none says what is better"):
        trainer(DROTrainer, folder, tmp_path, data)
    assert len(trainer(SFTTrainer, folder, tmp_path, data).train_dataset) == 6


def test_what_is_cut_is_told(folder, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        trainer(RPOTrainer, folder, tmp_path, max_completion_tokens=4)
    assert "train: of 6 rows the completion is cut to max_completion_tokens, 4" in caplog.text


# What is evaluated --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RPOTrainer, DROTrainer, SFTTrainer])
def test_eval_loss_is_the_mean_over_rows_whatever_the_batch(kind, folder, tmp_path):
    held_out = rows(prompts=5)[:13] + rows(prompts=5, k=5)[20:]  # 3 to 5 completions a prompt
    found = []
    for size in (1, 2, 16):
        made = trainer(
            kind,
            folder,
            tmp_path,
            given={"eval_dataset": held_out},
            per_device_eval_batch_size=size,
        )
        made.model.double()  # float32 rounds other batches otherwise, by 3e-5 of DRO's on AVX2
        found.append(made.evaluate()["eval_loss"])
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-7)


def test_an_evaluation_is_none_of_the_trainings_log(folder, tmp_path):
    def logged(**more):
        made = trainer(RPOTrainer, folder, tmp_path, given={"eval_dataset": rows()[:9]}, **more)
        made.train()
        return [
            {name: value for name, value in entry.items() if name.startswith(("loss", "log_ratio"))}
            for entry in made.state.log_history
            if "loss" in entry
        ]

    assert logged(eval_strategy="steps", eval_steps=1) == logged()


def test_desirable_is_what_is_so_in_the_training_rows(folder, tmp_path):
    data = [row | {"reward": float(i % 2)} for i, row in enumerate(rows())]
    for reward in (0.0, 1.0):
        held_out = [row | {"reward": reward} for row in rows()[:6]]
        made = trainer(KTOTrainer, folder, tmp_path, data, given={"eval_dataset": held_out})
        assert {one for item in made.eval_dataset for one in item["desirable"]} == {reward}
    table = load_feedback(rows())
    for values in (data, rows()):
        table = load_feedback(values)
        scale = Scale.of(table, standardise=True)
        assert (scale(table) >= scale.desirable).tolist() == desirable_rows(scale(table)).tolist()


def test_parts_and_several_sets_are_evaluated_by_name(folder, tmp_path):
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows()),
        validation=datasets.Dataset.from_list(rows(prompts=4)),
    )
    made = trainer(RPOTrainer, folder, tmp_path, both, given={"eval_dataset": both})
    assert (len(made.train_dataset), len(made.eval_dataset)) == (6, 4)
    sets = {"first": rows()[:6], "second": rows()[6:12]}
    made = trainer(RPOTrainer, folder, tmp_path, given={"eval_dataset": sets})
    assert {"eval_first_loss", "eval_second_loss"} <= made.evaluate().keys()
    with pytest.raises(ValueError, match="has the parts train, and none of validation, test"):
        alone = datasets.DatasetDict(train=both["train"])
        trainer(RPOTrainer, folder, tmp_path, given={"eval_dataset": alone})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match="eval_dataset is the source of train_dataset"):
        path = str(tmp_path / "both")
        trainer(RPOTrainer, folder, tmp_path, path, given={"eval_dataset": path})


def test_other_feedback_is_evaluated_where_its_reference_is_still_there(folder, tmp_path):
    asked = datasets.Dataset.from_list(rows()[:9])
    with_it = trainer(RPOTrainer, folder, tmp_path, given={"eval_dataset": asked})
    adapted = trainer(RPOTrainer, folder, tmp_path, given={"peft_config": LORA})
    # an adapter that has learnt nothing is its reference
    mine = adapted.evaluate(asked)["eval_loss"]
    assert mine == pytest.approx(with_it.evaluate()["eval_loss"], rel=1e-4)
    asked.to_json(tmp_path / "asked.jsonl")
    sft = trainer(SFTTrainer, folder, tmp_path)
    found = [
        sft.predict(source).metrics["test_loss"]
        for source in (asked, tmp_path / "asked.jsonl", str(tmp_path / "asked.jsonl"))
    ]
    assert np.isfinite(found[0]) and found == found[:1] * 3
    with pytest.raises(ValueError, match="the reference is the model before its training"):
        with_it.evaluate(asked)


# Settings -----------------------------------------------------------------------------------------


def test_the_trainers_name_is_the_method(folder, tmp_path):
    for kind, args, words in (
        (DROTrainer, config(tmp_path, FeedbackConfig), "DROTrainer trains dro, and args.method is"),
        (SFTTrainer, config(tmp_path, RPOConfig), "SFTTrainer trains sft or best_of_k, and"),
        (
            KTOTrainer,
            TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
            "args is a TrainingArguments; give a KTOConfig",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            kind(model=str(folder), args=args, train_dataset=rows())
    for kind, method in (
        (RPOConfig, "rpo"),
        (DROConfig, "dro"),
        (KTOConfig, "kto"),
        (SFTConfig, "sft"),
    ):
        made = FeedbackTrainer(str(folder), config(tmp_path, kind), rows())
        assert made.objective.method == method


@pytest.mark.parametrize(
    "more, message",
    [
        ({"label_smoothing_factor": 0.5}, "label_smoothing_factor has no meaning"),
        ({"train_sampling_strategy": "group_by_length"}, "grouping by length is done inside"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha adds noise to what the policy reads"),
        ({"max_completion_tokens": 1}, "max_completion_tokens is 1; it must be a finite number"),
        ({"max_prompt_tokens": -3}, "max_prompt_tokens is -3; it must be a finite number"),
        ({"hub_strategy": "all_checkpoints"}, "hub_strategy pushes checkpoints"),
    ],
)
def test_what_would_be_ignored_is_refused(more, message, folder, tmp_path):
    if "train_sampling_strategy" in more and not hasattr(
        TrainingArguments, "train_sampling_strategy"
    ):
        more = {"group_by_length": True}
    with pytest.raises(ValueError, match=message):
        trainer(RPOTrainer, folder, tmp_path, **more)


def test_a_source_of_no_known_kind_is_named_and_not_printed(folder, tmp_path):
    stream = datasets.Dataset.from_list(rows()).to_iterable_dataset()
    with pytest.raises(ValueError, match="train_dataset is of type IterableDataset; give a"):
        trainer(RPOTrainer, folder, tmp_path, stream)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_llama"])
def test_checkpointing_changes_no_number(name, request, tmp_path):
    model, tokenizer = request.getfixturevalue(name)
    found = []
    for on in (False, True):
        # small steps: the fixture's weights are wild, and rounding would grow
        args = config(tmp_path, gradient_checkpointing=on, learning_rate=1e-5)
        made = RPOTrainer(deepcopy(model), args, rows(), processing_class=tokenizer, callbacks=None)
        made.train()
        found.append(losses(made))
    assert found[1] == pytest.approx(found[0], rel=1e-4)
