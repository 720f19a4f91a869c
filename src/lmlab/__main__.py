"""`python -m lmlab COMMAND …`."""

from lmlab.cli import main

if __name__ == "__main__":
    main()
