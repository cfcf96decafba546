"""The rlv2v command, as a script and as python -m rlv2v_fast."""

import sys


def main() -> None:
    """Settle what the process waits and allocates by, then run the command: its import is that of torch."""
    from rlv2v_fast.machine import settle

    settle(trains=sys.argv[1:2] in (["train"], ["demo"]))
    import rlv2v_fast.cli as cli
    from rlv2v_fast.train import threads

    threads.allow()
    cli.main()


if __name__ == "__main__":
    main()
