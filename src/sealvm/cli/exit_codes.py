"""The documented exit code of every error (docs/reference/errors.md); a test walks the whole tree against this table.

0 is success, 1 an internal fault (a bug in sealvm), 2 wrong usage, 10 to 19 bad input, 20 to 39 refusals, 40 to 59
faults, 130 an interruption from the keyboard.
"""

from __future__ import annotations

from sealvm import errors

INTERNAL_FAULT = 1
USAGE = 2
INTERRUPTED = 130

EXIT_CODES: dict[type[errors.SealvmError], int] = {
    errors.SealvmError: INTERNAL_FAULT,
    errors.InputError: 10,
    errors.MalformedError: 11,
    errors.ImageError: 12,
    errors.NotFoundError: 13,
    errors.ConflictError: 14,
    errors.Refusal: 39,
    errors.StateRefused: 20,
    errors.NoRecipientRefused: 21,
    errors.SignatureRefused: 22,
    errors.UntrustedRefused: 23,
    errors.IntegrityRefused: 24,
    errors.EnrollmentRefused: 25,
    errors.EvidenceRefused: 26,
    errors.RollbackRefused: 27,
    errors.AccessRefused: 28,
    errors.Fault: 59,
    errors.TpmAwayFault: 40,
    errors.TpmFault: 41,
    errors.StorageFault: 42,
    errors.AuthorityAwayFault: 43,
    errors.HypervisorFault: 44,
    errors.EnvironmentFault: 45,
}


def exit_code_of(error: errors.SealvmError) -> int:
    """The exit code of `error`: its own class's, or that of the nearest class above it in the tree."""
    for kind in type(error).__mro__:
        if kind in EXIT_CODES:
            return EXIT_CODES[kind]
    return INTERNAL_FAULT
