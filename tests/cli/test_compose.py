"""Composition: every file gives a valid configuration, and a value on the command line wins over a file's."""

import subprocess
import sys

import pytest

from sam_bench.cli import compose, conf_folder, main
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.cli.request import read_request
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS
from tests.conftest import CONF, ROOT, options

GROUPS = ["optimizer", "optimizer/base", "averaging", "model", "data", "schedule", "trainer", "analysis", "logger",
          "experiment"]  # fmt: skip
CHOICES = [(group, option) for group in GROUPS for option in options(group)]


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_file_composes_to_a_valid_config(group, option):
    config = compose.compose([f"{group}={option}"])
    assert isinstance(config, Config)
    if group in ("optimizer", "averaging", "model", "schedule", "data"):
        assert getattr(config, group).name == option
    if group == "experiment":
        assert config.experiment == option


LOOKAHEAD = ("airbench94", "airbench96")


@pytest.mark.parametrize(
    ("experiment", "optimizer"),
    [
        *((experiment, optimizer) for experiment in options("experiment") for optimizer in ("sgd", "sam", "gsam")),
        *((experiment, "wasam") for experiment in LOOKAHEAD),
        *(("noisy40", optimizer) for optimizer in options("optimizer") if optimizer not in ("sgd", "sam", "gsam")),
    ],
)
def test_experiment_takes_optimizer(experiment, optimizer):
    # WASAM is an average, and takes the place of the one that these presets choose.
    own_average = ["averaging=swa"] if (experiment in LOOKAHEAD and optimizer == "wasam") else []
    words = [f"experiment={experiment}", f"optimizer={optimizer}", *own_average]
    assert compose.compose(words).optimizer.name == optimizer


@pytest.mark.parametrize("experiment", LOOKAHEAD)
def test_wasam_asks_for_its_average(experiment):
    with pytest.raises(ConfigError, match="averaging=swa"):
        compose.compose([f"experiment={experiment}", "optimizer=wasam"])


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_preset_says_what_it_is(experiment):
    text = describe_preset(experiment)
    assert text.endswith(".") and "@package" not in text and "#" not in text


def test_of_a_users_own_preset_nothing_is_said():
    assert describe_preset("my_study") == ""


def test_every_registered_name_has_a_file():
    assert set(options("optimizer")) == set(METHODS)


def test_values_tuned_for_a_preset_belong_to_what_exists():
    pairs = {f"{e}_{o}" for e in options("experiment") for o in options("optimizer")}
    assert set(options("tuned")) <= pairs


def test_a_value_on_the_command_line_wins_over_the_preset():
    config = compose.compose(
        ["experiment=quick", "optimizer=asam", "optimizer.rho=0.7", "trainer.epochs=9", "model=resnet20"]
    )
    assert (config.optimizer.rho, config.trainer.epochs, config.model.name) == (0.7, 9, "resnet20")


def test_compose_seeds_gives_the_config_of_each_seed():
    overrides = ["data=synthetic", "data.train_subset=100", "data.subset_seed=${seed}"]
    found = compose.compose_seeds(overrides, (0, 3))
    assert found == {seed: compose.compose([*overrides, f"seed={seed}"]) for seed in (0, 3)}
    assert [config.data.subset_seed for config in found.values()] == [0, 3]


def test_gsams_least_radius_follows_its_radius():
    config = compose.compose(["optimizer=gsam", "optimizer.rho=0.3"])
    assert config.optimizer.rho_min == 0.3


@pytest.mark.parametrize("sweep", options("sweep"))
def test_a_sweep_file_runs_a_grid_on_the_tune_split(sweep):
    arguments = main.get_args_parser().parse_args([f"sweep={sweep}", "experiment=quick"])
    configs = read_request(arguments).configs
    assert len({config.optimizer.rho for config in configs}) == len(configs) > 3
    assert {config.data.split for config in configs} == {"val"}


def test_compose_does_not_import_torch():
    program = (
        "import sys; from sam_bench.cli.compose import compose; names = ['sgd', 'gsam', 'msam', 'ae_sam', 'esam']; "
    )
    program += "[compose([f'optimizer={name}']) for name in names]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_the_checkouts_own_files_are_used():
    assert conf_folder.CONF == CONF
    assert conf_folder.CONF.is_absolute()


def test_a_bad_config_is_an_error_for_python_too():
    with pytest.raises(ConfigError, match="did you mean rho"):
        compose.compose(["optimizer.rh=1"])
