"""Names of devices."""

from __future__ import annotations

import pytest

from ldebm.devices import choose_device
from ldebm.errors import UsageError


@pytest.mark.parametrize("name", ["tpu", "cuda:1", ""])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UsageError, match="expected 'auto', 'cpu' or 'cuda'"):
        choose_device(name)


def test_the_cpu_is_taken_where_it_is_asked_for():
    assert choose_device("cpu").type == "cpu"
