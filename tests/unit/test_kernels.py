"""Compiled kernels give what plain PyTorch gives, in more exact arithmetic, or are not used."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldebm import kernels
from ldebm.assembly import build_backbone
from ldebm.config import ExperimentConfig, OptimiserConfig, parse
from ldebm.data.packed import Packed, open_packed
from ldebm.kernels import build as kernels_build
from ldebm.kernels import functions
from ldebm.kernels.build import build
from ldebm.nn.functional import linear_nll
from ldebm.nn.gru import FrozenGRU, PackedGRU
from ldebm.nn.gru_steps import Gates, run_gates
from ldebm.nn.lstm import run_lstm
from ldebm.optimisers import ParameterGroup, apply_gradients, make_optimiser
from ldebm.seeding import generator, numerics
from ldebm.sources import closure, native_sources
from ldebm.training.backbone_task import BackboneTask
from ldebm.training.trainer import train

compiled = pytest.mark.skipif(
    kernels.state().startswith("plain"), reason=f"kernels: {kernels.state()}"
)
SIZES = [70, 70, 41, 33, 32, 7, 1]  # rows of 1 to 7 tokens, in whole blocks and not
TOKENS, ROWS, HIDDEN = sum(SIZES), SIZES[0], 128


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(0, name, *shape))


def error(got: Tensor, exact: Tensor) -> float:
    return float((got - exact).norm() / exact.norm())


def gru_results(reverse: bool, indexed: bool, how: str) -> tuple[list[Tensor], list[Tensor]]:
    """Values and gradients of one direction: ``float32``, ``plain`` or ``compiled``."""
    exact = how == "float32"
    values = normal(50 if indexed else TOKENS, 3 * HIDDEN, name="values")
    index = torch.arange(TOKENS) % 50 if indexed else None
    inputs = [
        (values if exact else values.bfloat16()).requires_grad_(),
        normal(ROWS, 3 * HIDDEN, name="row").requires_grad_(),
        (0.1 * normal(3 * HIDDEN, HIDDEN, name="weight")).requires_grad_(),
        normal(HIDDEN, name="bias").requires_grad_(),
        normal(ROWS, HIDDEN, name="first").requires_grad_(),
    ]
    gates = Gates(inputs[0], index, inputs[1])
    with kernels.plain() if how == "plain" else nullcontext():
        out, last = run_gates(gates, *inputs[2:], SIZES, reverse=reverse, bfloat16=not exact)
    assert out is not None
    loss = (out * normal(TOKENS, HIDDEN, name="w")).sum()
    loss = loss + (last * normal(ROWS, HIDDEN, name="v")).sum()
    gradients = torch.autograd.grad(loss, inputs)
    return [out.detach(), last.detach()], [gradient.float() for gradient in gradients]


@compiled
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_gru_has_values_and_gradients_of_plain_pytorch(reverse: bool, indexed: bool) -> None:
    exact, plain, fast = (
        gru_results(reverse, indexed, how) for how in ("float32", "plain", "compiled")
    )
    for part, tolerance in ((0, 0.003), (1, 0.006)):
        for want, rounded, got in zip(exact[part], plain[part], fast[part], strict=True):
            assert error(got, want) < min(tolerance, 1.1 * error(rounded, want))


def lstm_results(reverse: bool, how: str) -> tuple[list[Tensor], list[Tensor]]:
    exact = how == "float32"
    values = normal(TOKENS, 4 * HIDDEN, name="values")
    inputs = [
        (values if exact else values.bfloat16()).requires_grad_(),
        (0.1 * normal(4 * HIDDEN, HIDDEN, name="weight")).requires_grad_(),
        normal(ROWS, HIDDEN, name="first").requires_grad_(),
        normal(ROWS, HIDDEN, name="cell").requires_grad_(),
    ]
    with kernels.plain() if how == "plain" else nullcontext():
        out, last = run_lstm(inputs[0], inputs[1], (inputs[2], inputs[3]), SIZES, reverse=reverse)
    loss = (out * normal(TOKENS, HIDDEN, name="w")).sum()
    for state, name in zip(last, ("v", "u"), strict=True):
        loss = loss + (state * normal(ROWS, HIDDEN, name=name)).sum()
    gradients = torch.autograd.grad(loss, inputs)
    return [out.detach(), *(x.detach() for x in last)], [g.float() for g in gradients]


@compiled
@pytest.mark.parametrize("reverse", [False, True])
def test_an_lstm_has_values_and_gradients_of_plain_pytorch(reverse: bool) -> None:
    exact, plain, fast = (lstm_results(reverse, how) for how in ("float32", "plain", "compiled"))
    for part, tolerance in ((0, 0.003), (1, 0.006)):
        for want, rounded, got in zip(exact[part], plain[part], fast[part], strict=True):
            assert error(got, want) < min(tolerance, 1.1 * error(rounded, want))


@compiled
@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_gru_without_gradients_has_the_same_values(reverse: bool, outputs: bool) -> None:
    values = normal(TOKENS, 3 * HIDDEN, name="values").bfloat16()
    weight = 0.1 * normal(3 * HIDDEN, HIDDEN, name="weight")
    results = []
    for wanted in (True, False):
        out, last = run_gates(
            Gates(values),
            weight.requires_grad_(wanted),
            normal(HIDDEN, name="bias"),
            normal(ROWS, HIDDEN, name="first"),
            SIZES,
            reverse=reverse,
            bfloat16=True,
            outputs=wanted or outputs,
        )
        results.append((out, last))
    assert torch.equal(results[0][1], results[1][1])
    if outputs:
        assert torch.equal(results[0][0], results[1][0])
    else:
        assert results[1][0] is None


@compiled
@pytest.mark.parametrize("reverse", [False, True])
def test_a_frozen_gru_repeats_rows_and_reads_tables_the_same_way(reverse: bool) -> None:
    layer = PackedGRU(64, HIDDEN, row_size=9)
    layer.reset_parameters(generator(0, "frozen"))
    words, index = normal(30, 64), torch.arange(TOKENS) % 30
    outputs = []
    for bfloat16 in (False, True):
        gru = FrozenGRU(layer, bfloat16)
        assert gru.compiled == bfloat16
        out = torch.empty(2 * TOKENS, HIDDEN)
        last = gru.run(
            gru.table(words),
            index,
            SIZES,
            rows=gru.rows(normal(2 * ROWS, 9)),
            initial_BH=normal(2 * ROWS, HIDDEN),
            repeat=2,
            reverse=reverse,
            outputs_NH=out,
        )
        outputs += [(out, last)]
    for want, got in zip(*outputs, strict=True):
        assert error(got, want) < 0.01


def nll_results(tokens: int, words: int, how: str) -> list[Tensor]:
    h = normal(tokens, 64, name="h").requires_grad_()
    weight = normal(words, 64, name="weight").requires_grad_()
    targets = torch.arange(tokens) * 7 % words
    with kernels.plain() if how == "plain" else nullcontext():
        nll = linear_nll(h, weight, targets, bfloat16=how != "float32")
        scale = normal(tokens, name="scale")  # another one for every token
        gradients = torch.autograd.grad((nll * scale).sum(), [h, weight])
        with torch.no_grad():
            alone = linear_nll(h, weight, targets, bfloat16=how != "float32")
    if how == "compiled":
        assert torch.equal(alone, nll.detach())
    return [nll.detach(), *gradients]


@compiled
@pytest.mark.parametrize("tokens", [1, 37, 128, 1023, 1100, 2048])
@pytest.mark.parametrize("words", [3, 64, 1024, 1501])
def test_nll_has_values_and_gradients_of_plain_pytorch(tokens: int, words: int) -> None:
    exact, plain, fast = (
        nll_results(tokens, words, how) for how in ("float32", "plain", "compiled")
    )
    assert float((fast[0] - exact[0]).abs().max()) < 0.15
    assert abs(float((fast[0] - exact[0]).mean())) < 0.03
    for want, rounded, got in zip(exact, plain, fast, strict=True):
        assert error(got, want) < 0.01
        assert tokens < 100 or error(got, want) < 1.3 * error(rounded, want)


@compiled
def test_values_of_a_size_that_no_kernel_takes_are_those_of_plain_pytorch() -> None:
    h, weight = normal(150, 24, name="h"), normal(301, 24, name="weight")
    targets = torch.arange(150) * 7 % 301
    exact = linear_nll(h, weight, targets)
    fast = linear_nll(h, weight, targets, bfloat16=True)
    with kernels.plain():
        plain = linear_nll(h, weight, targets, bfloat16=True)
    assert float((fast - exact).abs().max()) < 0.1
    assert error(fast, exact) < 1.3 * error(plain, exact)
    assert not torch.equal(fast, plain)


@compiled
def test_errors_too_many_to_keep_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    want = nll_results(1100, 300, "compiled")
    monkeypatch.setattr(functions, "KEPT_ERRORS", 300 * 512)
    for left, right in zip(want, nll_results(1100, 300, "compiled"), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@compiled
@pytest.mark.parametrize("size", [2.0**13, -(2.0**13), 2.0**20])
def test_extreme_logits_give_true_losses_and_finite_gradients(size: float) -> None:
    h, weight = torch.zeros(2, 64), torch.zeros(70, 64)
    h[:, 0], weight[5, 0] = 1.0, size
    h, weight = h.requires_grad_(), weight.requires_grad_()
    nll = linear_nll(h, weight, torch.tensor([5, 69]), bfloat16=True)
    want = torch.nn.functional.cross_entropy(
        h.detach().bfloat16().double() @ weight.detach().bfloat16().double().t(),
        torch.tensor([5, 69]),
        reduction="none",
    )
    torch.testing.assert_close(nll.detach().double(), want, rtol=5e-3, atol=1e-4)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(nll.sum(), [h, weight]))


@compiled
def test_what_is_not_finite_stays_so() -> None:
    h, weight = normal(3, 64), normal(70, 64)
    h[1, 3] = torch.nan
    nll = linear_nll(h, weight, torch.tensor([1, 2, 3]), bfloat16=True)
    assert nll.isnan().tolist() == [False, True, False]
    values = normal(2, 3 * 64, name="values").bfloat16()
    values[1, 5] = torch.nan
    _, last = run_gates(
        Gates(values), normal(192, 64), normal(64), normal(2, 64), [2], bfloat16=True
    )
    assert last.isnan().any(1).tolist() == [False, True]


@compiled
@pytest.mark.parametrize("clip", [None, 1e3, 0.5])
def test_a_step_of_adam_is_that_of_torch(clip: float | None) -> None:
    shapes = [(70000,), (3, 7), (1,), ()]
    config = OptimiserConfig(lr=0.01, weight_decay=0.1, clip=clip)
    weights = []
    for fast in (False, True):
        values = [nn.Parameter(normal(*shape, name="value")) for shape in shapes]
        group = ParameterGroup("all", values, config)
        optimiser = make_optimiser(group)
        for step in range(5):
            for value, shape in zip(values, shapes, strict=True):
                value.grad = normal(*shape, name=f"gradient {step}")
            apply_gradients(group, optimiser, compiled=fast)
        state = [optimiser.state[value] for value in values]
        weights.append([*values, *(part[name] for part in state for name in sorted(part))])
    for want, got in zip(*weights, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6)


@compiled
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    def all_results() -> list[Tensor]:
        results = [*gru_results(False, True, "compiled"), *gru_results(True, False, "compiled")]
        return [x for part in results for x in part] + nll_results(1100, 1501, "compiled")

    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(all_results())
    finally:
        torch.set_num_threads(before)
    # Gradients of weights by torch's own products may differ in the last bits with its threads.
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-2, atol=1e-2)
    for left, right in zip(results[0], all_results(), strict=True):
        assert torch.equal(left, right)


def test_float32_and_the_measuring_language_model_never_use_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a kernel was used")

    monkeypatch.setattr(functions, "run_gru", never)
    monkeypatch.setattr(functions, "run_lstm", never)
    monkeypatch.setattr(functions, "linear_nll", never)
    lstm_results(False, "float32")
    gru_results(False, True, "float32")
    nll_results(5, 70, "float32")
    from ldebm.nn.lm import train_language_model

    train_language_model([[4, 5, 6], [5, 4]], 10, "gru", epochs=1, hidden=64)


def packed_sentences(folder: Path) -> Packed:
    """Sentences of 3 to 9 tokens, of 40 words."""
    folder.mkdir()
    meta = {
        "kind": "sentences", "vocab_size": 40, "max_len": 12, "pad_id": 0, "unk_id": 1,
        "bos_id": 2, "eos_id": 3, "labels": {}, "splits": {},
    }  # fmt: skip
    for name, rows in (("train", 90), ("valid", 20), ("test", 20)):
        draws = np.random.default_rng(rows)
        texts = [
            [2, *draws.integers(4, 40, size=n).tolist(), 3] for n in draws.integers(1, 8, rows)
        ]
        np.save(folder / f"{name}.ids.npy", np.concatenate(texts).astype(np.uint16))
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *map(len, texts)]))
        np.save(folder / f"{name}.id.npy", np.arange(rows))
        meta["splits"][name] = rows
    (folder / "meta.json").write_text(json.dumps(meta))
    return open_packed(folder)


def trained(packed: Packed, checkpoint: Path | None, stops: tuple[int | None, ...]) -> Any:
    training = {"batch": 32, "updates": 12, "validate_every": None, "precision": "bfloat16"}
    backbone = {
        "arch": "gru", "latent": 4, "hidden": 64, "embed": 64, "dropout": 0.2,
        "training": training,
    }  # fmt: skip
    prior = {"classes": 3, "kind": "gaussian", "training": training}
    content = {"data": "sentences", "backbone": backbone, "prior": prior}
    config = parse(ExperimentConfig, content, "experiment")
    for stop in stops:
        model = build_backbone(config.backbone, packed.meta, generator(0, "backbone-init"))
        splits = packed.split("train"), packed.split("valid")
        task = BackboneTask(model, *splits, config, 0, torch.device("cpu"))
        try:
            return train(task, config.backbone.training, checkpoint, title="t", stop_after=stop)
        except SystemExit:
            continue
    raise AssertionError("the last of `stops` must be None")


def test_a_resumed_training_has_the_same_bytes_and_that_of_plain_pytorch_is_near(
    tmp_path: Path,
) -> None:
    packed = packed_sentences(tmp_path / "packed")
    whole = trained(packed, None, (None,))
    resumed = trained(packed, tmp_path / "c.pt", (5, None))
    with kernels.plain():
        plain = trained(packed, None, (None,))
    for name, value in whole.state.items():
        assert torch.equal(value, resumed.state[name]), name
    if kernels.state().startswith("compiled"):
        assert any(not torch.equal(value, plain.state[name]) for name, value in whole.state.items())
    assert whole.curve[-1]["loss"] == pytest.approx(plain.curve[-1]["loss"], rel=0.01)
    for name, value in whole.state.items():  # such a model is no other file
        other = plain.state[name]
        assert (value.shape, value.dtype) == (other.shape, other.dtype), name
        torch.testing.assert_close(value, other, rtol=0, atol=0.01)


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another environment, in which nothing is built; the library is looked for at every call."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(kernels, "_load", kernels._load.__wrapped__)
    return tmp_path / "prefix"


def works() -> bool:
    h = torch.ones(2, 64, requires_grad=True)
    nll = linear_nll(h, torch.ones(9, 64), torch.tensor([1, 2]), bfloat16=True)
    return bool(torch.autograd.grad(nll.sum(), h)[0].isfinite().all())


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, prefix: Path) -> None:
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert kernels.state() == "plain PyTorch (LDEBM_KERNELS=0)"
    assert not kernels.usable(torch.ones(2, 64))
    assert works()


def test_a_library_that_is_not_there_or_damaged_is_a_reason_not_an_error(
    monkeypatch: pytest.MonkeyPatch, prefix: Path
) -> None:
    monkeypatch.setattr(kernels, "unsupported", lambda: None)
    assert kernels.state() == "plain PyTorch (not built here: python -m ldebm.kernels.build)"
    assert works()
    kernels.library().parent.mkdir(parents=True)
    kernels.library().write_bytes(b"no library")
    assert kernels.state().startswith("plain PyTorch (the library cannot be loaded: ")
    assert works()


def test_a_processor_without_the_instructions_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, prefix: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert "this processor has no AVX-512 bfloat16" in kernels.state()
    assert "this processor has no AVX-512 bfloat16" in build()
    assert works()


def compiler(folder: Path, script: str) -> str:
    """A stand-in for the compiler."""
    file = folder / "c++"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "there is no C++ compiler (no-such-compiler)"),
        ("echo 'x.cpp:1: error: no  brgemm' >&2; exit 1", "failed: x.cpp:1: error: no brgemm"),
        ("exit 3", "failed: exit code 3"),
    ],
)
def test_a_failed_build_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: Path, script: str | None, reason: str
) -> None:
    command = "no-such-compiler" if script is None else compiler(tmp_path, script)
    monkeypatch.setattr(kernels_build, "unsupported", lambda: None)
    monkeypatch.setenv("CXX", command)
    said = build()
    assert said.startswith("none, ")
    assert said.endswith(f"{reason}: plain PyTorch is used")
    assert "\n" not in said
    assert not [path for path in prefix.rglob("*") if path.is_file()]


def test_two_builds_at_once_leave_one_whole_library(tmp_path: Path) -> None:
    script = (
        'for last; do :; done; out=; while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done'
    )
    command = compiler(tmp_path, f'{script}\nsleep 0.2; echo built > "$out"')
    code = (
        f"import sys; sys.prefix = {str(tmp_path / 'prefix')!r}\n"
        "import ldebm.kernels.build as b; b.unsupported = lambda: None; b.main()"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "CXX": command},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in running]
    assert all(line.startswith("kernels: compiled") for line in said)
    left = [path.name for path in (tmp_path / "prefix" / "lib" / "ldebm").iterdir()]
    assert len(left) == 1
    assert left[0].endswith(".so")


def test_records_and_code_lists_name_them() -> None:
    assert numerics(torch.device("cpu"))["kernels"] == kernels.state()
    root = Path(kernels.__file__).parents[2]
    sources = {path.relative_to(root).as_posix() for path in kernels.SOURCES}
    assert sources
    assert sources <= set(closure("stages.backbone", root))
    assert not sources & set(closure("stages.fetch", root))
    assert native_sources(root / "ldebm" / "files.py") == []
