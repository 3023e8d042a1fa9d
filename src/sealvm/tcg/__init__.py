"""TPM 2.0 structures as pure bytes: public areas, PCRs, policy digests, duplication, credentials, quotes, EK chains.

May import crypto, errors and secret. Never talks to a TPM, opens a file or reads a clock: what a TPM said comes in as
bytes. TCG names are kept verbatim; "Part 1", "Part 2" and "Part 3" are parts of the TPM 2.0 Library specification.
"""
