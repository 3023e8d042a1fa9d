"""`sealvm host explain --next-boot` on hosts whose TPMs hold recorded boots: which updates leave their keys usable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sealvm.attest.artefacts import UnifiedKernel
from sealvm.attest.predict import predict
from sealvm.attest.replayable import replayable
from sealvm.authority import approve, profiles
from sealvm.cli.exit_codes import exit_code_of
from sealvm.cli.host import host as host_command
from sealvm.errors import ConflictError, EvidenceRefused, MalformedError, NotFoundError, SealvmError, TpmAwayFault
from sealvm.host.config import HostConfig, load_host
from sealvm.host.enroll import enroll
from sealvm.host.explain import measured_state
from sealvm.host.next_boot import explain_next_boot
from sealvm.host.sync import sync
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from sealvm.protocol.trust import PREDICTION_FORMAT, Prediction
from tests.attest.logs import BOOTS
from tests.attest.pe import kernel, uki
from tests.attest.recorder import load_script, unpack_kernels
from tests.authority.harness import ACTOR, Authority, boot, document, ek_digest_of

pytestmark = pytest.mark.tpm

CMDLINE = "root=/dev/vda ro lockdown=integrity"
UPDATE = uki(CMDLINE)
OTHER_KERNEL = uki(CMDLINE, inner=kernel(b"another kernel"))
OTHER_OPTIONS = uki(f"{CMDLINE} init=/bin/sh")


def boot_as(config: HostConfig, recording: str) -> None:
    """Power the host off, and on again with the recorded boot's log, PCRs and preimages."""
    for name, path in (("eventlog.bin", config.eventlog), ("preimages.json", config.preimages)):
        assert path is not None
        shutil.copyfile(BOOTS[recording] / name, path)
    boot(config)


def approve_update(network: Authority, config: HostConfig, image: bytes, profile: str = "measured") -> None:
    """The state after a boot of `image`, predicted from the host's state and approved by the operator."""
    state = predict(measured_state(config), UnifiedKernel(image))
    log, preimages = replayable(state)
    prediction = Prediction(
        format=PREDICTION_FORMAT,
        label="update",
        pcr_values=dict(state.pcr_values),
        event_log=log,
        preimages=preimages,
    )
    approve.approve_predicted(network.context, ACTOR, profile, ApproveRequest(), prediction)


@pytest.fixture
def updatable(network: Authority, host: HostConfig) -> HostConfig:
    """A host that booted a recorded UKI; that state and the predicted one of an update are approved."""
    network.apply(cmdline=CMDLINE)
    boot_as(host, "uki")
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    config = load_host(host.directory)
    approve.approve(network.context, ACTOR, "measured", ApproveRequest(host="host-1"))
    approve_update(network, config, UPDATE)
    sync(host.directory)
    return config


def asked(config: HostConfig, image: bytes, *arguments: str) -> Any:
    """Exit code and JSON of the command."""
    path = config.directory / "update.efi"
    path.write_bytes(image)
    result = CliRunner().invoke(
        host_command, ["explain", str(config.directory), "--next-boot", "--uki", str(path), "--json", *arguments]
    )
    assert not isinstance(result.exception, SealvmError), result.exception
    return result.exit_code, json.loads(result.stdout)


def test_an_approved_update_is_usable_whatever_runs_now(updatable: HostConfig) -> None:
    code, said = asked(updatable, UPDATE)
    assert (code, said["host"], said["next_boot"]) == (0, "host-1", True)
    (profile,) = said["profiles"]
    assert (profile["usable"], profile["holds_key"], profile["leased"]) == (True, True, False)
    boot_as(updatable, "uki-update")  # a kernel that nobody approved: not usable now, but after the update
    (answer,) = explain_next_boot(updatable, UnifiedKernel(UPDATE))
    assert answer.lines() == ["the state after the next boot is approved for profile 'measured'"]


@pytest.mark.parametrize(
    ("image", "pcrs", "what"),
    [(OTHER_KERNEL, {4}, "UKI"), (OTHER_OPTIONS, {4, 9}, "kernel command line")],
)
def test_another_update_is_refused_with_pcr_and_event(
    updatable: HostConfig, image: bytes, pcrs: set[int], what: str
) -> None:
    code, said = asked(updatable, image)
    assert code == 20
    (profile,) = said["profiles"]
    assert (profile["usable"], profile["satisfied"]) == (False, False)
    assert {difference["pcr"] for difference in profile["differences"]} == pcrs
    assert all(difference["event_index"] for difference in profile["differences"])
    if what == "kernel command line":
        difference = next(d for d in profile["differences"] if d["pcr"] == 9)
        assert difference["what"] == what
        assert difference["approved"].startswith(CMDLINE)
        assert difference["found"].startswith(f"{CMDLINE} init=/bin/sh")
        assert [broken["name"] for broken in profile["breaks"]] == ["cmdline-exact"]


def test_the_answer_for_people_says_what_to_do_before_the_reboot(updatable: HostConfig) -> None:
    path = updatable.directory / "update.efi"
    path.write_bytes(OTHER_OPTIONS)
    result = CliRunner().invoke(host_command, ["explain", str(updatable.directory), "--next-boot", "--uki", str(path)])
    lines = result.output.splitlines()
    assert lines[0] == "host 'host-1', profile 'measured', after the next boot: refused"
    assert "  to do: do not boot this yet; have the predicted state approved first:" in lines
    assert lines[-1].endswith("sealvm profile approve measured --predicted")


def test_the_recorded_kernel_update_is_foreseen(network: Authority, updatable: HostConfig) -> None:
    """Both directions: the state of the older kernel is approved from a real boot of it, and the newer's withdrawn by
    nobody; a kernel that neither recording booted is refused from each of them."""
    boot_as(updatable, "uki-update")
    sync(updatable.directory)
    approve.approve(network.context, ACTOR, "measured", ApproveRequest(host="host-1"))
    sync(updatable.directory)
    for recording in ("uki", "uki-update"):
        boot_as(updatable, recording)
        assert explain_next_boot(updatable, UnifiedKernel(UPDATE))[0].usable
        (answer,) = explain_next_boot(updatable, UnifiedKernel(OTHER_KERNEL))
        assert not answer.usable
        assert answer.explanation.approved_states == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_debians_own_kernel_update_is_foreseen_exactly(
    network: Authority, host: HostConfig, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The real kernel file and the recorders' initrd give the very PCRs that a boot of them was recorded with."""
    older, newer = (json.loads((BOOTS[n] / "boot.json").read_text())["kernel"] for n in ("direct-update", "direct"))
    kernels = unpack_kernels(tmp_path_factory.mktemp("debian"), (older, newer))
    if len(kernels) < 2:
        pytest.skip(f"Debian's archive has {older} or {newer} no more")
    boot_as(host, "direct-update")
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    approve.approve(network.context, ACTOR, "measured", ApproveRequest(host="host-1"))
    boot_as(host, "direct")
    sync(host.directory)
    initrd = load_script().build_initrd(tmp_path)
    arguments = ["explain", str(host.directory), "--next-boot", "--initrd", str(initrd), "--qemu-memory", "512"]
    for file, cmdline, code in (
        (older, CMDLINE, 0),
        (older, f"{CMDLINE} init=/bin/sh", 20),
        (newer, CMDLINE, 20),
    ):
        result = CliRunner().invoke(host_command, [*arguments, "--kernel", str(kernels[file]), "--cmdline", cmdline])
        assert result.exit_code == code, result.output


def test_a_host_without_the_key_would_not_be_helped(updatable: HostConfig) -> None:
    for key in (updatable.directory / "keys").iterdir():
        key.unlink()
    code, said = asked(updatable, UPDATE)
    assert (code, said["profiles"][0]["holds_key"]) == (20, False)


def test_a_leased_profile_needs_a_lease_then_and_its_requirements_met(network: Authority, host: HostConfig) -> None:
    def apply(cmdline: str) -> None:
        text = document("leased", cmdline=cmdline) + "lease: 1h\n"
        profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=text))

    apply(CMDLINE)
    boot_as(host, "uki")
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    approve_update(network, host, UPDATE, "leased")
    sync(host.directory)
    config = load_host(host.directory)
    (answer,) = explain_next_boot(config, UnifiedKernel(UPDATE), ["leased"])
    assert (answer.usable, answer.leased) == (True, True)
    assert "needs the authority in reach" in answer.lines()[-1]
    apply(f"{CMDLINE} quiet")
    sync(host.directory)
    (answer,) = explain_next_boot(config, UnifiedKernel(UPDATE), ["leased"])
    assert (answer.usable, answer.explanation.satisfied) == (False, True)
    assert answer.to_json()["lease_refused_for"] == ["cmdline-exact"]
    assert 'no lease: cmdline-exact "the kernel starts with the approved options"' in "\n".join(answer.lines())


def damaged_log(config: HostConfig) -> None:
    config.eventlog.write_bytes((BOOTS["uki-update"] / "eventlog.bin").read_bytes())


def by_shim(config: HostConfig) -> None:
    boot_as(config, "secureboot-shim-grub")


def powered_off(config: HostConfig) -> None:
    text = json.loads((config.directory / "host.json").read_text())
    text["tcti"] = f"swtpm:path={config.directory / 'nobody'}"
    (config.directory / "host.json").write_text(json.dumps(text))


def no_bundle(config: HostConfig) -> None:
    (config.directory / "bundle.dsse").unlink()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (damaged_log, EvidenceRefused),
        (by_shim, ConflictError),
        (powered_off, TpmAwayFault),
        (no_bundle, NotFoundError),
    ],
)
def test_where_nothing_can_be_predicted_that_is_said(
    updatable: HostConfig, damage: Callable[[HostConfig], None], error: type[SealvmError]
) -> None:
    damage(updatable)
    with pytest.raises(error):
        explain_next_boot(load_host(updatable.directory), UnifiedKernel(UPDATE))


@pytest.mark.parametrize("image", [b"no UKI", UPDATE[:600]])
def test_an_image_that_is_none_is_malformed(updatable: HostConfig, image: bytes) -> None:
    with pytest.raises(MalformedError):
        explain_next_boot(updatable, UnifiedKernel(image))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--uki", "u"), 2),
        (("--next-boot",), 2),
        (("--next-boot", "--uki", "u", "--cmdline", "ro"), 2),
        (("--next-boot", "--kernel", "u"), 2),
        (("--next-boot", "--uki", "there-is-no-such-file"), 13),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    (tmp_path / "host.json").write_text('{"name": "host-1"}')
    result = CliRunner().invoke(host_command, ["explain", str(tmp_path), *arguments])
    error = result.exception
    assert (exit_code_of(error) if isinstance(error, SealvmError) else result.exit_code) == code


def test_a_profile_that_the_bundle_does_not_list(updatable: HostConfig) -> None:
    path = updatable.directory / "update.efi"
    path.write_bytes(UPDATE)
    arguments = ["explain", str(updatable.directory), "--next-boot", "--uki", str(path), "--profile", "nope"]
    assert isinstance(CliRunner().invoke(host_command, arguments).exception, NotFoundError)
