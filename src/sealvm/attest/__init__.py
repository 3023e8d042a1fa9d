"""From a verified quote and its event log to facts, a verdict on a profile, and an explanation for people.

Pure: bytes and documents come in as arguments, results go out; used by host and authority alike. May import statements,
tcg, crypto, errors and secret. Never holds a key, talks to a TPM, opens a file or reads a clock.

What makes a fact sound (DESIGN section 5): an event log is edited easily, and only its digests are bound to the TPM. So
an event's *data* counts only where its digest is the hash of it (or of a preimage), an event's *type* is only a claim,
and every rule in `evidence` asks what somebody could do who runs on the host after the boot: extend more, and relabel
what is there.
"""
