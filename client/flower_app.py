"""The site as a Flower `ClientApp`: decode, ask the site object, encode. Only a code leaves when something fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import Code, FedradError, MessageError
from common.messages import REQUESTS, Refusal, Reply, Request
from common.wire import Limits, decode_message, encode_message

Answer = Callable[[Request], Reply]
OnMalformed = Callable[[FedradError], None]

LOG = logging.getLogger("fedrad.site")
"""The site's own log; nothing written here leaves the hospital."""


def make_app(answer: Answer, *, limits: Limits | None = None, on_malformed: OnMalformed | None = None) -> ClientApp:
    """A `ClientApp` that puts every message to ``answer``.

    All message types of Flower lead to the same function, because a fedrad message names its own kind.

    Parameters
    ----------
    answer : callable
        ``Site.answer``.
    limits : Limits, optional
        What a request may measure.
    on_malformed : callable, optional
        Told why what arrived is no request; it never reaches ``answer``.
    """
    accepted = limits or Limits()
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return Message(_reply(message.content, answer, accepted, on_malformed), reply_to=message)

    for register in (app.query, app.train, app.evaluate):
        register()(handle)
    return app


def _reply(record: RecordDict, answer: Answer, limits: Limits, on_malformed: OnMalformed | None = None) -> RecordDict:
    """The encoded reply; a failure becomes a `Refusal` whose text stays here."""
    try:
        request = decode_message(record, limits)
        if not isinstance(request, REQUESTS):
            raise MessageError(f"{type(request).__name__} is not a request")
        return encode_message(answer(cast(Request, request))).record
    except FedradError as error:
        LOG.warning("refused: %s", error)
        if on_malformed is not None:
            on_malformed(error)
        return encode_message(Refusal(error.code)).record
    except Exception:  # whatever a library raises, its text must not leave the site
        LOG.exception("failed")
        return encode_message(Refusal(Code.INTERNAL)).record
