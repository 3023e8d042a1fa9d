"""Recipients: the package key K wrapped to profile keys, in the shape of the signed expression (spec, section 7).

    {"format": 1, "header": <hex SHA-256>, "tree": node}
    node = {"profile": NAME, "wraps": [{"epoch": 1, "cell": "", "wrap": base64}, ...]}
         | {"anyOf": [node, ...]} | {"allOf": [node, ...]}

Not signed: anybody can wrap to a profile. What holds them to the package is the header's digest in every wrap's HPKE
`info`, the shape in the header's expression, and the commitment to K, which is checked before K is handed out.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sealvm.crypto import canonical, hpke
from sealvm.crypto.labels import label_bytes, u32
from sealvm.errors import InputError, IntegrityRefused, MalformedError, NoRecipientRefused, Refusal, StateRefused
from sealvm.package.expression import AllOf, AnyOf, Expression, ProfileLeaf, leaves_of, parse_expression
from sealvm.package.header import FORMAT_VERSION, Header
from sealvm.package.keys import KEY_BYTES, check_commitment
from sealvm.secret import Secret

MEDIA_TYPE = "application/vnd.sealvm.recipients.v1+json"
MAX_RECIPIENTS_BYTES = 64 * 1024
MAX_WRAPS = 64
MAX_ATTEMPTS = 8
WRAP_BYTES = KEY_BYTES + hpke.OVERHEAD_BYTES
_U32_MAX = 2**32 - 1
_CELL_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class ProfileKeyRef:
    """The public half of one profile key: `point` is 65 bytes, `cell` is "" when there is none."""

    profile: str
    epoch: int
    cell: str
    point: bytes


class ProfileKeyOpener(Protocol):
    """The host's profile keys, whose private halves are in its TPM."""

    def holds(self, profile: str, epoch: int, cell: str) -> bool:
        """Whether this host has that key (usable now or not)."""
        ...

    def point(self, profile: str, epoch: int, cell: str) -> bytes:
        """The key's public point, 65 bytes, as this host knows it."""
        ...

    def ecdh(self, profile: str, epoch: int, cell: str, point: bytes) -> bytes:
        """X coordinate of the shared point. Raises StateRefused when the TPM's policy says no, TpmFault otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Wrap:
    """K, or a share of it, wrapped to one epoch and cell of a profile."""

    epoch: int
    cell: str
    data: bytes


def wrap_info(profile: str, epoch: int, cell: str, header_digest: str) -> bytes:
    """The HPKE `info` of a wrap: label `wrap`, format version, profile, epoch, cell, header digest (32 bytes)."""
    version = u32(FORMAT_VERSION)
    return label_bytes("wrap", version, profile.encode(), u32(epoch), cell.encode(), bytes.fromhex(header_digest))


def build_recipients(key: Secret, header_digest: str, leaves: Sequence[ProfileKeyRef], expression: Expression) -> bytes:
    """The recipients blob: K wrapped, for every profile in the expression, to each of its keys among `leaves`.

    Raises InputError when a profile of the expression has no key, or there would be more than 64 wraps.
    """
    tree = _build_node(key, header_digest, leaves, expression)
    data = canonical.dumps({"format": FORMAT_VERSION, "header": header_digest, "tree": tree})
    if sum(len(wraps) for _, wraps in _leaves(tree)) > MAX_WRAPS:
        raise InputError(f"more than {MAX_WRAPS} wraps", hint="name fewer profiles, or retire old epochs")
    return data


def _build_node(
    secret: Secret, header_digest: str, leaves: Sequence[ProfileKeyRef], expression: Expression
) -> dict[str, Any]:
    match expression:
        case ProfileLeaf(profile):
            keys = [leaf for leaf in leaves if leaf.profile == profile]
            if not keys:
                raise InputError(f"no key of profile {profile!r} is known", hint="fetch the trust bundle again")
            return {"profile": profile, "wraps": [_build_wrap(secret, header_digest, leaf) for leaf in keys]}
        case AnyOf(children):
            return {"anyOf": [_build_node(secret, header_digest, leaves, child) for child in children]}
        case AllOf(children):
            shares = _split(secret, len(children))
            pairs = zip(shares, children, strict=True)
            return {"allOf": [_build_node(share, header_digest, leaves, child) for share, child in pairs]}


def _build_wrap(secret: Secret, header_digest: str, leaf: ProfileKeyRef) -> dict[str, Any]:
    info = wrap_info(leaf.profile, leaf.epoch, leaf.cell, header_digest)
    data = hpke.seal(leaf.point, info, secret.reveal())
    return {"epoch": leaf.epoch, "cell": leaf.cell, "wrap": base64.b64encode(data).decode("ascii")}


def _split(secret: Secret, count: int) -> list[Secret]:
    """`count` shares whose XOR is the secret; any fewer of them are uniformly random."""
    shares = [Secret(secrets.token_bytes(len(secret))) for _ in range(count - 1)]
    return [*shares, _join([secret, *shares])]


def _join(shares: Sequence[Secret]) -> Secret:
    value = 0
    for share in shares:
        value ^= int.from_bytes(share.reveal(), "big")
    return Secret(value.to_bytes(KEY_BYTES, "big"))


def check_recipients(data: bytes, header: Header) -> dict[str, Any]:
    """The recipients' tree, only if it is well formed and belongs to this header.

    1. At most 64 KiB of JSON of this format.
    2. It names this header's digest.
    3. Without the wraps it is the header's expression.
    4. It has at most 64 wraps, each of the length that a wrap has.

    Raises MalformedError (1, 4), IntegrityRefused (2, 3). Whether a wrap opens is seen only with its key.
    """
    return _check_tree(data, header.digest, header.expression)


def _check_tree(data: bytes, context: str, expression: Expression) -> dict[str, Any]:
    obj = canonical.loads(data, "recipients", MAX_RECIPIENTS_BYTES)  # 1
    if not isinstance(obj, dict) or set(obj) != {"format", "header", "tree"} or obj["format"] != FORMAT_VERSION:
        raise MalformedError(f"recipients: expected format {FORMAT_VERSION} with header and tree")
    if obj["header"] != context:  # 2
        raise IntegrityRefused(
            f"recipients belong to package {str(obj['header'])[:64]}, not to {context}",
            hint="fetch the package again",
        )
    if parse_expression(_without_wraps(obj["tree"], 1)) != expression:  # 3
        raise IntegrityRefused("recipients do not have the shape of the signed profile expression")
    tree: dict[str, Any] = obj["tree"]
    wraps = [wrap for _, wraps in _leaves(tree) for wrap in wraps]  # 4
    if len(wraps) > MAX_WRAPS:
        raise MalformedError(f"recipients: {len(wraps)} wraps, at most {MAX_WRAPS} are allowed")
    return tree


def describe_recipients(data: bytes, header: Header) -> list[dict[str, Any]]:
    """Profile, epoch and cell of every wrap, for people. Raises as `check_recipients`."""
    leaves = _leaves(check_recipients(data, header))
    return [{"profile": name, "epoch": w.epoch, "cell": w.cell} for name, wraps in leaves for w in wraps]


def stated_expression(data: bytes) -> Expression:
    """The expression whose shape these recipients have, whatever they belong to. MalformedError; verifies nothing."""
    obj = canonical.loads(data, "recipients", MAX_RECIPIENTS_BYTES)
    if not isinstance(obj, dict):
        raise MalformedError(f"recipients: expected format {FORMAT_VERSION} with header and tree")
    return parse_expression(_without_wraps(obj.get("tree"), 1))


def list_wraps(data: bytes, context: str, expression: Expression) -> list[tuple[str, Wrap]]:
    """Profile and wrap of every leaf of what `build_recipients` made for `context`. Raises as `check_recipients`."""
    return [(name, wrap) for name, wraps in _leaves(_check_tree(data, context, expression)) for wrap in wraps]


def open_recipients(
    data: bytes, header: Header, opener: ProfileKeyOpener, profiles: Collection[str] | None = None
) -> Secret:
    """K, only if it is the one the header commits to; the host's keys are tried in order, at most 8 times.

    `profiles` limits the attempt to profiles for which the package's signer is accepted (None: all; then the caller
    has made sure of that). Raises MalformedError and IntegrityRefused as `check_recipients`, and then, having tried
    what this host holds:

    - StateRefused when the TPM would not use a key that could have opened it (the last such refusal);
    - IntegrityRefused when a wrap did not open, or gave a key other than the header's;
    - NoRecipientRefused when the host holds no key that could open it, or 8 attempts did not suffice.

    Faults of the TPM pass through.
    """
    return open_wraps(
        data,
        header.digest,
        header.expression,
        opener,
        profiles,
        accept=lambda key: check_commitment(key, header.commitment, header.lineage, header.version),
    )


def open_wraps(
    data: bytes,
    context: str,
    expression: Expression,
    opener: ProfileKeyOpener,
    profiles: Collection[str] | None,
    *,
    accept: Callable[[Secret], None],
) -> Secret:
    """A secret that `build_recipients` wrapped for `context` and `expression`, as soon as `accept` takes one.

    `accept` raises IntegrityRefused for a secret that is not the one. Raises as `open_recipients`.
    """
    tree = _check_tree(data, context, expression)
    attempt = _Attempt(context, opener, profiles)
    for candidate in attempt.solutions(tree):
        try:
            accept(candidate)
        except IntegrityRefused as refusal:
            attempt.refusals.append(refusal)
        else:
            return candidate
    for kind in (StateRefused, IntegrityRefused):
        for met in reversed(attempt.refusals):
            if isinstance(met, kind):
                raise met
    names = sorted(set(leaves_of(expression)))
    raise NoRecipientRefused(
        f"this host holds no key for the package's profiles: {', '.join(names)}",
        hint="sync the host with the authority, or have the package re-wrapped to the present epoch",
        profiles=names,
    )


@dataclass(slots=True)
class _Attempt:
    """One walk over the tree: yields what the host's keys unwrap, and remembers why others did not."""

    context: str
    opener: ProfileKeyOpener
    profiles: Collection[str] | None
    refusals: list[Refusal] = field(default_factory=list)
    attempts: int = 0

    def solutions(self, node: dict[str, Any]) -> Iterator[Secret]:
        """Every value for this node's secret that the host's keys give, lazily."""
        if "anyOf" in node:
            for child in node["anyOf"]:
                yield from self.solutions(child)
        elif "allOf" in node:
            for shares in self._combinations(node["allOf"]):
                yield _join(shares)
        else:
            name, wraps = node["profile"], _parse_wraps(node)
            if self.profiles is None or name in self.profiles:
                yield from self._open_leaf(name, wraps)

    def _combinations(self, nodes: list[dict[str, Any]]) -> Iterator[list[Secret]]:
        if not nodes:
            yield []
            return
        for share in self.solutions(nodes[0]):
            for rest in self._combinations(nodes[1:]):
                yield [share, *rest]

    def _open_leaf(self, profile: str, wraps: list[Wrap]) -> Iterator[Secret]:
        for wrap in wraps:
            if not self.opener.holds(profile, wrap.epoch, wrap.cell):
                continue
            if self.attempts == MAX_ATTEMPTS:
                return
            self.attempts += 1
            try:
                secret = self._unwrap(profile, wrap)
            except (StateRefused, IntegrityRefused) as refusal:
                self.refusals.append(refusal)
                continue
            if len(secret) == KEY_BYTES:
                yield secret

    def _unwrap(self, profile: str, wrap: Wrap) -> Secret:
        damaged: list[MalformedError] = []

        def dh(enc: bytes) -> bytes:
            try:
                return self.opener.ecdh(profile, wrap.epoch, wrap.cell, enc)
            except MalformedError as problem:
                damaged.append(problem)
                raise

        info = wrap_info(profile, wrap.epoch, wrap.cell, self.context)
        point = self.opener.point(profile, wrap.epoch, wrap.cell)
        try:
            return hpke.open_with_dh(wrap.data, info, point, dh)
        except MalformedError as problem:
            if damaged:
                raise  # not the package's fault: a file of this host's own
            raise IntegrityRefused(f"wrap for profile {profile}, epoch {wrap.epoch}: {problem.message}") from problem


def _without_wraps(node: Any, depth: int) -> Any:
    """The expression under a tree of recipients; `parse_expression` judges what remains."""
    if depth > 32 or not isinstance(node, dict):
        return node
    if set(node) == {"profile", "wraps"}:
        return {"profile": node["profile"]}
    return {kind: [_without_wraps(c, depth + 1) for c in v] if isinstance(v, list) else v for kind, v in node.items()}


def _leaves(node: dict[str, Any]) -> Iterator[tuple[str, list[Wrap]]]:
    """Every leaf's profile and wraps; the tree has the shape of an expression. Raises MalformedError."""
    for kind in ("anyOf", "allOf"):
        if kind in node:
            for child in node[kind]:
                yield from _leaves(child)
            return
    yield node["profile"], _parse_wraps(node)


def _parse_wraps(node: dict[str, Any]) -> list[Wrap]:
    wraps = node.get("wraps")
    if not isinstance(wraps, list) or not 1 <= len(wraps) <= MAX_WRAPS:
        raise MalformedError(f"recipients: profile {node['profile']} must have 1 to {MAX_WRAPS} wraps")
    return [_parse_wrap(wrap, node["profile"]) for wrap in wraps]


def _parse_wrap(obj: Any, profile: str) -> Wrap:
    what = f"recipients: wrap for profile {profile}"
    if not isinstance(obj, dict) or set(obj) != {"epoch", "cell", "wrap"}:
        raise MalformedError(f"{what}: expected epoch, cell and wrap")
    epoch, cell, data = obj["epoch"], obj["cell"], obj["wrap"]
    if type(epoch) is not int or not 1 <= epoch <= _U32_MAX:
        raise MalformedError(f"{what}: epoch must be an integer from 1 to {_U32_MAX}")
    if not isinstance(cell, str) or len(cell) > _CELL_CHARACTERS:
        raise MalformedError(f"{what}: cell must be a string of at most {_CELL_CHARACTERS} characters")
    try:
        raw = base64.b64decode(data if isinstance(data, str) else "", validate=True)
    except (binascii.Error, ValueError) as problem:
        raise MalformedError(f"{what}: not base64") from problem
    if base64.b64encode(raw).decode("ascii") != data:  # RFC 4648, section 3.5: one form for the same bytes
        raise MalformedError(f"{what}: base64 with stray bits at its end")
    if len(raw) != WRAP_BYTES:
        raise MalformedError(f"{what}: {len(raw)} bytes, expected {WRAP_BYTES}")
    return Wrap(epoch, cell, raw)
