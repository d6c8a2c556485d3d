"""python -m llamaforge: the command line, wherever the program `llamaforge` is not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
