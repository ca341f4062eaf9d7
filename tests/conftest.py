"""What holds for all tests."""

import os
import signal
from collections.abc import Iterator

import pytest

# Tests run in several processes and compute little at a time: threads would only wait for each
# other, busily. To be set before the first import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that
# interrupt a command would wait for ever. The same goes for nohup and a terminal that is closed.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The files that take longest, longest first (seconds of one core, some of them spent waiting).
# pytest-xdist hands out whole files, in the order of collection where the Makefile says so: a long
# one that comes last would leave the other cores idle.
LONG = {
    "tests/pipeline/test_deployments.py": 130,
    "tests/pipeline/test_flow_build.py": 80,
    "tests/pipeline/test_flow_smoke.py": 75,
    "tests/pipeline/test_retrain_flow.py": 70,
    "tests/pipeline/test_interrupts.py": 60,
    "tests/pipeline/test_new_user.py": 55,
    "tests/pipeline/test_flow_commands.py": 50,
    "tests/pipeline/test_audit.py": 50,
    "tests/pipeline/test_resume.py": 45,
    "tests/pipeline/test_site.py": 40,
    "tests/pipeline/test_smoke.py": 38,
    "tests/unit/test_linear_gaussian_prior.py": 36,
    "tests/pipeline/test_texts_tiny.py": 30,
    "tests/pipeline/test_parameters.py": 30,
    "tests/test_types.py": 25,
    "tests/unit/test_image_first_stage.py": 22,
    "tests/unit/test_evaluate_images.py": 18,
    "tests/unit/test_dialogue_models.py": 18,
    "tests/unit/test_parallel.py": 17,
    "tests/pipeline/test_image_builds.py": 17,
    "tests/unit/test_evaluate_likelihood.py": 16,
    "tests/unit/test_baselines_use.py": 16,
    "tests/pipeline/test_restored.py": 15,
    "tests/pipeline/test_retrain_promotion.py": 15,
    "tests/pipeline/test_image_stages.py": 15,
    "tests/unit/test_evaluate_run.py": 15,
    "tests/unit/test_context_priors.py": 15,
    "tests/unit/test_evaluate_responses_in_words.py": 13,
    "tests/unit/test_image_second_stage.py": 11,
    "tests/pipeline/test_retrain_changes.py": 10,
    "tests/pipeline/test_flow_dag.py": 9,
    "tests/pipeline/test_docs.py": 9,
}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands keep of models is not kept in the home of who runs the tests."""
    os.environ["LDEBM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A flow that ran in the process of the tests leaves no handler of its own behind."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take long first."""
    items.sort(key=lambda item: -LONG.get(item.nodeid.partition("::")[0], 0))
