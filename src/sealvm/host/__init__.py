"""The host: what it keeps, how it enrolls and syncs, how it unwraps a package key and runs instances.

May import client, store, tpm and what they stand on; never authority or provisioner. Holds no private key in the clear:
profile keys are blobs that only this host's TPM loads, package keys live in memory while an instance needs them.
"""
