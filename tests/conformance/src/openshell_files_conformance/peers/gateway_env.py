"""What a case of the gateway's role has: callers, an issuer, and sandboxes whose supervisor the suite plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openshell_files_conformance.checks import CannotGoOnError, CaseContext, Env
from openshell_files_conformance.peers.caller import Caller
from openshell_files_conformance.peers.client import ANSWER_SECONDS, Channel
from openshell_files_conformance.peers.idp import IdentityProvider
from openshell_files_conformance.peers.model_agent import ModelAgent
from openshell_files_conformance.peers.supervisor import Supervisor, SupervisorSession
from openshell_files_conformance.peers.waiting import holds
from openshell_files_conformance.peers.wire import Wire

if TYPE_CHECKING:
    from openshell_files_conformance.roles.gateway import GatewayTarget

#: Two users of the workspace, one that is not a member, an administrator, and one without a role.
ONE = "conformance-one"
TWO = "conformance-two"
OUTSIDER = "conformance-outsider"
#: The sandbox where content is judged, and one of a workspace of which nobody but OUTSIDER is a member.
STACK = "conf-stack"
ELSEWHERE = "conf-elsewhere"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox of the target.

    Attributes:
        token: of its supervisor; empty if the target supervises it itself.
    """

    name: str
    id: str
    token: str
    workspace: str = "default"


class SuiteSandbox:
    """A sandbox whose supervisor the suite plays, for one case alone.

    Attributes:
        caller: the user ONE.
        other: the user TWO.
        supervisor: makes further sessions.
        session: the first one.
        agent: that serves relays, if the case asked for one.
    """

    def __init__(
        self,
        env: GatewayEnv,
        sandbox: Sandbox,
        supervisor: Supervisor,
        session: SupervisorSession | None,
        agent: ModelAgent | None,
    ) -> None:
        self.env = env
        self.facts = sandbox
        self.supervisor = supervisor
        self.agent = agent
        self.caller = env.user(ONE, sandbox)
        self.other = env.user(TWO, sandbox)
        self._session = session

    @property
    def session(self) -> SupervisorSession:
        """The first session.

        Raises:
            CannotGoOnError: the case did not want one.
        """
        if self._session is None:
            raise CannotGoOnError("the sandbox has no session")
        return self._session

    async def reconnect(self, **hello: Any) -> SupervisorSession:
        """Begin a newer session, which announces other things; it becomes `session`."""
        self._session = await self.supervisor.connected(**hello)
        return self._session


class GatewayEnv(Env):
    """What a case of the gateway's role has.

    Attributes:
        channel: a connection of the case's own.
        caller: the user ONE of the sandbox where content is judged.
        other: the user TWO of the same sandbox.
    """

    def __init__(self, context: CaseContext, target: GatewayTarget) -> None:
        super().__init__(context)
        self.target = target
        self.channel = Channel(target.endpoint, context.case_id, self.transcript, patience=self.patience)
        self.resources.push_async_callback(self.channel.close)
        stack = target.sandboxes.get(STACK) or Sandbox(STACK, STACK, "")
        self.caller = self.user(ONE, stack)
        self.other = self.user(TWO, stack)

    async def prepare(self) -> None:
        """See that the sandbox where content is judged has a supervisor."""
        await self.target.stack_ready()

    @property
    def patience(self) -> float:
        """How long to wait for anything that should come at once, in seconds."""
        return self.scaled(ANSWER_SECONDS)

    @property
    def endpoint(self) -> str:
        """Host and port of the gateway."""
        return self.target.endpoint

    @property
    def idp(self) -> IdentityProvider:
        """The issuer, which cases of one launch share."""
        return self.target.idp

    @property
    def stack(self) -> Sandbox:
        """The sandbox where content is judged."""
        return self.target.sandboxes[STACK]

    def user(self, subject: str, sandbox: Sandbox, *, channel: Channel | None = None, **token: Any) -> Caller:
        """Return a user of a sandbox; `roles` and `scope` are those of its token."""
        bearer = self.idp.token(subject, **token)
        return Caller(channel or self.channel, bearer, sandbox.id)

    def path(self, stem: str = "file") -> str:
        """Return a path that no other case uses, in the sandbox's working directory."""
        return self.fresh_name(stem)

    def connection(self, endpoint: str = "", **options: Any) -> Channel:
        """Return another connection, which is closed with the case."""
        channel = Channel(
            endpoint or self.endpoint, self.case_id, self.transcript, patience=self.patience, **options
        )
        self.resources.push_async_callback(channel.close)
        return channel

    async def wire(self, *, reads: bool = True) -> Wire:
        """Return a raw HTTP/2 connection, which is closed with the case."""
        return await self.resources.enter_async_context(
            Wire(self.endpoint, self.case_id, self.transcript, reads=reads, patience=self.patience)
        )

    async def sandbox(
        self, *, session: bool = True, agent: bool = False, spoils: bool = False, **hello: Any
    ) -> SuiteSandbox:
        """Take a sandbox whose supervisor the suite plays.

        Args:
            session: connect its supervisor.
            agent: serve its relays with the suite's agent.
            spoils: no other case may have it afterwards, for example because the gateway remembers a flood.
            hello: fields of the supervisor's hello.
        """
        taken = await self.target.take()
        if not spoils:
            self.resources.callback(self.target.give_back, taken)
        return await self.occupy(taken, session=session, agent=agent, **hello)

    async def occupy(self, sandbox: Sandbox, *, session: bool, agent: bool, **hello: Any) -> SuiteSandbox:
        """Play the supervisor of a sandbox."""
        supervisor = self.supervisor(sandbox)
        model = ModelAgent() if agent else None
        first = await supervisor.connected(**hello) if session else None
        if first is not None and model is not None:
            first.serve = model.serve
            while not first.opens.empty():
                first.spawn(model.serve(first, first.opens.get_nowait()))
        return SuiteSandbox(self, sandbox, supervisor, first, model)

    def supervisor(self, sandbox: Sandbox, token: str | None = None, *, endpoint: str = "") -> Supervisor:
        """Return a supervisor of a sandbox with a connection of its own, which is closed with the case."""
        made = Supervisor(
            endpoint or self.endpoint,
            sandbox.id,
            sandbox.token if token is None else token,
            self.case_id,
            self.transcript,
            self.patience,
        )
        self.resources.push_async_callback(made.close)
        return made

    async def eventually(self, condition: Any, seconds: float = 5.0) -> bool:
        """Return whether a condition, a function without arguments, comes to hold in time."""
        return await holds(condition, self.scaled(seconds))
