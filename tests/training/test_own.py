"""A researcher's own loss: the same numbers as the kit's where it is the kit's, one sentence where
it is none."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rpo_nb import objectives
from rpo_nb.checks import NotFinite
from rpo_nb.config.loading import load_profile
from rpo_nb.config.methods import METHOD_NAMES, METHODS, ROWS
from rpo_nb.config.objective import Objective
from rpo_nb.experiment import inputs
from rpo_nb.training import own
from rpo_nb.training.losses import LOSSES

BY_HAND = """
import torch

def rpo(policy_logps, ref_logps, rewards, temperature):
    return 0.5 * (policy_logps - ref_logps - rewards / temperature) ** 2

def dro(policy_logps, ref_logps, rewards, temperature):
    return 0.5 * (rewards - temperature * (policy_logps - ref_logps)) ** 2

def sft(policy_logps):
    return -policy_logps

def mean(policy_logps, lengths):
    return -(policy_logps / lengths).mean()

def sqloo(policy_logps, ref_logps, rewards, prompt_ids, temperature):
    gap = (policy_logps - ref_logps) * temperature - rewards
    out = []
    for prompt in prompt_ids.tolist():
        mine = gap[prompt_ids == prompt]
        out.append(0.5 * ((mine - (mine.sum() - mine) / (len(mine) - 1)) ** 2).sum())
    return torch.stack(out)
"""
N = 12


def loss_of(tmp_path: Path, source: str, name: str = "loss") -> own.Own:
    file = tmp_path / "my.py"
    file.write_text(source, encoding="utf-8")
    return own.read(f"{file}:{name}")


@pytest.fixture
def batch():
    """Rows of three prompts, float64."""
    g = torch.Generator().manual_seed(1)
    return {
        "ref_logps": -20 * torch.rand(N, generator=g, dtype=torch.float64),
        "rewards": torch.randn(N, generator=g, dtype=torch.float64),
        "prompt_numbers": torch.arange(3).repeat_interleave(4).double() + 40,
        "lengths": torch.arange(1, N + 1).double(),
        "rows": torch.arange(N) + 100,
    }


@pytest.mark.parametrize("name", ["rpo", "dro", "sft", "mean", "sqloo"])
def test_the_kits_losses_written_by_hand_are_the_kits(name, tmp_path, batch):
    policy = (batch["ref_logps"] + 0.3 * batch["rewards"].cos()).requires_grad_()
    ref, rewards, tau = batch["ref_logps"], batch["rewards"], 0.3
    zero = torch.zeros(N, dtype=torch.float64)
    wanted = {
        "rpo": lambda: objectives.rpo(policy, ref, rewards, zero, tau=tau),
        "dro": lambda: objectives.dro(policy, ref, rewards, zero, tau=tau),
        "sft": lambda: objectives.sft(policy),
        "mean": lambda: objectives.sft(policy / batch["lengths"]).mean().expand(N),
        "sqloo": lambda: objectives.reward_aware(
            tau * (policy - ref).view(3, 4), rewards.view(3, 4), distance="sqloo"
        ).repeat_interleave(4),
    }[name]()
    mine = loss_of(tmp_path, BY_HAND, name)
    with own.registered(mine):
        objective = Objective(method="own", tau=tau)
        found = LOSSES["own"](objective, {"logps": policy}, batch, None)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    gradients = [torch.autograd.grad(losses.mean(), policy)[0] for losses in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)


def test_it_is_registered_as_a_method_is_and_only_while_the_block_runs(tmp_path):
    mine = loss_of(tmp_path, BY_HAND, "rpo")
    with own.registered(mine):
        assert ROWS["own"].objective in LOSSES and METHOD_NAMES["own"] == "rpo"
        assert Objective(method="own", tau=0.3).read_fields() == {
            "method": "own",
            "reduce": "sum",
            "tau": 0.3,
        }
    assert not {"own"} & {*ROWS, *LOSSES, *METHOD_NAMES, *METHODS}
    # as it goes to the processes that train
    assert pickle.loads(pickle.dumps(mine)) == mine


def test_no_profile_can_name_it(tmp_path):
    with own.registered(loss_of(tmp_path, BY_HAND, "rpo")):
        for method in ("own", "my.py:rpo"):
            with pytest.raises(ValueError, match="is unknown"):
                load_profile("smoke", methods=method)


def test_what_is_run_is_the_text_that_was_read_and_anew_each_time(tmp_path, batch):
    source = "CALLS = []\ndef loss(policy_logps):\n    CALLS.append(1)\n    return "
    mine = loss_of(tmp_path, source + "-len(CALLS) * policy_logps\n")
    Path(mine.path).write_text(source + "policy_logps\n", encoding="utf-8")
    policy = batch["ref_logps"].clone().requires_grad_()
    for _ in range(2):
        with own.registered(mine):
            found = [
                LOSSES["own"](Objective(method="own"), {"logps": policy}, batch, None)
                for _ in range(2)
            ]
        np.testing.assert_array_equal(found[1].detach(), 2 * found[0].detach())
        assert torch.equal(found[0], -policy)
    assert list(tmp_path.iterdir()) == [Path(mine.path)]  # no bytecode beside it
    assert own.read(f"{mine.path}:loss").key() != mine.key()


def test_a_loss_cannot_change_what_others_read(tmp_path, batch):
    mine = loss_of(
        tmp_path,
        "def loss(policy_logps, ref_logps, rewards):\n"
        "    rewards *= 0\n    ref_logps += 1\n    policy_logps -= 1\n    return -policy_logps\n",
    )
    before = {name: value.clone() for name, value in batch.items()}
    policy = batch["ref_logps"].clone().requires_grad_() * 1  # no leaf, as in training
    with own.registered(mine):
        LOSSES["own"](Objective(method="own"), {"logps": policy}, batch, None)
    assert torch.equal(policy, before["ref_logps"])
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_the_code_of_the_kit_that_it_imports_is_in_its_key(tmp_path):
    body = "def loss(policy_logps):\n    return -policy_logps\n"
    keys = [
        loss_of(tmp_path, head + body).key()["code"]
        for head in ("", "from rpo_nb import partition\n", "import math\n")
    ]
    assert keys[0] == keys[2] != keys[1]


WRONG = {
    "def other(policy_logps):\n    return -policy_logps\n": "my.py has no function 'loss'; it has "
    "other",
    "loss = 3\n": "my.py has no function 'loss'; it has none",
    "def loss(policy_logps, r):\n    return -policy_logps\n": "takes 'r', but arguments are given "
    "by name; name its arguments among policy_logps, ref_logps",
    "def loss(policy_logps, /):\n    return -policy_logps\n": "takes 'policy_logps', but arguments",
    "def loss(rewards):\n    return rewards\n": "takes no policy_logps, so nothing is learnt",
    "def loss(policy_logps):\n    return -policy_logps[:, None]\n": r"returns shape \(8, 1\) for 8 "
    "rows; return a tensor with one number a row, or their mean",
    "def loss(policy_logps):\n    return 1.0\n": "returns a float for 8 rows",
    "def loss(policy_logps, rewards):\n    return rewards\n": "has no gradient, so nothing is",
    "def loss(policy_logps):\n    return -policy_logps.detach()\n": "has no gradient",
    "def loss(policy_logps, rewards):\n    return policy_logps * (rewards + 0.5).log()\n": "is nan "
    "for row 0 of the trial: .* rewards -1.08",
    "def loss(policy_logps):\n    return policy_logps.sum() / 0\n": "returns -inf as a mean",
    "def loss(policy_logps, ref_logps):\n    return (policy_logps - ref_logps).abs().sqrt()\n": (
        "the gradient of my.py:loss is not finite at row 0"
    ),
    "import torch\nw = torch.nn.Parameter(torch.ones(1))\n"
    "def loss(policy_logps, rewards):\n    return (rewards - w) ** 2 * policy_logps.detach()\n": (
        "has no gradient, so nothing is learnt; compute it from policy_logps"
    ),
    "\ndef loss(policy_logps):\n    return -policy_logps[99]\n": "fails: line 3: IndexError: index",
    "def loss(policy_logps:\n": "cannot be read: line 1: ",
    "loss = max\n": "my.py:loss does not say what it takes; write a function around it",
    "import torch\n1 / 0\n": "cannot be run: line 2: ZeroDivisionError: division by zero",
    "import no_such_module\n": "cannot be run: line 1: ModuleNotFoundError: No module named",
    "from .helper import x\n": "imports .helper, which is no installed package, so that",
}


@pytest.mark.parametrize("source", WRONG)
def test_what_is_no_loss_is_told_in_one_sentence(source, tmp_path):
    with pytest.raises(ValueError, match=WRONG[source]) as caught:
        loss_of(tmp_path, source)
    assert "\n" not in str(caught.value)


def test_the_trial_has_as_many_rewards_of_the_reference_as_training_has(tmp_path):
    source = (
        "def loss(policy_logps, ref_rewards):\n"
        f"    assert ref_rewards.shape[1] == {inputs.QRPO_SAMPLES}\n"
        "    return -policy_logps * ref_rewards.topk(8, dim=1).values.mean(1)\n"
    )
    assert loss_of(tmp_path, source).name == "loss"


def test_a_file_that_needs_its_neighbour_is_refused(tmp_path, monkeypatch):
    (tmp_path / "helper_of_mine.py").write_text("scale = 2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "def loss(policy_logps):\n    from helper_of_mine import scale\n    return -policy_logps"
    )
    with pytest.raises(ValueError, match="my.py imports helper_of_mine, which is no installed"):
        loss_of(tmp_path, source)


ON_ITS_WAY = "import sys\nsys.path.insert(0, {folder!r})\n"
LOSS = "def loss(policy_logps):\n    {more}\n    return -policy_logps\n"


@pytest.mark.parametrize(
    "source",
    [
        ON_ITS_WAY + "import near_one\n" + LOSS.format(more="pass"),
        ON_ITS_WAY + "from near_folder import scale\n" + LOSS.format(more="pass"),
        ON_ITS_WAY + LOSS.format(more="import near_one"),
        "import importlib\n"
        + ON_ITS_WAY
        + "importlib.import_module('near_one')\n"
        + LOSS.format(more="pass"),
        # in a branch that the trial does not take
        LOSS.format(more="if len(policy_logps) > 99: import near_one"),
    ],
)
@pytest.mark.parametrize("place", ["beside", "elsewhere"])
def test_a_file_that_makes_its_own_way_to_another_is_refused(source, place, tmp_path, monkeypatch):
    """Each time that it is read, though Python keeps what it has once imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    near = tmp_path if place == "beside" else tmp_path / "elsewhere"
    (near / "near_folder").mkdir(parents=True)
    for name in ("near_one.py", "near_folder/__init__.py"):
        (near / name).write_text("scale = 2\n", encoding="utf-8")
    if "99" in source and place == "elsewhere":
        monkeypatch.syspath_prepend(str(near))  # a file of the owner's on PYTHONPATH
    for _ in range(2):
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(ValueError, match=r"my.py imports near_\w+, which is no installed"):
            loss_of(tmp_path, source.replace("{folder!r}", repr(str(near))))
    assert not {"near_one", "near_folder"} & set(sys.modules)


def test_installed_packages_and_the_standard_library_may_be_imported(tmp_path):
    (tmp_path / "scipy").mkdir()  # of data, say: the package is what is imported
    source = "import array\nimport colorsys\nimport scipy.special\n"
    assert loss_of(tmp_path, source + LOSS.format(more="from xml import sax")).name == "loss"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("my.py", "'my.py' names no function; give FILE.py:FUNCTION"),
        ("my.txt:loss", "names no function"),
        ("my.py:a b", "names no function"),
        ("nowhere/my.py:loss", "there is no file nowhere/my.py; look at the path"),
    ],
)
def test_what_names_no_loss_is_told(text, words):
    with pytest.raises(ValueError, match=words):
        own.read(text)


def test_a_gradient_that_is_not_finite_names_its_training_row(tmp_path, batch):
    """Finite at first, where policy and reference are the same; not later."""
    mine = loss_of(
        tmp_path,
        "def loss(policy_logps, ref_logps):\n"
        "    gap = policy_logps - ref_logps\n"
        "    return (gap - 0.25).abs().sqrt()\n",
    )
    policy = batch["ref_logps"].clone()
    policy[5] = batch["ref_logps"][5] = -16.0
    policy[5] += 0.25
    with own.registered(mine):
        given = {"logps": policy.requires_grad_()}
        losses = LOSSES["own"](Objective(method="own"), given, batch, None)
        assert losses.isfinite().all()
        with pytest.raises(NotFinite, match="not finite at row 105, where its value is"):
            losses.mean().backward()


def test_what_costs_more_is_made_only_for_a_loss_that_names_it(tmp_path):
    source = (
        "def every(policy_logps, **others):\n"
        "    assert not {'ref_rewards', 'kl', 'desirable'} & set(others)\n"
        "    return -policy_logps\n"
        "def both(policy_logps, ref_rewards, kl):\n"
        "    return -policy_logps * ref_rewards.mean(1) - kl\n"
    )
    fields = {}
    for name in ("every", "both"):
        with own.registered(loss_of(tmp_path, source, name)):
            objective = Objective(method=ROWS["own"].objective)
            fields[name] = (*ROWS["own"].needs, *objective.read_fields())
    cheap = ("prompt_numbers", "lengths")
    assert fields["every"] == (*cheap, "method", "reduce", "tau")
    assert fields["both"][:4] == (*cheap, "reference_rewards", "mismatched")
    assert fields["both"][4:] == ("method", "reduce", "beta", "kto_kl")


def test_a_loss_that_asks_for_kl_stands_in_ktos_place_while_it_is_trained(tmp_path, batch):
    source = (
        "def loss(policy_logps, desirable, kl, temperature):\n"
        "    return (policy_logps - kl) * desirable * temperature\n"
    )
    kto, policy = LOSSES["kto"], batch["ref_logps"].clone().requires_grad_()
    batch["desirable"] = batch["rewards"] > 0
    mine = loss_of(tmp_path, source)
    with own.named(mine):
        assert LOSSES["kto"] is kto and ROWS["own"].objective == "kto"
    with own.registered(mine):
        objective = Objective(method="kto", beta=0.3, tau=9.0)
        found = LOSSES["kto"](objective, {"logps": policy}, batch, torch.tensor(0.5))
    torch.testing.assert_close(found, 0.3 * (policy - 0.5) * batch["desirable"])
    assert LOSSES["kto"] is kto and "own" not in ROWS
