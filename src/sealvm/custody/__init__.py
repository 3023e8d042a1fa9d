"""Where the authority's private keys lie: one interface, one file per kind of place.

May import crypto, errors and secret only. Holds keys wrapped; clear scalars exist in memory only, as `Secret`, and
never reach a log, a message or an argv. Knows no profile, host or tenant: a key has a name, and that is all.
"""
