"""What holds for all tests."""

import os
import signal

import pytest

# Tests run in several processes and compute little at a time: threads would only wait for each
# other, busily. To be set before the first import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that
# interrupt a command would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, longest first (seconds of one core, some of them spent waiting).
# pytest-xdist hands out whole files, in the order of collection where the Makefile says so: a long
# one that comes last would leave the other cores idle.
LONG = {
    "tests/pipeline/test_flow_commands.py": 180,
    "tests/pipeline/test_retrain_flow.py": 170,
    "tests/pipeline/test_flow_build.py": 150,
    "tests/pipeline/test_new_user.py": 130,
    "tests/pipeline/test_flow_smoke.py": 110,
    "tests/pipeline/test_audit.py": 100,
    "tests/pipeline/test_resume.py": 90,
    "tests/pipeline/test_deployments.py": 80,
    "tests/pipeline/test_retrain_promotion.py": 70,
    "tests/pipeline/test_smoke.py": 50,
    "tests/pipeline/test_site.py": 50,
    "tests/pipeline/test_image_builds.py": 40,
    "tests/unit/test_linear_gaussian_prior.py": 40,
    "tests/pipeline/test_texts_tiny.py": 32,
    "tests/test_types.py": 30,
    "tests/unit/test_image_first_stage.py": 25,
    "tests/unit/test_evaluate_likelihood.py": 20,
    "tests/pipeline/test_overrides.py": 20,
    "tests/unit/test_evaluate_images.py": 17,
    "tests/unit/test_baselines_use.py": 17,
    "tests/unit/test_evaluate_run.py": 15,
    "tests/unit/test_parallel.py": 14,
    "tests/pipeline/test_flow_dag.py": 12,
    "tests/pipeline/test_docs.py": 12,
    "tests/pipeline/test_image_stages.py": 12,
    "tests/unit/test_dialogue_models.py": 11,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take long first."""
    items.sort(key=lambda item: -LONG.get(item.nodeid.partition("::")[0], 0))
