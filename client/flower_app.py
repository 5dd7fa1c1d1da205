"""The site as a Flower `ClientApp`: decode, ask the site object, encode. Only a code leaves when something fails.

`make_app` wraps a site that stays in memory (`client.node`, `client.bundle_guard`). The module's own `app` is what an
unmodified ``flower-supernode`` starts, in a new process for every message: it opens the site of this hospital's own
site file each time, which costs seconds and no more, because sites keep on disk whatever must outlive a message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import Code, ConfigError, FedradError, MessageError
from common.messages import REQUESTS, Refusal, Reply, Request
from common.wire import Limits, decode_message, encode_message

Answer = Callable[[Request], Reply]
OnMalformed = Callable[[FedradError], None]

LOG = logging.getLogger("fedrad.site")
"""The site's own log; nothing written here leaves the hospital."""

SITE_KEY, SITE_VARIABLE = "site", "FEDRAD_SITE"
"""Under which a SuperNode is told the path of the site file: key of its node config, or environment variable."""


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
    return _app(lambda context: answer, limits or Limits(), on_malformed)


def _app(answer_of: Callable[[Context], Answer], limits: Limits, on_malformed: OnMalformed | None = None) -> ClientApp:
    made = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        def answer(request: Request) -> Reply:
            return answer_of(context)(request)

        return Message(_reply(message.content, answer, limits, on_malformed), reply_to=message)

    for register in (made.query, made.train, made.evaluate):
        register()(handle)
    return made


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


def _site_of(context: Context) -> Answer:
    """The answers of the hospital whose site file the SuperNode names: in its node config, or in its environment.

    Never in the run's configuration, which comes from outside.
    """
    from client.site import Site
    from client.site_file import load_site

    named = str(context.node_config.get(SITE_KEY, "") or os.environ.get(SITE_VARIABLE, ""))
    if not named:
        raise ConfigError("flower-supernode", [f"{SITE_KEY}: missing in --node-config, and {SITE_VARIABLE} is not set"])

    def answer(request: Request) -> Reply:
        site = Site(*load_site(Path(named)), lasting=False)
        try:
            return site.answer(request)
        finally:
            site.close()

    return answer


app = _app(_site_of, Limits())
"""What ``[tool.flwr.app]`` in pyproject.toml names."""
