"""The sequence's end of a mask conversation, without any I/O."""

import logging
from collections.abc import Sequence

from .messages import (
    MAX_TEXT,
    Ack,
    Applied,
    Bye,
    ErrorMessage,
    Hello,
    MaskMessage,
    Message,
    Nack,
    NackReason,
    Scope,
    Welcome,
    check_mask,
    check_scope,
)

log = logging.getLogger(__name__)


class SequenceInbox:
    """The inbox: one valid mask per scope, until `apply` closes the scope for good."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.answered = False  # anything came
        self.ready = False
        self.refused: str | None = None  # why no mask will come, if that is known
        self._dropped = False  # what was refused is a message of ours, not the scan
        self._inbox: dict[Scope, MaskMessage] = {}
        self._highest: dict[Scope, int] = {}
        self._accepted: set[str] = set()
        self._applied: dict[Scope, str | None] = {}

    def receive(self, message: Message) -> Message | None:
        """Take in one message and return the reply it asks for."""
        self.answered = True
        match message:
            case MaskMessage():
                return self._answer(message)
            case Welcome():
                self.ready = message.ready
                if message.paired and self._dropped:
                    self._dropped, self.refused = False, None
            case Nack():
                self.ready, self.refused = False, f"{message.reason}: {message.detail}"
            case ErrorMessage(reason="no-hello"):  # the binder is a new one, or forgot us
                self.ready = False
                return self.hello
            case ErrorMessage():
                if not self._dropped:
                    log.error("mask channel: %s: %s", message.reason, message.detail)
                self._dropped = True
                self.ready, self.refused = False, f"{message.reason}: {message.detail}"
            case Bye():
                self.ready = False
        return None

    def mask(self, scope: Scope) -> MaskMessage | None:
        """Return the mask that holds for a scope, if one came and none was applied."""
        return self._inbox.get(scope)

    def apply(
        self,
        scope: Scope,
        counters: Sequence[int],
        *,
        fallback: bool,
        reason: str,
        message_id: str | None,
    ) -> Applied:
        """Close a scope; raises ValueError for what is no mask of this scan or a second time."""
        wrong = check_mask(self.hello, counters) or check_scope(self.hello, scope)
        if scope in self._applied:
            wrong = f"{scope} has its mask already"
        if wrong:
            raise ValueError(f"cannot apply: {wrong}")
        self._applied[scope] = message_id
        self._inbox.pop(scope, None)
        return Applied(
            scan_token=self.hello.scan_token,
            scope=scope,
            ky_min=self.hello.ky_min,
            ky_max=self.hello.ky_max,
            counters=tuple(sorted(counters)),
            fallback=fallback,
            reason=reason[:MAX_TEXT],
            message_id=message_id,
        )

    def _answer(self, mask: MaskMessage) -> Ack | Nack:
        refusal = self._refusal(mask)
        token = mask.scan_token
        if refusal:
            return Nack(
                scan_token=token,
                message_id=mask.message_id,
                reason=refusal[0],
                detail=refusal[1][:MAX_TEXT],
            )
        if mask.message_id not in self._accepted:
            self._accepted.add(mask.message_id)
            self._highest[mask.scope] = mask.sequence_no
            self._inbox[mask.scope] = mask
        return Ack(scan_token=token, message_id=mask.message_id)

    def _refusal(self, mask: MaskMessage) -> tuple[NackReason, str] | None:
        hello, scope = self.hello, mask.scope
        if mask.scan_token != hello.scan_token:
            return "foreign", "this mask is for another scan"
        if scope in self._applied:
            # A repeat of the very mask in force lost its ack on the way.
            same = self._applied[scope] == mask.message_id
            return None if same else ("late", f"{scope} is being measured already")
        highest = self._highest.get(scope, -1)
        if mask.message_id not in self._accepted and mask.sequence_no <= highest:
            return "stale", f"sequence_no {mask.sequence_no} after {highest}"
        if (mask.ky_min, mask.ky_max) != (hello.ky_min, hello.ky_max):
            return "invalid", f"window: {mask.ky_min}..{mask.ky_max} is not that of the hello"
        wrong = check_mask(hello, mask.counters) or check_scope(hello, scope)
        return ("invalid", wrong) if wrong else None
