"""`python -m sealvm.cli`: the program, when its script is not on PATH."""

from sealvm.cli.main import main

main()
