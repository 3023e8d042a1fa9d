"""Every error sealvm raises, in one tree.

    SealvmError
    ├── InputError                 the caller gave something that cannot be used
    │   ├── MalformedError         outside bytes do not have the specified form
    │   ├── ImageError             a disk image cannot be read
    │   ├── NotFoundError          a named thing does not exist
    │   └── ConflictError          the thing exists already, or its state forbids this
    ├── Refusal                    a check said no; nothing is wrong with the machinery
    │   ├── StateRefused           the host's measured state satisfies no bound profile
    │   ├── NoRecipientRefused     this host holds no key the package is wrapped to
    │   ├── SignatureRefused       a signature, or what it covers, does not verify
    │   ├── UntrustedRefused       signed well, but by a key this host does not accept
    │   ├── IntegrityRefused       bytes are not the ones that were signed
    │   ├── EnrollmentRefused      a computer may not join; names the check
    │   ├── EvidenceRefused        a quote or its log does not hold together
    │   ├── RollbackRefused        older than what was already seen, or expired
    │   └── AccessRefused          the caller is not who may do this
    └── Fault                      the machinery failed; says nothing about trust
        ├── TpmAwayFault           no TPM answers
        ├── TpmFault               the TPM answered with an error that is no policy refusal
        ├── StorageFault           a disk or file system failed
        ├── AuthorityAwayFault     the authority does not answer
        ├── HypervisorFault        QEMU, the storage daemon or the block server failed
        └── EnvironmentFault       a program or right that sealvm needs is missing

A *refusal* is never reported as a *fault*, nor the other way round (docs/threat-model.md). Messages are lower case,
name the object, and say expected against actual; `hint` says what to do. Neither ever carries key material.
"""

from __future__ import annotations

from typing import ClassVar


class SealvmError(Exception):
    """Root of the tree: a stable `code`, a message for people, a `hint`, and machine-readable `fields`."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields


class InputError(SealvmError):
    """What the caller gave cannot be used."""

    code = "input"


class MalformedError(InputError):
    """Outside bytes do not have the form their specification gives."""

    code = "malformed"


class ImageError(InputError):
    """A disk image is missing, empty, or of a kind that cannot be read."""

    code = "image-unreadable"


class NotFoundError(InputError):
    """A named profile, host, package, instance or file does not exist."""

    code = "not-found"


class ConflictError(InputError):
    """The thing exists already, or its present state forbids the request."""

    code = "conflict"


class Refusal(SealvmError):
    """A check said no."""

    code = "refused"


class StateRefused(Refusal):
    """The host's measured state satisfies no profile that the thing is bound to."""

    code = "profile-state-not-approved"


class NoRecipientRefused(Refusal):
    """This host holds no profile key to which the package is wrapped."""

    code = "no-usable-recipient"


class SignatureRefused(Refusal):
    """A signature does not verify, or does not cover what it must."""

    code = "signature-invalid"


class UntrustedRefused(Refusal):
    """The signature is good, but the signer is not one that is accepted for this."""

    code = "signer-not-trusted"


class IntegrityRefused(Refusal):
    """Bytes differ from the ones that were signed."""

    code = "integrity"


class EnrollmentRefused(Refusal):
    """A computer may not join the network; `check` in the fields names the check that failed."""

    code = "enrollment-refused"


class EvidenceRefused(Refusal):
    """A quote or event log does not hold together; names the PCR and event where it can."""

    code = "evidence-refused"


class RollbackRefused(Refusal):
    """Something signed is older than what was seen before, or has expired."""

    code = "rollback"


class AccessRefused(Refusal):
    """The caller did not prove to be somebody who may do this."""

    code = "access-refused"


class Fault(SealvmError):
    """The machinery failed. Says nothing about trust, in either direction."""

    code = "fault"


class TpmAwayFault(Fault):
    """No TPM answers at the configured place."""

    code = "tpm-away"


class TpmFault(Fault):
    """The TPM answered with an error that is not a policy refusal; `rc` in the fields is its response code."""

    code = "tpm-fault"


class StorageFault(Fault):
    """Reading or writing local storage failed."""

    code = "storage-fault"


class AuthorityAwayFault(Fault):
    """The authority could not be reached or did not answer in time."""

    code = "authority-away"


class HypervisorFault(Fault):
    """QEMU, its storage daemon or the block server did not do what it was asked."""

    code = "hypervisor-fault"


class EnvironmentFault(Fault):
    """A program, device or right that sealvm needs is missing on this machine."""

    code = "environment"
