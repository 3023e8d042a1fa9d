"""Everything that is signed: its fields, what exactly the signature covers, and its verification.

May import tcg, crypto, errors and secret. Holds no private key: whoever signs passes a `Signer` in. Knows no TPM, file,
network or clock; the time comes in as an argument.
"""
