"""The command line. Options are the fields of the configuration classes; unknown ones are refused.
`--version` says which Echelon this is.
"""

from __future__ import annotations

import signal
import sys

import tyro

from echelon import __version__
from echelon.cli.data import Collect, Inspect, Scales
from echelon.cli.plan import Evaluate, Plan, Report
from echelon.cli.train import Decoder, Demo, Train
from echelon.limits import in_one_line
from echelon.types import EchelonError


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 0, or 2 for a user's mistake, or 130 for Ctrl-C, or being asked to terminate."""
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        print(f"echelon {__version__}")
        return 0

    from echelon.bench import Bench

    commands = (Demo, Collect, Train, Evaluate, Plan, Decoder, Report, Scales, Inspect, Bench)
    subcommands = {command.__name__.lower(): command for command in commands}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            subcommands, args=arguments, prog="echelon", description=__doc__
        )
        with in_one_line():
            command()
    except EchelonError as error:
        print(f"echelon: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"echelon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nechelon: stopped; the same command goes on from what it kept", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
