"""Decides which principals may call a method (AUT-4, AUT-10, AUT-11).

The rules are the `openshell.options.v1.authorization` options of the .proto
file, next to the methods themselves. The gateway checks all rules at start; a
call needs only a lookup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.options.v1 import options_pb2
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.principals import ALL_SCOPES, Principal, User
from openshell_files_gateway.auth.roles import RoleNames
from openshell_files_gateway.config.errors import ConfigurationError, Problem

Mode = Literal["unauthenticated", "sandbox", "bearer", "dual"]

#: Services of gRPC itself, which reveal nothing about sandboxes.
_PUBLIC_PREFIXES: Final = ("/grpc.health.", "/grpc.reflection.")

#: Upstream's methods about the caller or the gateway itself; they need no role.
_WITHOUT_ROLE: Final = frozenset({"GetCurrentUser", "GetGatewayConfig"})
_WITHOUT_SCOPE: Final = frozenset({"GetCurrentUser"})

_FIX: Final = "correct the openshell.options.v1.authorization option in the .proto file"


@dataclass(frozen=True, slots=True)
class MethodRule:
    """Requirements on the caller of one method.

    Attributes:
        mode: `unauthenticated` for all callers, `bearer` for users, `sandbox`
            for supervisors, `dual` for both.
        workspace_role: required role in the sandbox's workspace, or empty. The
            policy requires the deployment's user role; the method checks
            membership when it knows the sandbox.
        global_role: required role in the deployment, or empty.
        scope: required scope of the token where scopes are enforced, or empty.
    """

    mode: Mode
    workspace_role: str = ""
    global_role: str = ""
    scope: str = ""


#: Rule of unknown paths. The widest scope is required, so that callers with few
#: rights do not learn which methods exist.
_UNKNOWN_METHOD: Final = MethodRule("bearer", workspace_role="user", scope=ALL_SCOPES)


class MethodPolicy:
    """The rules of all methods.

    Args:
        rules: rules by path, `/package.Service/Method`.
        roles: names of the platform's roles.
        enforce_scopes: check the scopes of users' tokens.
    """

    def __init__(self, rules: Mapping[str, MethodRule], *, roles: RoleNames, enforce_scopes: bool) -> None:
        self._rules = dict(rules)
        self._roles = roles
        self._enforce_scopes = enforce_scopes

    @classmethod
    def from_descriptors(
        cls,
        *,
        roles: RoleNames | None = None,
        enforce_scopes: bool = False,
        file: FileDescriptor = openshell_pb2.DESCRIPTOR,
    ) -> MethodPolicy:
        """Read the rules from the options of a .proto file.

        Args:
            roles: names of the platform's roles; default: upstream's.
            enforce_scopes: check the scopes of users' tokens.
            file: descriptor of the file with the services.

        Raises:
            ConfigurationError: methods without a rule or with a contradictory
                one; it names all of them.
        """
        rules: dict[str, MethodRule] = {}
        problems: list[Problem] = []
        for service in file.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                rule, fault = _read_rule(method)
                if rule is None:
                    problems.append(Problem(path, fault, _FIX))
                else:
                    rules[path] = rule
        if problems:
            raise ConfigurationError(problems)
        return cls(rules, roles=roles or RoleNames(), enforce_scopes=enforce_scopes)

    @property
    def paths(self) -> frozenset[str]:
        """Paths of all methods that have a rule."""
        return frozenset(self._rules)

    def rule(self, path: str) -> MethodRule:
        """Return a method's rule; for an unknown path, a strict one."""
        return self._rules.get(path, _UNKNOWN_METHOD)

    def is_public(self, path: str) -> bool:
        """Return True if the method needs no authentication (AUT-1, AUT-7)."""
        return path.startswith(_PUBLIC_PREFIXES) or self.rule(path).mode == "unauthenticated"

    def authorize(self, path: str, principal: Principal) -> None:
        """Check that a principal may call a method.

        Raises:
            TransferError: PRINCIPAL_NOT_ALLOWED if the method is for the other
                kind of caller, ROLE_REQUIRED or SCOPE_REQUIRED if a user lacks
                the role or, with the role, the scope.
        """
        if self.is_public(path):
            return
        rule = self.rule(path)
        if isinstance(principal, User):
            if rule.mode == "sandbox":
                raise TransferError(
                    Reason.PRINCIPAL_NOT_ALLOWED,
                    f"{path} is for supervisors; call it with a sandbox's token",
                )
            self._check_role(rule, principal)
            self._check_scope(rule, principal)
        elif rule.mode not in ("sandbox", "dual"):
            raise TransferError(
                Reason.PRINCIPAL_NOT_ALLOWED,
                f"{path} is for users; call it with a user's token",
            )

    def _check_role(self, rule: MethodRule, user: User) -> None:
        if rule.global_role:
            held, needed = self._roles.is_admin(user), self._roles.admin
        elif rule.workspace_role:
            held, needed = self._roles.is_user(user), self._roles.user
        else:
            return
        if not held:
            raise TransferError(
                Reason.ROLE_REQUIRED, f"role '{needed}' required", metadata={"required_role": needed}
            )

    def _check_scope(self, rule: MethodRule, user: User) -> None:
        if not self._enforce_scopes or not rule.scope:
            return
        if rule.scope not in user.scopes and ALL_SCOPES not in user.scopes:
            raise TransferError(
                Reason.SCOPE_REQUIRED,
                f"scope '{rule.scope}' required",
                metadata={"required_scope": rule.scope},
            )


def _read_rule(method: MethodDescriptor) -> tuple[MethodRule, str] | tuple[None, str]:
    """Return the method's rule, or None and the fault of its option."""
    options = method.GetOptions()
    if not options.HasExtension(options_pb2.authorization):
        return None, "the method has no authorization rule"
    option = options.Extensions[options_pb2.authorization]
    if option.auth_mode not in get_args(Mode):
        return None, f"auth_mode '{option.auth_mode}' is not served here"
    rule = MethodRule(
        mode=cast("Mode", option.auth_mode),
        workspace_role=option.workspace_role,
        global_role=option.global_role,
        scope=option.scope,
    )
    fault = _contradiction(method.name, rule)
    return (None, fault) if fault else (rule, "")


def _contradiction(name: str, rule: MethodRule) -> str:
    has_role = bool(rule.workspace_role or rule.global_role)
    if rule.mode in ("unauthenticated", "sandbox"):
        return f"a method of mode {rule.mode} has no role and no scope" if has_role or rule.scope else ""
    if rule.workspace_role not in ("", "user", "admin"):
        return f"workspace_role '{rule.workspace_role}' is neither user nor admin"
    if rule.global_role not in ("", "platform_admin"):
        return f"global_role '{rule.global_role}' is not platform_admin"
    if rule.workspace_role and rule.global_role:
        return "workspace_role and global_role exclude each other"
    if not has_role and name not in _WITHOUT_ROLE:
        return f"a method of mode {rule.mode} needs a role"
    if not rule.scope and name not in _WITHOUT_SCOPE:
        return f"a method of mode {rule.mode} needs a scope"
    return ""
