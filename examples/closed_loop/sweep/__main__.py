"""`python -m examples.closed_loop.sweep`."""

import typer

from examples.closed_loop.sweep.command import main

if __name__ == "__main__":
    typer.run(main)
