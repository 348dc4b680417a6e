"""The short form of `make torture`."""

from scripts import torture


def test_runs_that_are_killed_at_random_moments_end_as_if_left_alone(capsys):
    torture.main(["--kills", "9", "--seed", "1"])
    *rounds, last = capsys.readouterr().out.splitlines()
    assert last.startswith("9 kills in ")
    assert all("the same, bit for bit" in line for line in rounds)
    assert sum(int(line.partition(" kills, ")[2].split()[0]) for line in rounds) >= 1  # within saving
