"""The place of a process among several, from what torchrun and schedulers leave in the environment."""

import pytest

from sam_bench.errors import ConfigError
from sam_bench.runtime import environment

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def variables(monkeypatch):
    def use(**values: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return use


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
def test_one_process_is_alone_whatever_else_is_set(variables, values):
    variables(**values)
    environment.check_processes()
    assert (environment.world_size(), environment.rank(), environment.local_rank()) == (1, 0, 0)
    assert environment.is_main_process()


WHOLE = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}


def test_torchruns_variables_give_the_place(variables):
    variables(**WHOLE)
    environment.check_processes()
    assert (environment.world_size(), environment.rank(), environment.local_rank()) == (4, 2, 1)
    assert not environment.is_main_process()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", ""), ("RANK", "4"), ("RANK", "two"), ("LOCAL_RANK", ""), ("WORLD_SIZE", "-2"), ("MASTER_ADDR", "")],
)
def test_incomplete_variables_are_refused_by_name(variables, name, value):
    variables(**WHOLE | {name: value})
    with pytest.raises(ConfigError, match=name):
        environment.check_processes()
