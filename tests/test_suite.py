"""What the tests themselves stand on: which warnings fail a test, and that what has passed need not be done again."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT, Deprecations
from resuming import Passed, plain

CATEGORIES = [DeprecationWarning, PendingDeprecationWarning, FutureWarning]


def warn_in(module, category):
    """As the warnings module attributes it: to the module that the warning's stack level leads to."""
    warnings.warn_explicit("`old` is old", category, "some.py", 1, module=module)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_deprecation_fails_a_test_where_our_code_causes_it_and_nowhere_else(category):
    folders = ("src", "tests", "benchmarks", "examples", "scripts")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path.stem != "__init__"]
    modules = {".".join(path.relative_to(ROOT / "src").with_suffix("").parts) if "src" in path.parts else path.stem
               for path in files}  # fmt: skip
    assert {"tunesmith.train.loop", "test_suite", "sft_gpu", "sft_loop", "kill_test", "conftest"} <= modules
    for module in modules:
        with pytest.raises(category):
            warn_in(module, category)
    for module in ("transformers.modeling_utils", "peft.peft_model", "torch.jit._script", "trl.trainer.sft_trainer"):
        warn_in(module, category)
    with pytest.raises(UserWarning):
        warn_in("transformers.modeling_utils", UserWarning)


def test_a_deprecated_argument_of_a_model_is_our_doing():
    """transformers attributes it to whoever calls the forward pass, which is torch's module, whoever called that."""
    from transformers.utils.deprecation import deprecate_kwarg

    class Model(torch.nn.Module):
        @deprecate_kwarg("old", version="999.0.0", new_name="new")
        def forward(self, new):
            return new

    assert Model()(new=1) == 1
    with pytest.raises(FutureWarning, match="`old` is deprecated"):
        Model()(old=1)


LIBRARY = """
import logging
logger = logging.getLogger("transformers.utils.generic")
def say(words):
    logger.warning(words)
"""
WITHIN = """
def generate(say):
    say("`past_key_values` are deprecated.")
"""


def library(code, file):
    """The names that a module of a library would have, with frames that say where it lies."""
    names = {}
    exec(compile(code, f"/lib/python3/site-packages/{file}", "exec"), names)
    return names


def test_a_deprecation_that_transformers_only_logs_is_seen_where_our_code_causes_it(deprecations):
    say = library(LIBRARY, "transformers/utils/generic.py")["say"]
    library(WITHIN, "transformers/generation/utils.py")["generate"](say)
    say("Setting `pad_token_id` to `eos_token_id`.")
    assert deprecations.found == []
    say("`past_key_values` are deprecated.")
    [found] = deprecations.found
    assert found.startswith(__file__)
    deprecations.found.clear()
    logging.getLogger("transformers").debug("deprecated")
    assert not Deprecations().found


def run_tests(file, outcomes, reads_only=False):
    """A session of pytest as the plugin hears it; returns the tests that were left to do."""
    passed, left_out = Passed(file, reads_only), []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items)))
    items = [SimpleNamespace(nodeid=name) for name in outcomes]
    passed.pytest_collection_modifyitems(config, items)
    assert len(items) + len(left_out) == len(outcomes)
    for item in items:
        for when in ("setup", "call", "teardown"):
            failed = outcomes[item.nodeid] == when
            passed.pytest_runtest_logreport(
                SimpleNamespace(nodeid=f"{item.nodeid}@a_group", when=when, failed=failed, passed=not failed)
            )
            if failed and when == "setup":
                break
    passed.pytest_sessionfinish(exitstatus=int(any(outcomes[item.nodeid] for item in items)))
    return [item.nodeid for item in items]


def test_what_has_passed_is_not_done_again_until_all_has_or_the_code_changes(tmp_path, monkeypatch):
    file, names = tmp_path / "notes" / "passed", ["t.py::one", "t.py::two[a@b]", "t.py::three", "t.py::four"]
    failing = dict(zip(names, ("", "call", "teardown", "setup"), strict=True))
    assert run_tests(file, failing) == names
    assert run_tests(file, failing) == names[1:]
    assert run_tests(file, {**failing, names[1]: ""}, reads_only=True) == names[1:]
    assert run_tests(file, {**failing, names[1]: ""}) == names[1:]
    assert run_tests(file, failing) == names[2:]
    monkeypatch.setattr("resuming.hash_of_code", lambda: "other code")
    assert run_tests(file, failing) == names
    assert run_tests(file, dict.fromkeys(names, "")) == names[1:]
    assert not file.exists()


def test_names_are_without_the_groups_of_workers():
    assert plain("tests/test_it.py::test_it[a@b]@test_it") == "tests/test_it.py::test_it[a@b]"
    assert plain("tests/test_it.py::test_it[a@b]") == "tests/test_it.py::test_it[a@b]"


def test_the_tests_of_a_module_are_done_by_one_process(request):
    """pytest 9.2 keeps from pytest-xdist 3.8, in silence, what it groups tests by: fixtures were made twice."""
    if hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@test_suite")


def test_the_targets_that_resume_begin_again_beside_what_they_noted(tmp_path):
    (tmp_path / "kills").write_text("other code\n")
    shown = subprocess.run(
        ["make", "-n", "--no-print-directory", "kills", f"PASSED={tmp_path}"], cwd=ROOT, text=True, capture_output=True
    )
    command = shown.stdout.splitlines()[-1].split(" -m pytest ")[1].split()
    assert f"{tmp_path}/kills" in command[-1]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *command, "--collect-only", "tests/test_kill_jobs.py", "tests/test_resume.py"],
        cwd=ROOT, capture_output=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
