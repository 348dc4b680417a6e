"""Tests of composition: every file gives a valid config, and the command line wins over files."""

import pytest

from sam_bench.cli import compose, conf_folder, main
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.cli.request import read_request
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS
from tests.cli.conftest import run_python
from tests.conftest import CONF, options

GROUPS = ["optimizer", "optimizer/base", "averaging", "model", "data", "schedule", "trainer", "analysis", "logger",
          "experiment"]  # fmt: skip

#: Groups with options that have the name of what they choose.
NAMED_GROUPS = ("optimizer", "averaging", "model", "schedule", "data")

#: Presets that average weights by Lookahead.
LOOKAHEAD = ("airbench94", "airbench96")

# Files


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_option_gives_valid_config(group, option):
    config = compose.compose([f"{group}={option}"])
    assert isinstance(config, Config)
    if group in NAMED_GROUPS:
        assert getattr(config, group).name == option
    if group == "experiment":
        assert config.experiment == option


@pytest.mark.parametrize(
    ("experiment", "optimizer"),
    [
        *((experiment, optimizer) for experiment in options("experiment") for optimizer in ("sgd", "sam", "gsam")),
        *((experiment, "wasam") for experiment in LOOKAHEAD),
        *(("noisy40", optimizer) for optimizer in options("optimizer") if optimizer not in ("sgd", "sam", "gsam")),
    ],
)
def test_preset_takes_optimizer(experiment, optimizer):
    # WASAM averages weights itself, so it replaces the average of these presets.
    own_average = ["averaging=swa"] if (experiment in LOOKAHEAD and optimizer == "wasam") else []
    config = compose.compose([f"experiment={experiment}", f"optimizer={optimizer}", *own_average])
    assert config.optimizer.name == optimizer


@pytest.mark.parametrize("experiment", LOOKAHEAD)
def test_wasam_with_average_of_preset_is_refused(experiment):
    with pytest.raises(ConfigError, match="averaging=swa"):
        compose.compose([f"experiment={experiment}", "optimizer=wasam"])


@pytest.mark.parametrize("sweep", options("sweep"))
def test_sweep_file_is_grid_on_held_out_images(sweep):
    arguments = main.get_args_parser().parse_args([f"sweep={sweep}", "experiment=quick"])
    configs = read_request(arguments).configs
    assert len({config.optimizer.rho for config in configs}) == len(configs) > 3
    assert {config.data.split for config in configs} == {"val"}


def test_every_method_has_a_file():
    assert set(options("optimizer")) == set(METHODS)


def test_tuned_values_belong_to_preset_and_method():
    pairs = {f"{experiment}_{method}" for experiment in options("experiment") for method in options("optimizer")}
    assert set(options("tuned")) <= pairs


def test_conf_folder_is_of_checkout():
    assert conf_folder.CONF == CONF
    assert conf_folder.CONF.is_absolute()


@pytest.mark.parametrize("experiment", options("experiment"))
def test_describe_preset_returns_plain_sentences(experiment):
    text = describe_preset(experiment)
    assert text.endswith(".")
    assert "@package" not in text
    assert "#" not in text


def test_describe_preset_of_user_is_empty():
    assert describe_preset("my_study") == ""


# Values


def test_command_line_wins_over_preset():
    overrides = ["experiment=quick", "optimizer=asam", "optimizer.rho=0.7", "trainer.epochs=9", "model=resnet20"]
    config = compose.compose(overrides)
    assert (config.optimizer.rho, config.trainer.epochs, config.model.name) == (0.7, 9, "resnet20")


def test_compose_seeds_equals_compose():
    overrides = ["data=synthetic", "data.train_subset=100", "data.subset_seed=${seed}"]
    configs = compose.compose_seeds(overrides, (0, 3))
    assert configs == {seed: compose.compose([*overrides, f"seed={seed}"]) for seed in (0, 3)}
    assert [config.data.subset_seed for config in configs.values()] == [0, 3]


def test_gsam_rho_min_follows_rho():
    config = compose.compose(["optimizer=gsam", "optimizer.rho=0.3"])
    assert config.optimizer.rho_min == 0.3


def test_compose_does_not_import_torch(tmp_path):
    program = """
import sys
from sam_bench.cli.compose import compose
for name in ("sgd", "gsam", "msam", "ae_sam", "esam"):
    compose([f"optimizer={name}"])
sys.exit("torch" in sys.modules)
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
