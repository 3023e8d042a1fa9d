"""The `sealvm` program: one file per command group; wires the parts together and is imported by none of them.

Commands parse arguments, call one use case, and print. Data goes to stdout (`--json` is stable), diagnostics and
progress to stderr, secrets nowhere: they come in by file only. Exit codes stand in `exit_codes.py`.
"""
