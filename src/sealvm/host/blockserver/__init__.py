"""The block server: the disk of a package on a Unix socket, verified chunk by chunk (nbdkit with a thin plugin).

    plugin.py   runs inside nbdkit; may import package, store, crypto and errors only
    server.py   starts and stops nbdkit; may import errors, secret and store.atomic

One server for each instance, read-only. K reaches it through an inherited pipe and lives in its memory only; plaintext
lives in its bounded cache and on its socket. Nothing is written to disk but a log without content.
"""
