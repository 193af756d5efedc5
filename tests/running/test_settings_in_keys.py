"""Settings."""

from __future__ import annotations

import pytest

from rpo_nb.config import base, objective, schema, studies
from rpo_nb.experiment import generations, grid, references
from rpo_nb.judging import verdicts
from rpo_nb.studies.lab import Spec, Study, low_data
from rpo_nb.studies.paper_b import world
from tests.running.keys import PROFILE, model_folder, other, run_key

# ---- settings ------------------------------------------------------------------------------------


def leaves(value: base.Config, place: tuple = ()) -> list[tuple]:
    """(place, value) of every field that is no section."""
    out = []
    for name in type(value).model_fields:
        field = getattr(value, name)
        out += (
            leaves(field, (*place, name))
            if isinstance(field, base.Config)
            else [((*place, name), field)]
        )
    return out


def with_leaf(profile: schema.Profile, place: tuple, value) -> schema.Profile:
    """The profile with another value there, not validated: only keys are made of it."""

    def put(section, rest):
        inner = put(getattr(section, rest[0]), rest[1:]) if len(rest) > 1 else value
        return section.model_copy(update={rest[0]: inner})

    return put(profile, place)


NOT_TRAINED_BY = {  # fields of these sections that change no policy
    # memory, logs, checkpoints
    "training": {"micro_batch_tokens", "report_to", "logging_steps", "save_steps"},
    "sizes": {"authors", "authors_revision", "micro_batch_tokens"},
}


@pytest.mark.parametrize(
    "place",
    [place for place, _ in leaves(PROFILE) if place[0] in ("data", "training")],
    ids=".".join,
)
def test_every_field_of_data_and_training_names_a_run(place):
    changed = with_leaf(PROFILE, place, other(dict(leaves(PROFILE))[place]))
    assert (run_key(changed) != run_key(PROFILE)) == (
        place[1] not in NOT_TRAINED_BY.get(place[0], ())
    )


@pytest.mark.parametrize("field", schema.ModelConfig.model_fields)
def test_every_field_of_a_size_names_a_run_and_its_reference(field):
    model = PROFILE.sizes["small"]
    changed = PROFILE.model_copy(
        update={
            "sizes": PROFILE.sizes
            | {"small": model.model_copy(update={field: other(getattr(model, field))})}
        }
    )
    named = field not in NOT_TRAINED_BY["sizes"]
    assert (run_key(changed) != run_key(PROFILE)) == named
    pairs = [("prompt", "completion")]
    keys = {references.reference_key(profile, "small", 0, pairs) for profile in (PROFILE, changed)}
    assert len(keys) == 1 + (named and field != "revision")


@pytest.mark.parametrize(
    ("method", "fields"),
    {
        "rpo": ("reduce", "partition", "dropout", "max_grad_norm", "weight_decay"),
        "dro": (
            "reduce",
            "value_pooling",
            "value_detach",
            "dropout",
            "max_grad_norm",
            "weight_decay",
        ),
        "kto": ("reduce", "kto_beta", "kto_kl", "dropout", "max_grad_norm", "weight_decay"),
        "qrpo": ("reduce", "qrpo_beta", "dropout", "max_grad_norm", "weight_decay"),
        "sft": (),
    }.items(),
)
def test_a_presets_fields_name_the_runs_of_the_methods_that_read_them(method, fields):
    paper = PROFILE.presets["paper"]
    values = {
        "reduce": "mean",
        "partition": "none",
        "kto_kl": "matched",
        "value_pooling": "all",
        "decoding": "released",
    }
    for field in objective.Preset.model_fields:
        if field in ("rpo_tau", "dro_tau"):  # the temperature of the run itself
            continue
        preset = paper.model_copy(update={field: values.get(field, other(getattr(paper, field)))})
        changed = PROFILE.model_copy(update={"presets": PROFILE.presets | {"paper": preset}})
        assert (run_key(changed, method) != run_key(PROFILE, method)) == (field in fields), field


@pytest.mark.parametrize("field", schema.DecodingConfig.model_fields)
def test_every_field_of_decoding_names_the_answers_and_no_policy(field, tmp_path):
    changed = with_leaf(PROFILE, ("decoding", field), other(getattr(PROFILE.decoding, field)))
    files = []
    for profile in (PROFILE, changed):
        cell = next(c for c in grid.cells(profile) if c.preset == "paper" and c.method == "rpo")
        files.append(generations.completions_file(profile, cell, tmp_path))
    assert files[0].parent == files[1].parent and files[0] != files[1]
    # The reference's texts are data of the on_policy regime and rewards of QRPO: all is looked at
    # again.
    assert grid.world_key(changed, "small", 0) != grid.world_key(PROFILE, "small", 0)


# which policies there are, and where the prompts are from
NOT_IN_PAPER_B = {"size", "seeds", "processes", "runs", "etas", "reproduce"}


@pytest.mark.parametrize("field", studies.PaperB.model_fields)
def test_every_field_of_paper_b_names_its_policies(field, tmp_path, monkeypatch):
    monkeypatch.setattr(world.World, "inputs", ["reference and prompts"])
    value = {
        "settings": {"dpo": PROFILE.paper_b.settings["bwd"]},
        "size": "large",
        "offline": studies.Schedule(steps=3),
        "online": studies.Schedule(steps=3),
    }.get(field) or other(getattr(PROFILE.paper_b, field))
    profile = (
        with_leaf(PROFILE, ("paper_b", "ood"), "some/data") if field == "ood_revision" else PROFILE
    )
    keys = {
        world.World(one, 0, tmp_path).key()
        for one in (profile, with_leaf(profile, ("paper_b", field), value))
    }
    assert len(keys) == (1 if field in NOT_IN_PAPER_B else 2)


def test_the_batch_that_is_generated_at_once_names_paper_bs_policies_in_bf16(tmp_path, monkeypatch):
    monkeypatch.setattr(world.World, "inputs", ["reference and prompts"])
    for bf16 in (False, True):
        one = with_leaf(PROFILE, ("training", "bf16"), bf16)
        other_batch = with_leaf(one, ("evaluation", "generation_batch_size"), 7)
        keys = {world.World(profile, 0, tmp_path).key() for profile in (one, other_batch)}
        assert len(keys) == 1 + bf16


@pytest.mark.parametrize("field", ["max_prompt_tokens", "max_completion_tokens"])
def test_a_reward_model_is_named_by_the_tokens_that_it_reads(field, tmp_path):
    """Of a size with a lower limit of its own, too, which its policies have and the judge has
    not."""
    size = PROFILE.sizes["small"].model_copy(update={"max_tokens": 16})
    profile = PROFILE.model_copy(update={"sizes": {"small": size}})
    changed = with_leaf(profile, ("data", field), getattr(profile.data, field) + 1)
    reference = model_folder(tmp_path / "reference", b"")
    folders = {
        verdicts.reward_model_folder(one, tmp_path, 0, reference) for one in (profile, changed)
    }
    assert len(folders) == 2


def test_the_lab_on_other_data_is_another_world():
    study = Study("x", PROFILE, "small", 0, (Spec("sft"),))
    assert study.world == grid.world_key(PROFILE, "small", 0)
    others = [
        Study("x", low_data(PROFILE, 2), "small", 0, ()),
        Study("x", PROFILE, "small", 1, ()),
        Study("x", PROFILE, "large", 0, ()),
        Study("x", PROFILE, "small", 0, (), "noise"),
    ]
    assert len({study.world, *(one.world for one in others)}) == 5
