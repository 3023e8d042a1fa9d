"""Everything that speaks to a TPM, and the only package that imports tpm2_pytss.

May import statements, tcg, crypto, errors and secret. Never holds a private key in the clear: what enters is public
areas, wrapped blobs and approvals, what leaves is attestations, wrapped blobs and the X coordinate of one ECDH step.
Command and structure names are the TCG's; the order of commands and every policy is docs/spec/tpm-policy-v1.md.
"""
