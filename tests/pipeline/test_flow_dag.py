"""The DAG is DVC's own: order, needs, and what is out of date."""

import json

import pytest

from ldebm.errors import UsageError
from pipelines.dag import Dag, Stage, fingerprints, read_dag, work_key
from pipelines.estimate import OVERHEAD, Past, estimate
from pipelines.lockfile import lock_blocks, merge_lock, read_outs, whole
from pipelines.sweep import grid
from tests.pipeline.tiny_project import Tiny, names

pytestmark = [pytest.mark.pipeline, pytest.mark.usefixtures("warm")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Tiny:
    project = Tiny(tmp_path_factory.mktemp("dag"))
    project.dvc("repro", "-q")
    project.commit()
    return project


@pytest.fixture
def edited(tiny):
    """Undoes what a test does to the project's files."""
    yield tiny
    tiny.call("git", "checkout", "-q", ".")


def test_the_order_is_that_of_dvc_repro(tiny):
    lines = tiny.dvc("repro", "--dry", "--force").splitlines()
    order = [line.split("'")[1] for line in lines if line.startswith("Running stage")]
    assert list(read_dag(tiny.root).stages) == order == names()


def test_nothing_is_stale_after_a_build(tiny):
    assert read_dag(tiny.root).stale() == []


def test_a_parameter_makes_its_stage_and_all_below_stale_and_says_why(edited):
    edited.edit("c: 3", "c: 30")
    dag = read_dag(edited.root)
    assert dag.stale() == ["part@c", "end"]
    assert dag.stages["part@c"].changes == ("parts.c: modified",)


def test_an_edited_output_and_edited_code_are_noticed(edited):
    (edited.root / "out/end").unlink()
    (edited.root / "out/end").write_text("edited")
    assert read_dag(edited.root).stale() == ["end"]
    edited.edit("note(", "note (", "work.py")
    assert read_dag(edited.root).stale() == names()
    edited.call("git", "checkout", "-q", ".")
    edited.dvc("checkout", "-f", "-q")


def test_a_target_brings_what_it_needs_and_nothing_else(tiny):
    assert list(read_dag(tiny.root, ["part@b"]).stages) == ["base", "part@b"]
    assert list(read_dag(tiny.root, ["out/part/b"]).stages) == ["base", "part@b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("run: [\n", "params.yaml"), ("", "run.parts")],
)
def test_wrong_parameters_are_one_line_in_the_words_of_dvc(edited, text, words):
    (edited.root / "params.yaml").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_dag(edited.root)
    assert "\n" not in str(caught.value)


def checked(**changes: str) -> Dag:
    """The head of this project's DAG: the stage that checks, one that it lists, one below."""
    deps = {"code": ("ldebm", "params.yaml"), "fetch": ("code.json",), "prepare": ("raw",)}
    outs = {"code": ("code.json",), "fetch": ("raw",), "prepare": ("prepared",)}
    parents = {"fetch": ("code",), "prepare": ("fetch", "code")}
    return Dag(
        {
            name: Stage(
                name, "x", deps[name], {}, outs[name], parents.get(name, ()),
                changes=(changes[name],) if name in changes else (),
            )
            for name in deps
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({}, []),
        ({"code": "params.yaml: modified"}, ["code"]),
        ({"code": "ldebm: modified"}, ["code", "fetch", "prepare"]),
        ({"code": "params.yaml: modified", "prepare": "data.x: modified"}, ["code", "prepare"]),
    ],
)
def test_a_stage_that_checks_all_parameters_makes_nothing_below_it_stale(changes, stale):
    assert checked(**changes).stale() == stale


def test_a_parameter_that_is_only_checked_leaves_the_fingerprints_below(tmp_path):
    (tmp_path / "ldebm").write_text("code")
    marks = []
    for text in ("a: 1", "a: 2"):
        (tmp_path / "params.yaml").write_text(text)
        marks.append(fingerprints(checked(), tmp_path))
    assert [name for name in marks[0] if marks[0][name] != marks[1][name]] == ["code"]
    (tmp_path / "ldebm").write_text("other code")
    last = fingerprints(checked(), tmp_path)
    assert [name for name in last if last[name] == marks[1][name]] == []


def test_an_unknown_target_and_a_folder_without_a_project_are_one_line(tiny, tmp_path):
    with pytest.raises(UsageError, match="'nope' not found"):
        read_dag(tiny.root, ["nope"])
    with pytest.raises(UsageError, match=r"no dvc\.yaml here"):
        read_dag(tmp_path)


def test_fingerprints_differ_exactly_from_the_changed_parameter_downwards(edited):
    before = fingerprints(read_dag(edited.root), edited.root)
    edited.edit("c: 3", "c: 30")
    after = fingerprints(read_dag(edited.root), edited.root)
    assert [name for name in before if before[name] != after[name]] == ["part@c", "end"]


def test_the_key_of_work_follows_the_content_of_its_inputs(tiny):
    dag, lock = read_dag(tiny.root), lock_blocks(tiny.lock())
    key = work_key(dag.stages["end"], tiny.root, lock)
    md5 = read_outs(lock["part@a"])["out/part/a"]
    other = {**lock, "part@a": lock["part@a"].replace(md5, "0" * 32)}
    assert work_key(dag.stages["end"], tiny.root, lock) == key
    assert work_key(dag.stages["end"], tiny.root, other) != key


def backbone(experiment: str, seed: int, **params: float) -> Stage:
    """A training of a first stage as dvc.yaml has it."""
    return Stage(
        f"backbone@{experiment}-{seed}",
        f"python -m stages.backbone --experiment {experiment} --seed {seed}",
        (f"data/bound/{experiment}.json",),
        {f"experiments.{experiment}.backbone": params},
        (f"models/{experiment}/{seed}/backbone",),
        (),
    )


def test_the_same_training_of_two_experiments_is_one_work(tmp_path):
    bound = tmp_path / "data/bound"
    bound.mkdir(parents=True)
    for name, data in (("ldebm", "a"), ("svebm", "a"), ("else", "b")):
        (bound / f"{name}.json").write_text(json.dumps({"data": data, "experiment": name}))
    key = work_key(backbone("ldebm", 0, lr=1.0), tmp_path, {})
    assert work_key(backbone("svebm", 0, lr=1.0), tmp_path, {}) == key
    others = [("svebm", 1, 1.0), ("svebm", 0, 2.0), ("else", 0, 1.0)]
    keys = {work_key(backbone(name, seed, lr=lr), tmp_path, {}) for name, seed, lr in others}
    assert len(keys) == 3
    assert key not in keys


def test_entries_of_dvc_lock_survive_a_round_trip_byte_by_byte(tiny):
    text = tiny.lock()
    blocks = lock_blocks(text)
    assert set(blocks) == set(names())
    assert merge_lock("", blocks, names()) == text
    assert merge_lock(text, {}, names()) == text


def test_new_entries_come_in_dvcs_order_and_old_ones_keep_their_place(tiny):
    blocks = lock_blocks(tiny.lock())
    start = merge_lock("", {"end": blocks["end"]}, names())
    backwards = dict(reversed(blocks.items()))
    assert list(lock_blocks(merge_lock(start, backwards, names()))) == ["end", *names()[:-1]]


def test_an_entry_that_was_cut_short_is_not_whole(tiny):
    block = lock_blocks(tiny.lock())["part@a"]
    outs = ["out/part/a", "metrics/a.json"]
    assert whole(block, outs)
    lines = block.splitlines(keepends=True)
    for length in range(len(lines) - 1):
        cut = "".join(lines[:length])
        assert not whole(cut, outs) or "size" not in lines[length]


def test_what_stands_behind_the_stages_in_dvc_lock_is_kept(tiny):
    text = tiny.lock() + "datasets:\n- name: x\n"
    assert merge_lock(text, {}, names()) == text


def test_an_estimate_counts_the_chain_the_slots_and_what_is_unknown(tiny):
    dag = read_dag(tiny.root)
    seconds = {"base": 10.0, "end": 16.0} | {f"part@{x}": 30.0 for x in "abcdef"}
    past = [
        Past(name.partition("@")[0], name.partition("@")[2], None, {}, value, here=True)
        for name, value in seconds.items()
        if name != "end"
    ]
    result = estimate(dag, names(), past, slots=2)
    assert result.unknown == ("end",)
    assert result.total == pytest.approx(10 + 6 * 30 + 8 * OVERHEAD)
    assert result.elapsed == pytest.approx(result.total / 2)
    assert estimate(dag, names(), past, slots=100).elapsed == pytest.approx(10 + 30 + 3 * OVERHEAD)
    assert "; not known for 1: end" in result.line()
    assert "more than 1.7 min" in result.line()


def test_a_grid_has_every_combination_and_keeps_lists_whole(tiny):
    points = grid(tiny.root, ["parts.a=1,2", "run.parts=[a,b],[c]"])
    assert points == [
        ("parts.a=1", "run.parts=[a,b]"),
        ("parts.a=1", "run.parts=[c]"),
        ("parts.a=2", "run.parts=[a,b]"),
        ("parts.a=2", "run.parts=[c]"),
    ]
    with pytest.raises(UsageError, match=r"expected dotted\.key=a,b,c"):
        grid(tiny.root, ["parts.a"])


def test_dvc_looks_the_same_keys_up_once_for_all_stages(monkeypatch: pytest.MonkeyPatch):
    from dvc.dependency import param

    from pipelines.describe import _read_once

    reads: list[str] = []

    def load(path: str, fs: object) -> dict[str, object]:
        reads.append(path)
        return {"a": {"b": 1}, "c": 2}

    monkeypatch.setattr(param, "load_path", load)
    monkeypatch.setattr(param, "read_param_file", param.read_param_file)  # put back afterwards
    plain = param.read_param_file(None, "params.yaml", ["a.b"], flatten=True)
    _read_once()
    for _ in range(3):
        values = param.read_param_file(None, "params.yaml", ["a.b"], flatten=True)
        assert values == plain == {"a.b": 1}
        values.clear()  # is the caller's own
    assert param.read_param_file(None, "params.yaml", ["c"], flatten=True) == {"c": 2}
    assert param.read_param_file(None, "params.yaml") == {"a": {"b": 1}, "c": 2}
    assert len(reads) == 2
