"""Commands run in this process, and the sizes of the tutorial folder that they get."""

from click.testing import CliRunner

from wxkernels.cli.commands import group

H, W, TIMES = 16, 32, 4


def run(*arguments):
    return CliRunner().invoke(group, [str(a) for a in arguments], prog_name="wxkernels")


def fine(*arguments):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done
