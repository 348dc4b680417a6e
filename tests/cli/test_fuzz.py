"""Tests of drawn command lines: an error names the key and creates nothing, or the config can be run."""

import contextlib
import functools
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sam_bench.cli import compose, main
from sam_bench.cli.request import read_request
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError, UserError
from sam_bench.runs import run
from tests.conftest import everything_below, options

#: All settings, with their groups and without.
KEYS = sorted({*Config.all_keys(), *(key.rpartition(".")[2] for key in Config.all_keys())})

#: Settings with a number for a value.
NUMBER_KEYS = ["optimizer.rho", "trainer.epochs", "trainer.batch_size", "data.train_subset", "optimizer.base.lr",
               "seed", "trainer.max_minutes", "trainer.label_smoothing", "optimizer.clip_norm",
               "trainer.eval_every"]  # fmt: skip

#: Keys that are no settings of ours, or that are not to be set.
OTHER_KEYS = ["_target_", "trainer._target_", "hydra.launcher._target_", "hydra.run.dir", "hydra.callbacks.x._target_",
              "optimizer.name", "experiment", "paths", "hydra", "data.root@x"]  # fmt: skip

GROUPS = ["optimizer", "optimizer/base", "averaging", "model", "data", "schedule", "trainer", "analysis", "logger",
          "experiment", "sweep", "hydra/launcher", "hydra/sweeper", "tuned"]  # fmt: skip
CHOICES = {group: options(group) for group in GROUPS if group != "hydra/sweeper"}

NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["-0", "1e999", "-1e999", "nan", "inf", "0x10", "1_000", ".5", "5.", "1e-400", "٣", "½"]),
)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)

#: Values with a meaning for Hydra, OmegaConf, YAML or a shell.
SPECIAL_VALUES = st.sampled_from(
    ["null", "true", "[]", "[[]]", "{}", "''", "[1,]", "{a: 1}", "???", "${seed}", "${oc.env:HOME}", "${now:%Y}",
     "${hydra:job.name}", "../../etc/passwd", "/etc/passwd", "~root", "a/../b", "..", ".", "*", "glob(*)", "range(3)",
     "choice(1,2)", "!!python/object/apply:os.system [id]", "{_target_: os.system, command: id}", "\\x00", "a\\nb",
     "🦆", "ρ", "\u202eabc", "a" * 500, "$(id)", "`id`", "; id", "%s", "__class__"]
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS.map(str), TEXTS, SPECIAL_VALUES, st.sampled_from([option for group in CHOICES.values() for option in group])
)


@st.composite
def overrides(draw) -> str:
    """Draw an override of a setting, of a group, of a misspelt setting, or of any other key."""
    prefix = draw(st.sampled_from(["", "", "", "+", "++", "~"]))
    kind = draw(st.sampled_from(["setting", "setting", "setting", "group", "misspelt", "other"]))
    if kind == "group":
        group = draw(st.sampled_from(GROUPS))
        value = draw(st.one_of(st.sampled_from(CHOICES.get(group, ["basic"])), VALUES))
        return f"{prefix}{group}={value}"

    key = draw(st.one_of(TEXTS, st.sampled_from(OTHER_KEYS)) if kind == "other" else st.sampled_from(KEYS))
    if kind == "misspelt":
        i = draw(st.integers(0, len(key) - 1))
        instead = draw(st.sampled_from(["", 2 * key[i]]))  # a letter is left out, or doubled
        key = key[:i] + instead + key[i + 1 :]
    return f"~{key}" if prefix == "~" else f"{prefix}{key}={draw(VALUES)}"


@pytest.fixture(scope="module")
def empty_folder(tmp_path_factory):
    """Change to an empty folder for all tests of this file, since Hypothesis allows no fixture for each example."""
    folder = tmp_path_factory.mktemp("fuzz")
    with contextlib.chdir(folder):
        yield folder


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(words=st.lists(overrides(), min_size=1, max_size=3), multirun=st.booleans())
@example(words=["experiment=../../somewhere"], multirun=False)
@example(words=["+="], multirun=False)
@example(words=["optimizer=../model/resnet8"], multirun=False)
@example(words=["hydra.launcher._target_=os.system"], multirun=True)
@example(words=["+trainer._target_=os.system"], multirun=False)
@example(words=["paths.runs=''"], multirun=False)
@example(words=["trainer.batch_size=1000000000000000000000000000000"], multirun=False)
@example(words=["averaging=swa", "averaging.starts=[]"], multirun=False)
@example(words=["seed=${oc.env:HOME}"], multirun=False)
@example(words=["hydra/sweeper=basic", "hydra.sweeper.params=5"], multirun=True)
def test_any_command_line_is_refused_or_valid(empty_folder, words, multirun):
    try:
        arguments = main.get_args_parser().parse_args(["data=synthetic", *(["-m"] if multirun else []), *words])
    except SystemExit:  # argparse refuses what begins with a dash
        return

    try:
        request = read_request(arguments)
    except ConfigError as error:
        assert str(error).strip(), "the message is empty"
        assert "Traceback" not in str(error)
    else:
        for config in request.configs[:3]:
            assert all(math.isfinite(number) for number in numbers_in(config.identity())), config
            if config.data.name == "synthetic":  # a check would download other data
                with contextlib.suppress(UserError):
                    run.check([config])
    assert everything_below(empty_folder) == []


def numbers_in(value) -> list[float]:
    """Return all numbers in a nested value."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_in(item)]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, (int, float)) else []


@settings(max_examples=50, deadline=None)
@given(key=st.sampled_from(NUMBER_KEYS), text=st.one_of(NUMBERS, SPECIAL_VALUES))
@example(key="optimizer.rho", text="${hydra:job.name}")
@example(key="data.train_subset", text="${nope}")
@example(key="optimizer.base.lr", text="${oc.env:NOPE}")
def test_number_is_accepted_or_its_key_named(key, text):
    try:
        config = compose.compose(["data=synthetic", f"{key}={text}"])
    except ConfigError as error:
        assert key.rpartition(".")[2] in str(error)
    else:
        value = functools.reduce(getattr, key.split("."), config)
        assert value is None or (math.isfinite(value) and value >= 0)
