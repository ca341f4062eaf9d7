"""The word that is chosen quickly is the most probable one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldebm.backbones.writing import OutputLayer, argmax
from ldebm.seeding import generator

WORDS, SIZE, ROWS = 1000, 24, 300


def problem(scale: float) -> tuple[Tensor, Tensor]:
    stream = generator(0, "writing")
    weight = torch.randn(WORDS, SIZE, generator=stream)
    return weight, scale * torch.randn(ROWS, SIZE, generator=stream)


@pytest.mark.parametrize("columns", [5, 256, 257, 1000])
def test_the_largest_column_is_found_and_the_first_of_equals(columns: int) -> None:
    x = torch.randint(0, 30, (50, columns), generator=generator(0, "x")).float()
    assert torch.equal(argmax(x), x.argmax(-1))


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_screening_chooses_the_words_of_the_float32_product(scale: float) -> None:
    weight, h = problem(scale)
    plain, screened = (OutputLayer(weight, (0, 3), screen) for screen in (False, True))
    words = screened._screened(h)
    assert words is not None
    assert torch.equal(words, plain.logits(h).argmax(-1))
    assert torch.equal(words, plain.best(h))
    assert not bool(((words == 0) | (words == 3)).any())


def test_screening_is_right_where_bfloat16_alone_is_wrong() -> None:
    weight, h = problem(1.0)
    weight[500] = weight[400] * (1 + 1e-4)  # equal once rounded
    h[:] = weight[400] + 0.01 * h
    wanted = (h @ weight.t()).argmax(-1)
    assert bool((wanted == 500).all())
    assert not bool(((h.bfloat16() @ weight.bfloat16().t()).argmax(-1) == wanted).all())
    assert torch.equal(OutputLayer(weight, (), screen=True).best(h), wanted)


def test_too_many_likely_words_are_left_to_the_whole_product() -> None:
    weight, h = problem(1.0)
    weight[:] = weight[:1] + 1e-5 * weight
    output = OutputLayer(weight, (), screen=True)
    assert output._screened(h) is None
    assert torch.equal(output.best(h), (h @ weight.t()).argmax(-1))
