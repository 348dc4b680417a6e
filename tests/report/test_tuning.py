"""Tests of the results of tuning: the best trial, the best of fewer trials, and values at the ends of ranges."""

import itertools

import pytest

from sam_bench.report.tuning import NOISY, Trial, at_ends, best, expected_best, trials_as_frame, tuning_report

#: The least and greatest value of each tuned setting.
SPACE = {"optimizer.base.lr": (0.01, 1.0), "optimizer.rho": (0.1, 10.0)}


def trial(error: float, rho: float = 1.0, method: str = "sam", status: str = "finished") -> Trial:
    """Return a trial with this held-out error."""
    record = {
        "run_id": f"{method}-{error}-{rho}",
        "status": status,
        "test_error": error,
        "best_test_error": error - 1,
        "test_loss": None if status == "diverged" else 1.5,
        "test_ece": 12.0,
        "wrong_test_labels": 7,
        "train_loss": 1.0,
        "train_seconds": 60.0,
        "passes": 100,
        "history": {"train_error": [50.0, 40.0]},
    }
    settings = {"optimizer.base.lr": 0.1} | ({"optimizer.rho": rho} if method == "sam" else {})
    return Trial(method, settings, record)


def test_best_has_least_error_then_smallest_radius():
    trials = [trial(50.0), trial(40.0, rho=2.0), trial(40.0, rho=0.5), trial(40.0, rho=1.0)]
    assert best(trials) is trials[2]


def test_best_is_no_diverged_trial():
    assert best([trial(10.0, status="diverged"), trial(50.0)]).error == 50.0
    assert best([trial(10.0, status="diverged")]) is None


@pytest.mark.parametrize("k", range(1, 6))
def test_expected_best_is_mean_over_all_subsets(k):
    errors = [50.0, 41.0, 47.5, 60.0, 44.0]
    least = [min(subset) for subset in itertools.combinations(errors, k)]
    assert expected_best(errors, k) == pytest.approx(sum(least) / len(least))


@pytest.mark.parametrize("k", [0, 3])
def test_expected_best_refuses_k_out_of_range(k):
    with pytest.raises(ValueError, match="from 1 to the 2"):
        expected_best([1.0, 2.0], k)


@pytest.mark.parametrize(
    ("lr", "rho", "keys"),
    [
        (0.1, 1.0, []),
        (0.0101, 1.0, ["optimizer.base.lr"]),
        (0.1, 9.9, ["optimizer.rho"]),
        (0.1, 0.0, ["optimizer.rho"]),
        (2.0, 0.05, ["optimizer.base.lr", "optimizer.rho"]),  # a preset's own values may lie outside
    ],
)
def test_at_ends_names_settings_at_range_ends(lr, rho, keys):
    assert at_ends({"optimizer.base.lr": lr, "optimizer.rho": rho}, SPACE) == keys


def test_report_has_trials_and_best_of_fewer():
    trials = {
        "sam": [trial(50.0), trial(40.0, rho=0.5), trial(35.0, rho=8.0, status="diverged")],
        "sgd": [trial(60.0, method="sgd"), trial(55.0, method="sgd"), trial(58.0, method="sgd")],
    }
    report = tuning_report("noisy40", trials, ["SAM: something."])

    lines = [" ".join(line.replace("|", " ").split()) for line in report.splitlines()]
    assert lines[0] == "# noisy40: tuning"
    assert "SAM: something." in lines
    assert "SGD 60.00 55.00 optimizer.base.lr=0.1 57.67 56.00 55.00" in lines
    assert "SAM 50.00 40.00 optimizer.base.lr=0.1 optimizer.rho=0.5 63.33 43.33 40.00" in lines
    assert "2 0.1 0.5 40.00 39.00 1.500 12.00 40.00 60 best" in lines
    assert "3 0.1 8 35.00 34.00 – 12.00 40.00 60 diverged" in lines

    assert NOISY in report
    assert report.index("## SGD") < report.index("## SAM")


def test_trials_as_frame_has_a_line_per_trial():
    assert len(trials_as_frame({"sam": [trial(50.0), trial(40.0)], "sgd": [trial(60.0, method="sgd")]})) == 3
