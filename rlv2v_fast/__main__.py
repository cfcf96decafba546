"""python -m rlv2v_fast: the rlv2v command."""

from rlv2v_fast.cli import main

if __name__ == "__main__":
    main()
