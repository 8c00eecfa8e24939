"""A user's mistake is one line and exit code 2."""

from __future__ import annotations

import pytest

from eval import cli


@pytest.mark.parametrize("name", ["foo", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_one_line(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: cli.device(name))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and f"--device {name!r} cannot be used" in error
    assert cli.device("cpu").type == "cpu"
