import pytest

from rlv2v_fast import cli
from rlv2v_fast.errors import InputError
from rlv2v_fast.flags import check_flags, flags_of
from rlv2v_fast.train.config import TrainConfig, _flat, to_dict


def test_every_setting_of_a_run_is_a_flag():
    settings = {f"--{name.replace('_', '-')}" for name in _flat(to_dict(TrainConfig()))}
    flags = flags_of(cli.Train)
    assert settings < flags
    assert {"--network.no-sync-norm", "--no-flip", "--config", "--resume"} <= flags
    assert "--input" not in flags_of(cli.Translate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "m", "a", "b"], "translate has no flag --modle; did you mean --model?"),
        (["a", "b", "--frobnicate"], "translate has no flag --frobnicate; rlv2v translate --help lists them"),
        (["--chunck=3", "a"], "translate has no flag --chunck; did you mean --chunk?"),
        (["-m", "x"], "translate has no flag -m; rlv2v translate --help lists them"),
    ],
)
def test_a_flag_that_does_not_exist_is_named(arguments, message):
    with pytest.raises(InputError) as caught:
        check_flags("translate", cli.Translate, arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments", [["--max_height", "3"], ["--max-height=3"], ["-", "-"], ["--", "--odd"], ["--help"], ["-1"], ["a-b"]]
)
def test_what_is_no_unknown_flag_passes(arguments):
    check_flags("translate", cli.Translate, arguments)
