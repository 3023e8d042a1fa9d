"""What authority and hosts say to each other: messages with limits, and both sides' checks, free of I/O.

May import attest, package, statements, tcg, crypto. Clock, randomness and stored state come in as arguments; nothing
here opens a socket, a database or a TPM. Types mark how far a peer has proved itself (`PresentedHost`,
`PendingEnrollment`, `ProvedHost`): a later one comes only out of the checks of the earlier. Specification:
docs/spec/enrollment-v1.md.
"""
