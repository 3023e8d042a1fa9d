"""Cryptographic constructions: labels, canonical JSON, ECDSA, HPKE with an external Diffie-Hellman step, HKDF, DSSE.

May import errors and secret, and third-party cryptography. Holds no state, opens no file, talks to no TPM: every key
comes in as an argument and leaves as a `Secret` or not at all.
"""
