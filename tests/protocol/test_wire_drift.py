"""RFC-1: what exists upstream keeps upstream's shape, number by number.

Our messages are compared with the descriptors in the official SDK's wheel.
Every difference is in `ALLOWED` with its reason, or a test fails; so does an
entry that is not needed any more. After an update of the wheel this is the
list of what has to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from descriptor_sets import file_set, official
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
)
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from wire_differences import Element, differences, elements

_CONFIG_PUSH = "configuration is not pushed here; unknown fields pass through"
_REDIRECT = "sessions are not redirected to another gateway here"
_EXTENSION_CREDENTIALS = "credentials of extension services are not handed out here"
_SECOND_TOKEN = "one token is given here, in `token`; there is no second one"
_CREDENTIAL_EPOCH = "tokens are not bound to a session here"
_REFUSED = "CreateSandbox finds it among the unknown fields and refuses it"
_NO_EFFECT = "kept as an unknown field; a condition of the sandbox says that it has no effect here"
_NO_VALUE = "a simulated sandbox has no value for it"
_FILES = "the file methods that the RFC asks for and their extensions"

ALLOWED = {
    # Left out
    "- openshell.v1.SessionAccepted.bootstrap": _CONFIG_PUSH,
    "- openshell.v1.SessionAccepted.config_push_enabled": _CONFIG_PUSH,
    "- openshell.v1.SupervisorHello.supports_config_push": _CONFIG_PUSH,
    "- openshell.v1.SupervisorMessage.config_update_result": _CONFIG_PUSH,
    "- openshell.v1.GatewayMessage.config_update": _CONFIG_PUSH,
    "- openshell.v1.SupervisorHello.supports_provider_readiness": "providers are not part of file transfer",
    "- openshell.v1.SupervisorHello.redirected": _REDIRECT,
    "- openshell.v1.SupervisorHello.supports_session_redirect": _REDIRECT,
    "- openshell.v1.GatewayMessage.session_redirect": _REDIRECT,
    "- openshell.v1.RefreshSandboxTokenRequest.extension_service_names": _EXTENSION_CREDENTIALS,
    "- openshell.v1.RefreshSandboxTokenResponse.extension_credentials": _EXTENSION_CREDENTIALS,
    "- openshell.v1.RefreshSandboxTokenResponse.sandbox_token": _SECOND_TOKEN,
    "- openshell.v1.RefreshSandboxTokenResponse.sandbox_expiration_time": _SECOND_TOKEN,
    "- openshell.v1.RefreshSandboxTokenResponse.session_id": _CREDENTIAL_EPOCH,
    "- openshell.v1.RefreshSandboxTokenResponse.credential_epoch": _CREDENTIAL_EPOCH,
    "- openshell.v1.CreateSandboxRequest.await_main_process_attachment": _REFUSED,
    "- openshell.v1.CreateSandboxRequest.service_exposures": _REFUSED,
    "- openshell.v1.CreateSandboxRequest.workload_template": _REFUSED,
    "- openshell.v1.SandboxSpec.command": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.policy": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.provider_attachment_epoch": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.providers": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.resource_requirements": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.restart_policy": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.template": _NO_EFFECT,
    "- openshell.v1.SandboxSpec.tty": _NO_EFFECT,
    "- openshell.v1.Sandbox.created_from_workload_template": _NO_VALUE,
    "- openshell.v1.Sandbox.host_key_fingerprint": _NO_VALUE,
    "- openshell.v1.SandboxResponse.service_urls": _NO_VALUE,
    "- openshell.v1.SandboxStatus.agent_fd": _NO_VALUE,
    "- openshell.v1.SandboxStatus.agent_pod": _NO_VALUE,
    "- openshell.v1.SandboxStatus.configuration_activated": _NO_VALUE,
    "- openshell.v1.SandboxStatus.configuration_admission": _NO_VALUE,
    "- openshell.v1.SandboxStatus.current_policy_version": _NO_VALUE,
    "- openshell.v1.SandboxStatus.endpoint_statuses": _NO_VALUE,
    "- openshell.v1.SandboxStatus.last_token_grant_failure": _NO_VALUE,
    "- openshell.v1.SandboxStatus.main_process_started_time": _NO_VALUE,
    "- openshell.v1.SandboxStatus.next_restart_time": _NO_VALUE,
    "- openshell.v1.SandboxStatus.provisioning": _NO_VALUE,
    "- openshell.v1.SandboxStatus.restart_count": _NO_VALUE,
    "- openshell.v1.SandboxStatus.sandbox_fd": _NO_VALUE,
    # Added
    "+ openshell.v1.RelayOpen.file": "the proposal to upstream, in the gap between tcp and service_id",
    "+ openshell.v1.SupervisorHello.file_transfer": "an old supervisor must not be sent RelayOpen.file (RLY-1)",
    "+ openshell.v1.OpenShell.UploadFile": _FILES,
    "+ openshell.v1.OpenShell.DownloadFile": _FILES,
    "+ openshell.v1.OpenShell.StartUpload": _FILES,
    "+ openshell.v1.OpenShell.GetUpload": _FILES,
    "+ openshell.v1.OpenShell.ListUploads": _FILES,
    "+ openshell.v1.OpenShell.AbortUpload": _FILES,
    "+ openshell.v1.OpenShell.StatFile": _FILES,
    "+ openshell.v1.OpenShell.WriteFile": _FILES,
    "+ openshell.v1.OpenShell.GetTransferCapabilities": _FILES,
    "+ openshell.v1.OpenShell.ListDirectory": _FILES,
    "+ openshell.v1.OpenShell.MakeDirectory": _FILES,
    "+ openshell.v1.OpenShell.RemovePath": _FILES,
    "+ openshell.v1.OpenShell.MovePath": _FILES,
    "+ openshell.v1.OpenShell.CopyPath": _FILES,
    "+ openshell.v1.OpenShell.UploadTree": _FILES,
    "+ openshell.v1.OpenShell.DownloadTree": _FILES,
    "+ openshell.v1.RelayOpen.exec": "commands without an SSH server (ADR 0013)",
    "+ openshell.v1.SupervisorHello.exec": "an old supervisor must not be sent RelayOpen.exec (EXE-9)",
}

#: The files whose messages are all ours.
OUR_FILES = {
    "openshell/v1/directories.proto",
    "openshell/v1/files.proto",
    "openshell/v1/file_options.proto",
    "openshell/v1/file_relay.proto",
    "openshell/v1/exec_relay.proto",
    "openshell/v1/trees.proto",
}

FILE_METHODS = {name.rsplit(".", 1)[1] for name, why in ALLOWED.items() if why == _FILES}


def ours() -> FileDescriptorSet:
    return file_set(openshell_pb2.DESCRIPTOR)


def split(files: FileDescriptorSet) -> tuple[FileDescriptorSet, FileDescriptorSet]:
    """Return the files that follow upstream, and those that are ours alone."""
    ours_alone = FileDescriptorSet(file=[file for file in files.file if file.name in OUR_FILES])
    return FileDescriptorSet(file=[file for file in files.file if file.name not in OUR_FILES]), ours_alone


@pytest.fixture(scope="module")
def upstream() -> dict[str, Element]:
    return elements(official())


def drift(files: FileDescriptorSet, upstream: dict[str, Element]) -> set[str]:
    shared, _ = split(files)
    return set(differences(elements(shared), upstream))


def test_every_difference_is_allowed(upstream: dict[str, Element]) -> None:
    assert sorted(drift(ours(), upstream) - ALLOWED.keys()) == []


def test_every_allowed_difference_is_there(upstream: dict[str, Element]) -> None:
    assert sorted(ALLOWED.keys() - drift(ours(), upstream)) == []


def test_every_allowed_difference_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in ALLOWED.values())


def test_the_comparison_has_something_to_compare(upstream: dict[str, Element]) -> None:
    shared = elements(split(ours())[0])
    common = {name: element for name, element in shared.items() if name in upstream}
    assert common.keys() >= {
        "openshell.options.v1.AuthorizationRule",
        "openshell.options.v1.authorization",
        "openshell.options.v1.secret",
        "openshell.v1.OpenShell",
        "openshell.datamodel.v1.ObjectMeta",
        "openshell.v1.CreateSandboxRequest",
        "openshell.v1.ExecSandboxRequest",
        "openshell.v1.RelayFrame",
        "openshell.v1.RelayInit",
        "openshell.v1.RelayOpen",
        "openshell.v1.ServiceStatus",
        "openshell.v1.SessionAccepted",
        "openshell.v1.SupervisorHello",
    }
    # Everything in the files that follow upstream exists there.
    assert shared.keys() == common.keys()


def test_our_own_files_define_nothing_that_upstream_defines(upstream: dict[str, Element]) -> None:
    """DESIGN 2.4: they are loaded beside the official SDK."""
    names = set(elements(split(ours())[1]))
    assert len(names) > 30
    assert names & upstream.keys() == set()


def test_additions_stay_clear_of_upstreams_growth(upstream: dict[str, Element]) -> None:
    """DESIGN 2.3: an addition to an existing message is numbered from 1000, but for RelayOpen.file."""
    additions = {
        f"{name}.{part}": int(element.parts[part].facts["number"])
        for name, element in elements(split(ours())[0]).items()
        if element.facts["kind"] == "message"
        for part in element.parts.keys() - upstream[name].parts.keys()
    }
    assert additions.pop("openshell.v1.RelayOpen.file") == 4
    assert additions
    assert {name: number for name, number in additions.items() if number < 1000} == {}


def test_no_number_is_used_for_something_else(upstream: dict[str, Element]) -> None:
    """A field that is left out keeps its number, so that it passes through as unknown."""
    for name, element in elements(split(ours())[0]).items():
        theirs = {part.facts.get("number"): there for there, part in upstream[name].parts.items()}
        for here, part in element.parts.items():
            number = part.facts.get("number")
            assert number is None or theirs.get(number, here) == here, f"{name}: {number}"


def test_the_new_relay_target_is_in_no_reserved_place(upstream: dict[str, Element]) -> None:
    """The proposal to upstream can be taken over as it is."""
    relay_open = upstream["openshell.v1.RelayOpen"]
    assert relay_open.facts["reserved numbers"] == "none"
    assert "4" not in {part.facts["number"] for part in relay_open.parts.values()}
    file = elements(ours())["openshell.v1.RelayOpen"].parts["file"]
    assert file.facts["oneof"] == relay_open.parts["ssh"].facts["oneof"] == "target"


@pytest.mark.parametrize("method", sorted(FILE_METHODS))
def test_file_methods_need_what_exec_needs(method: str, upstream: dict[str, Element]) -> None:
    """AUT-11: no existing token gains access to files that it could not reach through exec."""
    service = elements(ours())["openshell.v1.OpenShell"]
    exec_rule = upstream["openshell.v1.OpenShell"].parts["ExecSandbox"].facts["options"]
    assert "sandbox:write" in exec_rule
    assert service.parts[method].facts["options"] == exec_rule


# The comparison itself: each change must be noticed.


def _message(files: FileDescriptorSet, name: str) -> DescriptorProto:
    return next(message for file in _ours_of(files) for message in file.message_type if message.name == name)


def _ours_of(files: FileDescriptorSet) -> Iterator[FileDescriptorProto]:
    return (file for file in files.file if file.package.startswith("openshell."))


def _field(files: FileDescriptorSet, message: str, name: str) -> FieldDescriptorProto:
    return next(field for field in _message(files, message).field if field.name == name)


def _enum(files: FileDescriptorSet, name: str) -> EnumDescriptorProto:
    return next(enum for file in _ours_of(files) for enum in file.enum_type if enum.name == name)


def _method(files: FileDescriptorSet, name: str) -> MethodDescriptorProto:
    return next(
        method
        for file in _ours_of(files)
        for service in file.service
        for method in service.method
        if method.name == name
    )


def _number(files: FileDescriptorSet) -> None:
    _field(files, "RelayOpen", "service_id").number = 6


def _name(files: FileDescriptorSet) -> None:
    _field(files, "RelayInit", "channel_id").name = "channel"


def _type(files: FileDescriptorSet) -> None:
    _field(files, "TcpRelayTarget", "port").type = FieldDescriptorProto.TYPE_UINT64


def _type_name(files: FileDescriptorSet) -> None:
    _field(files, "RelayOpen", "tcp").type_name = ".openshell.v1.SshRelayTarget"


def _label(files: FileDescriptorSet) -> None:
    _field(files, "RelayClose", "reason").label = FieldDescriptorProto.LABEL_REPEATED


def _oneof(files: FileDescriptorSet) -> None:
    _field(files, "RelayFrame", "data").ClearField("oneof_index")


def _oneof_name(files: FileDescriptorSet) -> None:
    _message(files, "RelayFrame").oneof_decl[0].name = "content"


def _presence(files: FileDescriptorSet) -> None:
    _field(files, "RelayClose", "reason").proto3_optional = True


def _secret(files: FileDescriptorSet) -> None:
    _field(files, "RefreshSandboxTokenResponse", "token").ClearField("options")


def _field_removed(files: FileDescriptorSet) -> None:
    del _message(files, "RelayClose").field[-1]


def _field_added(files: FileDescriptorSet) -> None:
    _message(files, "RelayClose").field.add(name="code", number=1000)


def _reserved_number(files: FileDescriptorSet) -> None:
    _message(files, "SessionAccepted").reserved_range[0].end = 4


def _reserved_name(files: FileDescriptorSet) -> None:
    del _message(files, "SessionAccepted").reserved_name[:]


def _request_stream(files: FileDescriptorSet) -> None:
    _method(files, "RelayStream").client_streaming = False


def _response_stream(files: FileDescriptorSet) -> None:
    _method(files, "ConnectSupervisor").server_streaming = False


def _request(files: FileDescriptorSet) -> None:
    _method(files, "Health").input_type = ".openshell.v1.RelayInit"


def _response(files: FileDescriptorSet) -> None:
    _method(files, "Health").output_type = ".openshell.v1.RelayInit"


def _no_authorization(files: FileDescriptorSet) -> None:
    _method(files, "RelayStream").ClearField("options")


def _other_authorization(files: FileDescriptorSet) -> None:
    _method(files, "RelayStream").options.CopyFrom(_method(files, "Health").options)


def _unknown_option(files: FileDescriptorSet) -> None:
    options = _method(files, "Health").options
    options.CopyFrom(MethodOptions.FromString(options.SerializeToString() + b"\x9a\xb5\x18\x00"))


def _enum_number(files: FileDescriptorSet) -> None:
    _enum(files, "ServiceStatus").value[1].number = 7


def _enum_value_removed(files: FileDescriptorSet) -> None:
    del _enum(files, "ServiceStatus").value[-1]


def _message_added(files: FileDescriptorSet) -> None:
    next(file for file in files.file if file.name == "openshell/v1/openshell.proto").message_type.add(
        name="New"
    )


def _method_added(files: FileDescriptorSet) -> None:
    next(file for file in files.file if file.service).service[0].method.add(name="RenameFile")


def _extension_number(files: FileDescriptorSet) -> None:
    next(file for file in files.file if file.package == "openshell.options.v1").extension[0].number = 50002


def _authorization_field(files: FileDescriptorSet) -> None:
    _field(files, "AuthorizationRule", "scope").number = 5


@pytest.mark.parametrize(
    "change",
    [
        _number, _name, _type, _type_name, _label, _oneof, _oneof_name, _presence, _secret, _field_removed,
        _field_added, _reserved_number, _reserved_name, _request_stream, _response_stream, _request, _response,
        _no_authorization, _other_authorization, _unknown_option, _enum_number, _enum_value_removed,
        _message_added, _method_added, _extension_number, _authorization_field,
    ],
    ids=lambda change: change.__name__.strip("_"),
)  # fmt: skip
def test_a_change_is_noticed(
    change: Callable[[FileDescriptorSet], None], upstream: dict[str, Element]
) -> None:
    files = ours()
    change(files)
    assert drift(files, upstream) - ALLOWED.keys()
