"""Tests of the short form of `make torture`."""

from scripts import torture


def test_killed_runs_end_as_if_left_alone(capsys):
    torture.main(["--kills", "9", "--seed", "1"])
    *rounds, last = capsys.readouterr().out.splitlines()
    assert last.startswith("9 kills in ")
    assert all("the same, bit for bit" in line for line in rounds)

    kills_while_writing = [int(line.partition(" kills, ")[2].split()[0]) for line in rounds]
    assert sum(kills_while_writing) >= 1
