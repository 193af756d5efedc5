"""Nothing of a model's folder runs, whatever it brings; no call of the package could let it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import LLMJudge
from rpo_nb.evaluation import metrics
from rpo_nb.experiment import tokenizers
from rpo_nb.judging import local
from rpo_nb.planning import sizes
from rpo_nb.policy.load import add_lora, load_policy, load_tokenizer

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted((ROOT / "rpo_nb").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
CODE_LOADERS = (
    "from_pretrained",
    "from_config",
    "load_dataset",
    "pipeline",
)  # transformers or datasets may run a folder's code
PLAIN = (
    "PeftModel",
    "PeftConfig",
    "GenerationConfig",
    "ModelCard",
)  # theirs run none and know no such argument


def calls(path: Path):
    """(line, what it is called on, name, keywords) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            on = getattr(node.func, "value", None)
            owner = getattr(on, "id", getattr(on, "attr", "?" if on is not None else ""))
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield node.lineno, owner, name, {key.arg: key.value for key in node.keywords}


def test_every_call_that_could_run_a_folders_code_says_that_it_must_not():
    seen, missing = 0, []
    for path in SOURCES:
        for line, owner, name, keywords in calls(path):
            if name in CODE_LOADERS and owner not in PLAIN:
                seen += 1
                said = keywords.get("trust_remote_code")
                if not (isinstance(said, ast.Constant) and said.value is False):
                    missing.append(f"{path.relative_to(ROOT)}:{line} {owner}.{name}")
    assert seen >= 15 and not missing, f"without trust_remote_code=False: {missing}"


def test_nothing_is_unpickled_or_handed_to_a_shell():
    wrong = []
    for path in SOURCES:
        for line, owner, name, keywords in calls(path):
            weights = name == "from_pretrained" and "Model" in owner and owner not in PLAIN
            safe = weights is False or {"use_safetensors", "gguf_file"} & set(keywords)
            shell = keywords.get("shell")
            if (
                not safe
                or (owner, name)
                in {
                    ("torch", "load"),
                    ("pickle", "load"),
                    ("pickle", "loads"),
                    ("joblib", "load"),
                    ("yaml", "unsafe_load"),
                    ("os", "system"),
                    ("os", "popen"),
                    ("", "eval"),
                    ("", "exec"),
                }
                or "allow_pickle" in keywords
                or shell is not None
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{line} {owner}.{name}")
            if (owner, name) == ("yaml", "load") and getattr(
                keywords.get("Loader"), "attr", ""
            ) != "BaseLoader":
                wrong.append(f"{path.relative_to(ROOT)}:{line} yaml.load")
    assert not wrong


@pytest.fixture
def hostile(tmp_path, tiny_llama, monkeypatch):
    """A model's folder whose configuration, tokenizer and model name code of their own, which
    leaves a file when it runs.
    """
    model, tokenizer = tiny_llama
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {
            "AutoConfig": "evil.Config",
            "AutoModel": "evil.Model",
            "AutoModelForCausalLM": "evil.Model",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "EvilTokenizer",
        "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(
        "builtins.input", lambda *_: "y"
    )  # transformers asks, and a user in a hurry agrees
    yield folder
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "load",
    [
        load_policy,
        lambda folder: local.LocalJudge("j", LLMJudge(kind="local", model=str(folder))),
        lambda folder: metrics.BertScore(str(folder)),
        load_tokenizer,
    ],
)
def test_a_models_own_code_is_never_run(hostile, load):
    with pytest.raises(ValueError, match="code|trust_remote_code"):
        load(hostile)


def test_planning_and_reading_a_tokenizer_run_none_either(hostile):
    profile = load_profile("smoke", sizes="small", **{"sizes.small.id": str(hostile)})
    (told,) = tokenizers.of_profile(profile, []).values()
    assert "code of its own" in told
    with pytest.raises(ValueError):
        sizes.named_config(str(hostile), online=False)


def test_the_refusal_does_not_advise_to_run_it(hostile):
    with pytest.raises(
        ValueError, match="it brings code of its own, which is never run here; give a model"
    ) as caught:
        load_policy(hostile)
    assert "trust_remote_code" not in str(caught.value)


def test_weights_that_are_no_safetensors_are_refused(tmp_path, tiny_llama):
    model, tokenizer = tiny_llama
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        load_policy(tmp_path)


def test_an_adapter_that_is_no_safetensors_is_refused(tmp_path, tiny_llama):
    import copy

    model, tokenizer = tiny_llama
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapted = add_lora(copy.deepcopy(model), 2)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert load_policy(tmp_path / "adapter", base=tmp_path / "base")
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no adapter in safetensors"):
        load_policy(tmp_path / "adapter", base=tmp_path / "base")


def test_a_data_sets_own_code_is_never_run(tmp_path):
    from rpo_nb.data import feedback

    folder = tmp_path / "feedback"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "p", "completion": "c", "reward": 1}\n')
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: train.jsonl\n---\n"
    )
    (folder / "feedback.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ValueError, match="code of its own .feedback.py., which is never run"):
        feedback.load_feedback(str(folder))
    assert not (tmp_path / "ran").exists()
