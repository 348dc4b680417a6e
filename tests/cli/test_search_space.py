"""The ranges of settings that tuning tries, and the points in them."""

import pytest
import yaml

from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.search_space import points, search_space
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS


def test_more_trials_go_on_from_those_that_are_done():
    space = search_space("gsam")
    few, many = points(space, 5), points(space, 40)
    assert many[:5] == few
    for key, (least, greatest) in space.items():
        values = sorted(point[key] for point in many)
        assert least <= values[0] < least * (greatest / least) ** 0.1
        assert least * (greatest / least) ** 0.9 < values[-1] <= greatest


def test_all_methods_try_the_same_values_of_what_they_have_in_common():
    common = search_space("sgd")
    expected = points(common, 20)
    for method in METHODS:
        of_method = points(search_space(method), 20)
        shared = [key for key in common if key in search_space(method)]
        assert [{key: point[key] for key in shared} for point in of_method] == [
            {key: point[key] for key in shared} for point in expected
        ]
        assert "optimizer.base.lr" in shared


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("experiment", ["noisy40", "sam_example"])
def test_every_method_has_a_space_whose_ends_are_valid(experiment, method):
    space = search_space(method)
    common = search_space("sgd")
    decay = "optimizer.delta" if method == "bsam" else "optimizer.base.weight_decay"  # where that is its own
    assert common.items() - {("optimizer.base.weight_decay", common["optimizer.base.weight_decay"])} <= space.items()
    assert decay in space and len(space) <= len(common) + 2
    least, greatest = space[decay]
    assert greatest >= 100 * least
    assert ("optimizer.rho" in space) == METHODS[method].perturbs
    for end in (0, 1):
        compose([f"experiment={experiment}", f"optimizer={method}", *(f"{k}={v[end]}" for k, v in space.items())])


def test_every_space_belongs_to_a_method():
    assert set(yaml.safe_load((CONF / "tune.yaml").read_text())) == {*METHODS, "common"}


@pytest.mark.parametrize("ends", ["[1.0]", "[2.0, 1.0]", "[0, 1]", "0.1", "[a, b]"])
def test_bad_range_is_refused(tmp_path, ends):
    (tmp_path / "tune.yaml").write_text(f"sam: {{optimizer.rho: {ends}}}\n")
    with pytest.raises(ConfigError, match=r"optimizer.rho: .* of sam in .* is not a range"):
        search_space("sam", tmp_path)


def test_search_space_of_own_folder_replaces_ours(tmp_path):
    assert search_space("sam", tmp_path) == search_space("sam")
    (tmp_path / "tune.yaml").write_text("sam: {optimizer.rho: [1, 2], optimizer.base.lr: null}\n")
    usual = search_space("sam")["optimizer.base.weight_decay"]
    assert search_space("sam", tmp_path) == {"optimizer.base.weight_decay": usual, "optimizer.rho": (1, 2)}
    assert search_space("asam", tmp_path) == search_space("asam")
