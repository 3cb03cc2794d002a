"""python -m wxkernels.cli: the command `wxkernels` where its script is not on the path."""

from wxkernels.cli import main

main()
