"""Whatever a user types: an error that names the key and creates nothing, or a configuration that can be run."""

import contextlib
import math
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sam_bench.cli import compose, main
from sam_bench.cli.request import read_request
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError, UserError
from sam_bench.runs import run
from tests.conftest import everything_below, options

KEYS = sorted({*Config.all_keys(), *(key.rpartition(".")[2] for key in Config.all_keys())})
GROUPS = ["optimizer", "optimizer/base", "averaging", "model", "data", "schedule", "trainer", "analysis", "logger",
          "experiment", "sweep", "hydra/launcher", "hydra/sweeper", "tuned"]  # fmt: skip
CHOICES = {group: options(group) for group in GROUPS if group != "hydra/sweeper"}

NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["-0", "1e999", "-1e999", "nan", "inf", "0x10", "1_000", ".5", "5.", "1e-400", "٣", "½"]),
)
WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
STRANGE = st.sampled_from(
    ["null", "true", "[]", "[[]]", "{}", "''", "[1,]", "{a: 1}", "???", "${seed}", "${oc.env:HOME}", "${now:%Y}",
     "${hydra:job.name}", "../../etc/passwd", "/etc/passwd", "~root", "a/../b", "..", ".", "*", "glob(*)", "range(3)",
     "choice(1,2)", "!!python/object/apply:os.system [id]", "{_target_: os.system, command: id}", "\\x00", "a\\nb",
     "🦆", "ρ", "\u202eabc", "a" * 500, "$(id)", "`id`", "; id", "%s", "__class__"]
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS.map(str), WORDS, STRANGE, st.sampled_from([option for group in CHOICES.values() for option in group])
)


@st.composite
def overrides(draw) -> str:
    """One word of a command line."""
    prefix = draw(st.sampled_from(["", "", "", "+", "++", "~"]))
    kind = draw(st.integers(0, 5))
    if kind <= 2:
        key = draw(st.sampled_from(KEYS))
    elif kind == 3:
        key = draw(st.sampled_from(GROUPS))
        value = draw(st.one_of(st.sampled_from(CHOICES.get(key, ["basic"])), VALUES))
        return f"{prefix}{key}={value}"
    elif kind == 4:  # a letter too few, or doubled
        key = draw(st.sampled_from(KEYS))
        at = draw(st.integers(0, len(key) - 1))
        key = key[:at] + draw(st.sampled_from(["", 2 * key[at]])) + key[at + 1 :]
    else:
        key = draw(st.one_of(WORDS, st.sampled_from(["_target_", "trainer._target_", "hydra.launcher._target_",
                                                      "hydra.run.dir", "hydra.callbacks.x._target_", "optimizer.name",
                                                      "experiment", "paths", "hydra", "data.root@x"])))  # fmt: skip
    return f"{prefix}{key}={draw(VALUES)}" if prefix != "~" else f"~{key}"


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
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
def test_whatever_is_typed_is_refused_with_a_reason_or_can_be_run(somewhere, words, multirun):
    arguments = ["data=synthetic", *(["-m"] if multirun else []), *words]
    try:
        parsed = main.get_args_parser().parse_args(arguments)
    except SystemExit:  # argparse's own usage, for what begins with a dash
        return
    try:
        asked = read_request(parsed)
    except ConfigError as error:
        assert str(error).strip(), "no reason"
        assert "Traceback" not in str(error)
    else:
        for config in asked.configs[:3]:
            assert all(math.isfinite(v) for v in _numbers(config.identity())), config
            if config.data.name == "synthetic":  # the others would be fetched
                with contextlib.suppress(UserError):
                    run.check([config])
    assert everything_below(somewhere) == []


def _numbers(value):
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


NAMES = ["optimizer.rho", "trainer.epochs", "trainer.batch_size", "data.train_subset", "optimizer.base.lr", "seed",
         "trainer.max_minutes", "trainer.label_smoothing", "optimizer.clip_norm", "trainer.eval_every"]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(key=st.sampled_from(NAMES), value=st.one_of(NUMBERS, STRANGE))
@example(key="optimizer.rho", value="${hydra:job.name}")
@example(key="data.train_subset", value="${nope}")
@example(key="optimizer.base.lr", value="${oc.env:NOPE}")
def test_a_number_is_taken_or_its_key_is_named(key, value):
    try:
        config = compose.compose(["data=synthetic", f"{key}={value}"])
    except ConfigError as error:
        assert key.rpartition(".")[2] in str(error)
    else:
        for part in key.split("."):
            config = getattr(config, part)
        assert config is None or (math.isfinite(config) and config >= 0)


THROUGH = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.logging.os.mkdir"
"""A way through a plugin's module to anything at all."""


def test_a_program_that_is_only_named_is_not_called(somewhere, monkeypatch):
    called = []
    monkeypatch.setitem(sys.modules, "payload", type(sys)("payload"))
    sys.modules["payload"].run = lambda *of, **named: called.append(of)
    for word in ("+trainer._target_=payload.run", "hydra.launcher._target_=payload.run",
                 "hydra.sweeper._target_=payload.run", "+hydra.callbacks.a._target_=payload.run",
                 "+hydra.a.b.c._target_=payload.run", "+data.root={_target_: payload.run}",
                 f"hydra.launcher._target_={THROUGH}", f"+hydra.callbacks.a._target_={THROUGH}",
                 "hydra.launcher._target_=hydra_plugins.hydra_joblib_launcher.payload.run"):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["sam_bench", "-m", word, "seed=0,1"])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        assert stopped.value.code == main.EXIT_CONFIG
    assert called == []
    assert everything_below(somewhere) == []
