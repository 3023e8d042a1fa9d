"""The launch package: header, index, chunks and recipients (docs/spec/package-v1.md).

    header.py       what the provisioner signs; its digest is the package's identity
    expression.py   which profiles open the package: anyOf / allOf
    keys.py         the keys that come from K, and the commitment to it
    chunks.py       one chunk: compress, encrypt, hash, and back
    index.py        where every chunk lies
    writer.py       chunks into packs and index
    reader.py       any byte of the disk, verified, out of packs and index
    recipients.py   K wrapped to profile keys, and unwrapped
    manifest.py     the OCI manifest that holds the parts together
    open.py         the numbered verification of a package, up to the point where K is needed
    inspect.py      what anybody can say about a package without a key

May import crypto, tcg, statements and errors. Does no I/O of its own: blobs come through the protocols of ports.py.
Never holds K or a pack key longer than the reader or writer object that was given it; never writes one anywhere.
"""
