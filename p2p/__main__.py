"""`python -m p2p`: the command line where the `p2p` script is not on the path."""

from p2p.cli import main

if __name__ == "__main__":
    main()
