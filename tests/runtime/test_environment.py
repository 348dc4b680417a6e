"""Tests of reading a process's rank from the environment variables of torchrun and schedulers."""

import pytest

from sam_bench.errors import ConfigError
from sam_bench.runtime import environment

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def set_variables(monkeypatch):
    """Return a function that sets these variables and removes the others of torchrun."""

    def set_only(**values: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_only


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"RANK": "1"},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
        {"LOCAL_RANK": "3"},
        {"RANK": "", "WORLD_SIZE": " ", "LOCAL_RANK": ""},
    ],
)
def test_single_process_ignores_other_variables(set_variables, values):
    set_variables(**values)
    environment.check_processes()
    assert (environment.world_size(), environment.rank(), environment.local_rank()) == (1, 0, 0)
    assert environment.is_main_process()


#: The variables of the third of four processes, the second on its machine.
WHOLE = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}


def test_torchrun_variables_give_rank(set_variables):
    set_variables(**WHOLE)
    environment.check_processes()
    assert (environment.world_size(), environment.rank(), environment.local_rank()) == (4, 2, 1)
    assert not environment.is_main_process()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", ""), ("RANK", "4"), ("RANK", "two"), ("LOCAL_RANK", ""), ("WORLD_SIZE", "-2"), ("MASTER_ADDR", "")],
)
def test_incomplete_variables_are_refused_by_name(set_variables, name, value):
    set_variables(**WHOLE | {name: value})
    with pytest.raises(ConfigError, match=name):
        environment.check_processes()
