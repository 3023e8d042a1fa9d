"""The whole program, from outside: `sealvm` as a process, in a lab with real TPMs, a real authority and real guests."""
