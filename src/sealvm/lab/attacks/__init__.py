"""The attack suite: what root of a host in an unapproved state can try, each attack named, run and answered by the TPM.

    view.py             what the attacker has, what an attack is, and when it counts as refused
    duplication.py      getting the private key out by Rewrap, Duplicate, Import, or out of the parent
    approvals.py        using the key with approvals that are not for this state and this key
    sessions.py         the right approval used in the wrong way, on a key whose policy is of the same make
    platform.py         blobs under other parents and public areas; the PCRs
    handles.py          every other command that takes a key's handle, with the key and with the import parent
    assertions.py       other policy assertions in place of those of the key's policy
    attestation.py      forged quotes, and approvals without the approver's private key
    salts.py            sessions salted to the key: the use of it that asks no policy
    keeping.py          the key made persistent, its saved context, a second Startup
    leases.py           a leased key after its term, without a lease, with another's, or with a stolen lease key
    leased_twin.py      the leased key on which those run
    weaker_leases.py    their control: the same attacks break leases with less in their references
    borrowed.py         an approved host's policy session and ticket, carried to this host
    stranger.py         host 1's files on a fourth TPM
    weak_parents.py     the control: the same Rewrap against a key duplicated to an SRK gives the scalar away
    software_parent.py  the storage parent in software that all this is to end up under
    suite.py            all of them but the next two, which want a TPM of their own
    power.py            what was satisfied in the approved state, used after a reset, restart or resume
    destructive.py      Clear, and what owner and platform can do to their hierarchies

Attacks go through the TPM's command interface only: root of a lab host could read its swtpm's files, which no silicon
allows (DESIGN section 11). It holds the private keys of the attacker's own software parents, and no other.
"""
