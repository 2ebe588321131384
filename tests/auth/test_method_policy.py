"""AUT-3, AUT-4: who may call which method."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.auth.authenticator import local_dev_user
from openshell_files_gateway.auth.policy import MethodPolicy
from openshell_files_gateway.auth.principals import Principal, SandboxPrincipal, User
from openshell_files_gateway.auth.roles import RoleNames
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.options.v1 import options_pb2
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.reasons import Reason

SERVICE = openshell_pb2.DESCRIPTOR.services_by_name["OpenShell"]
ALL_PATHS = sorted(f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods)

FILE_METHODS = [
    methods.UPLOAD_FILE,
    methods.DOWNLOAD_FILE,
    methods.START_UPLOAD,
    methods.GET_UPLOAD,
    methods.LIST_UPLOADS,
    methods.ABORT_UPLOAD,
    methods.STAT_FILE,
    methods.WRITE_FILE,
    methods.GET_TRANSFER_CAPABILITIES,
    methods.LIST_DIRECTORY,
    methods.MAKE_DIRECTORY,
    methods.REMOVE_PATH,
    methods.MOVE_PATH,
    methods.COPY_PATH,
    methods.UPLOAD_TREE,
    methods.DOWNLOAD_TREE,
]
SANDBOX_METHODS = {
    methods.CREATE_SANDBOX: "sandbox:write",
    methods.GET_SANDBOX: "sandbox:read",
    methods.LIST_SANDBOXES: "sandbox:read",
    methods.DELETE_SANDBOX: "sandbox:write",
    methods.STOP_SANDBOX: "sandbox:write",
    methods.START_SANDBOX: "sandbox:write",
    methods.EXEC_SANDBOX: "sandbox:write",
}
SUPERVISOR_METHODS = [methods.CONNECT_SUPERVISOR, methods.RELAY_STREAM, methods.REFRESH_SANDBOX_TOKEN]

SANDBOX = SandboxPrincipal("some-sandbox")


def user(*roles: str, scopes: frozenset[str] = frozenset()) -> User:
    return User("alice", "https://issuer.example", "Alice", frozenset(roles), scopes, "oidc")


def policy(*, enforce_scopes: bool = False, roles: RoleNames | None = None) -> MethodPolicy:
    return MethodPolicy.from_descriptors(roles=roles, enforce_scopes=enforce_scopes)


def refusal(rules: MethodPolicy, path: str, principal: Principal) -> Reason:
    with pytest.raises(TransferError) as caught:
        rules.authorize(path, principal)
    return caught.value.reason


def test_every_method_of_the_service_has_a_rule() -> None:
    """AUT-1: and only Health is for everybody."""
    rules = policy()
    assert rules.paths == set(ALL_PATHS)
    assert {path for path in ALL_PATHS if rules.is_public(path)} == {methods.HEALTH}
    named = {methods.HEALTH, *FILE_METHODS, *SANDBOX_METHODS, *SUPERVISOR_METHODS}
    assert named == set(ALL_PATHS)


@pytest.mark.parametrize(("path", "scope"), SANDBOX_METHODS.items())
def test_sandbox_methods_are_for_users(path: str, scope: str) -> None:
    """AUT-10: as upstream's options say (tests/protocol/test_wire_drift.py compares them)."""
    rules = policy()
    rules.authorize(path, user("openshell-user"))
    assert refusal(rules, path, SANDBOX) is Reason.PRINCIPAL_NOT_ALLOWED
    rule = rules.rule(path)
    assert (rule.mode, rule.workspace_role, rule.scope) == ("bearer", "user", scope)


@pytest.mark.parametrize("path", FILE_METHODS)
def test_file_methods_are_for_users(path: str) -> None:
    """AUT-10, AUT-4, AUT-11: reading needs the scope of writing, as it does today through exec and ssh."""
    rules = policy()
    rules.authorize(path, user("openshell-user"))
    rules.authorize(path, user("openshell-admin"))
    assert refusal(rules, path, SANDBOX) is Reason.PRINCIPAL_NOT_ALLOWED
    rule = rules.rule(path)
    assert (rule.mode, rule.workspace_role, rule.scope) == ("bearer", "user", "sandbox:write")


@pytest.mark.parametrize("path", SUPERVISOR_METHODS)
def test_supervisors_methods_are_for_sandboxes(path: str) -> None:
    """AUT-10: not even an administrator may pose as a supervisor."""
    rules = policy()
    rules.authorize(path, SANDBOX)
    for person in (user("openshell-admin"), local_dev_user(RoleNames())):
        assert refusal(rules, path, person) is Reason.PRINCIPAL_NOT_ALLOWED


@pytest.mark.parametrize("roles", [(), ("openshell",), ("openshell-users",), ("OPENSHELL-USER",), ("",)])
def test_a_user_needs_the_role(roles: tuple[str, ...]) -> None:
    """AUT-4."""
    with pytest.raises(TransferError, match="role 'openshell-user' required") as caught:
        policy().authorize(methods.UPLOAD_FILE, user(*roles))
    assert caught.value.reason is Reason.ROLE_REQUIRED


def test_roles_go_by_the_configured_names() -> None:
    """AUT-4."""
    rules = policy(roles=RoleNames(admin="boss", user="worker"))
    rules.authorize(methods.STAT_FILE, user("worker"))
    rules.authorize(methods.STAT_FILE, user("boss"))
    assert refusal(rules, methods.STAT_FILE, user("openshell-admin")) is Reason.ROLE_REQUIRED


def test_without_role_names_every_user_may() -> None:
    """Facts 2.3.4: authentication only."""
    policy(roles=RoleNames("", "")).authorize(methods.STAT_FILE, user())


@pytest.mark.parametrize(("admin", "worker"), [("", "openshell-user"), ("openshell-admin", "")])
def test_half_of_the_role_names_is_a_mistake(admin: str, worker: str) -> None:
    """Facts 2.3.4."""
    with pytest.raises(ValueError, match="both"):
        RoleNames(admin, worker)


@pytest.mark.parametrize("scopes", [{"sandbox:write"}, {"openshell:all"}, {"x", "sandbox:write"}])
def test_a_scope_opens(scopes: set[str]) -> None:
    """AUT-11."""
    policy(enforce_scopes=True).authorize(
        methods.DOWNLOAD_FILE, user("openshell-user", scopes=frozenset(scopes))
    )


@pytest.mark.parametrize("scopes", [set[str](), {"sandbox:read"}, {"sandbox"}, {"sandbox:write:all"}])
def test_other_scopes_do_not(scopes: set[str]) -> None:
    """AUT-11: a token for reading does not read files, as today."""
    person = user("openshell-admin", scopes=frozenset(scopes))
    with pytest.raises(TransferError, match="scope 'sandbox:write' required") as caught:
        policy(enforce_scopes=True).authorize(methods.DOWNLOAD_FILE, person)
    assert caught.value.reason is Reason.SCOPE_REQUIRED
    policy(enforce_scopes=False).authorize(methods.DOWNLOAD_FILE, person)


def test_the_role_is_looked_at_first() -> None:
    """Facts 2.3.2."""
    assert refusal(policy(enforce_scopes=True), methods.STAT_FILE, user()) is Reason.ROLE_REQUIRED


def test_everybody_may_call_what_is_public() -> None:
    """AUT-1, AUT-7: Health, and gRPC's own health and reflection."""
    rules = policy(enforce_scopes=True)
    for path in (methods.HEALTH, "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/X"):
        assert rules.is_public(path)
        rules.authorize(path, user())
        rules.authorize(path, SANDBOX)


@given(st.text(max_size=40))
def test_an_unknown_path_is_nobodys_method(path: str) -> None:
    """AUT-1: what has no rule is not open."""
    for unknown in (path, "/openshell.v1.OpenShell/" + path, methods.HEALTH + path):
        if unknown in ALL_PATHS or unknown.startswith(("/grpc.health.", "/grpc.reflection.")):
            continue
        rules = policy(enforce_scopes=True)
        assert not rules.is_public(unknown)
        assert refusal(rules, unknown, SANDBOX) is Reason.PRINCIPAL_NOT_ALLOWED
        assert refusal(rules, unknown, user("openshell-admin")) is Reason.SCOPE_REQUIRED
        rules.authorize(unknown, user("openshell-user", scopes=frozenset({"openshell:all"})))


def service_with(name: str, rule: dict[str, str] | None) -> FileDescriptor:
    """Return a file with one good method and this one."""
    file = descriptor_pb2.FileDescriptorProto(
        name="test/policy.proto", package="test", dependency=["openshell/options/v1/options.proto"]
    )
    file.message_type.add(name="Message")
    service = file.service.add(name="Service")
    for method_name, values in (("Good", {"auth_mode": "sandbox"}), (name, rule)):
        method = service.method.add(name=method_name, input_type=".test.Message", output_type=".test.Message")
        if values is not None:
            method.options.Extensions[options_pb2.authorization].CopyFrom(
                options_pb2.AuthorizationRule(**values)
            )
    pool = descriptor_pool.DescriptorPool()
    for dependency in (descriptor_pb2.DESCRIPTOR, options_pb2.DESCRIPTOR):
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


BAD_RULES: dict[str, dict[str, str] | None] = {
    "none": None,
    "empty": {},
    "mode_unknown": {"auth_mode": "operator"},
    "mode_in_capitals": {"auth_mode": "Bearer", "workspace_role": "user", "scope": "x"},
    "bearer_without_role": {"auth_mode": "bearer", "scope": "x"},
    "bearer_without_scope": {"auth_mode": "bearer", "workspace_role": "user"},
    "dual_without_role": {"auth_mode": "dual", "scope": "x"},
    "two_roles": {
        "auth_mode": "bearer",
        "workspace_role": "user",
        "global_role": "platform_admin",
        "scope": "x",
    },
    "workspace_role_unknown": {"auth_mode": "bearer", "workspace_role": "owner", "scope": "x"},
    "global_role_unknown": {"auth_mode": "bearer", "global_role": "root", "scope": "x"},
    "sandbox_with_scope": {"auth_mode": "sandbox", "scope": "x"},
    "sandbox_with_role": {"auth_mode": "sandbox", "workspace_role": "user"},
    "public_with_scope": {"auth_mode": "unauthenticated", "scope": "x"},
}


@pytest.mark.parametrize("case", BAD_RULES)
def test_a_bad_rule_keeps_the_gateway_from_starting(case: str) -> None:
    """Facts 2.3.9."""
    with pytest.raises(ConfigurationError) as caught:
        MethodPolicy.from_descriptors(file=service_with("Bad", BAD_RULES[case]))
    (problem,) = caught.value.problems
    assert problem.key == "/test.Service/Bad"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Any", {"auth_mode": "dual", "workspace_role": "admin", "scope": "x"}),
        ("Any", {"auth_mode": "bearer", "global_role": "platform_admin", "scope": "x"}),
        ("GetCurrentUser", {"auth_mode": "bearer"}),
        ("GetGatewayConfig", {"auth_mode": "bearer", "scope": "x"}),
    ],
)
def test_upstreams_other_rules_are_understood(name: str, rule: dict[str, str]) -> None:
    """Facts 2.4."""
    MethodPolicy.from_descriptors(file=service_with(name, rule))


def test_both_kinds_may_call_a_dual_method() -> None:
    """Facts 2.1.7."""
    rule = {"auth_mode": "dual", "workspace_role": "user", "scope": "x"}
    rules = MethodPolicy.from_descriptors(file=service_with("Both", rule))
    rules.authorize("/test.Service/Both", SANDBOX)
    rules.authorize("/test.Service/Both", user("openshell-user"))
    assert refusal(rules, "/test.Service/Both", user()) is Reason.ROLE_REQUIRED


def test_a_global_role_is_the_administrators() -> None:
    """Facts 2.3.1."""
    rule = {"auth_mode": "bearer", "global_role": "platform_admin", "scope": "x"}
    rules = MethodPolicy.from_descriptors(file=service_with("Rare", rule))
    rules.authorize("/test.Service/Rare", user("openshell-admin"))
    assert refusal(rules, "/test.Service/Rare", user("openshell-user")) is Reason.ROLE_REQUIRED
