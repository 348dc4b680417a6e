"""Tests of the search space: the ranges of settings that tuning tries, and the points in them."""

import pytest
import yaml

from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.search_space import points, search_space
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS


def test_more_points_begin_with_the_fewer_ones():
    space = search_space("gsam")
    assert points(space, 40)[:5] == points(space, 5)


def test_points_fill_their_ranges():
    space = search_space("gsam")
    many = points(space, 40)
    for key, (least, greatest) in space.items():
        values = sorted(point[key] for point in many)
        assert least <= values[0] < least * (greatest / least) ** 0.1
        assert least * (greatest / least) ** 0.9 < values[-1] <= greatest


@pytest.mark.parametrize("method", METHODS)
def test_methods_try_equal_values_of_common_settings(method):
    common = search_space("sgd")
    shared = [key for key in common if key in search_space(method)]
    assert "optimizer.base.lr" in shared

    of_method, of_sgd = points(search_space(method), 20), points(common, 20)
    for key in shared:
        assert [point[key] for point in of_method] == [point[key] for point in of_sgd]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("experiment", ["noisy40", "sam_example"])
def test_search_space_has_valid_ends(experiment, method):
    space = search_space(method)
    common = search_space("sgd")

    # Weight decay is an option of bSAM itself; the other methods leave it to the base optimizer.
    decay = "optimizer.delta" if method == "bsam" else "optimizer.base.weight_decay"
    assert common.items() - {("optimizer.base.weight_decay", common["optimizer.base.weight_decay"])} <= space.items()
    assert decay in space
    assert len(space) <= len(common) + 2

    least, greatest = space[decay]
    assert greatest >= 100 * least
    assert ("optimizer.rho" in space) == METHODS[method].perturbs

    for end in (0, 1):
        overrides = [f"{key}={ends[end]}" for key, ends in space.items()]
        compose([f"experiment={experiment}", f"optimizer={method}", *overrides])


def test_every_search_space_belongs_to_a_method():
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
