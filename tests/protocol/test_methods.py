"""The paths that both ends call are the methods of the service."""

from __future__ import annotations

from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.options.v1 import options_pb2
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2


def test_every_method_has_its_path_and_no_other_has() -> None:
    (service,) = openshell_pb2.DESCRIPTOR.services_by_name.values()
    paths = {
        value
        for name, value in vars(methods).items()
        if name.isupper() and name not in {"SERVICE", "DEFAULT_WORKSPACE"}
    }
    assert service.full_name == methods.SERVICE
    assert paths == {f"/{service.full_name}/{method.name}" for method in service.methods}


def test_every_method_says_who_may_call_it() -> None:
    """AUT-1: a method without a rule does not start."""
    (service,) = openshell_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        options = method.GetOptions()
        assert options.HasExtension(options_pb2.authorization), method.name
        rule = options.Extensions[options_pb2.authorization]
        assert rule.auth_mode in {"unauthenticated", "bearer", "sandbox", "dual"}
