"""The authority: defines profiles, seals their keys into hosts, approves states, publishes the trust bundle.

One file per use case (`init`, `roots`, `register`, `enroll`, `sync`, `profiles`, `approve`, `provisioners`, `bundle`,
`hosts`, `audit`), which know neither HTTP nor SQL: they get a `Context` with the ports of `ports.py`. `sql/` implements
the store, `http/` serves the use cases, `serve.py` runs them as a process.

May import custody, client, protocol and what is below; never `sealvm.tpm`: an authority has no TPM. Private keys stay
in custody; a profile key's scalar is in memory only while it is duplicated to a host.
"""
