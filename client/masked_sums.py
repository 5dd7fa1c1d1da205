"""A site's part in masked sums: whose sum it may be, which question, and that no second sum tells one site apart.

The steps themselves are `common.privacy.masking.MaskingSite`; here stands what this hospital decides before each:

- the cohort is one that the study names, whole: the coordinator cannot choose who is summed with whom;
- the question is the one that all sites signed for;
- a statistic is summed over every hospital of the cohort or not at all, as without masks;
- one round is summed once, and one evaluation over one set of hospitals: two sums of the same numbers over two sets
  would differ by single hospitals. Which sets were summed is in this hospital's audit log.

Secrets are in memory alone. A site that restarts within a session has lost them, and is a dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from client.asked_questions import question_of
from client.credentials import Credentials
from client.noised_words import NoisedWords, Words, is_noised
from client.sum_record import SUMMED, SumRecord
from common.codec import message_digest
from common.config.secure_aggregation import ALL_SITES, SecureAggregationConfig, cohorts, sum_plan
from common.config.shared_grids import private_grid_of
from common.config.site import SiteConfig
from common.config.site_level import shared_noise
from common.config.study import StudyConfig
from common.errors import GateError, PrivacyError
from common.masking_messages import AdvertiseKeys, ConsistencyCheck, MaskedValues, ShareKeys
from common.messages import (
    AskStatistic,
    Evaluate,
    LocalUpdate,
    MaskedInput,
    MaskingReply,
    MaskingRequest,
    Question,
    Train,
)
from common.privacy.contribution import Summable, to_words
from common.privacy.discrete_gaussian import NoiseShare
from common.privacy.mask_keys import Terms
from common.privacy.masking import MaskingSite
from common.rng import SystemNoise

Answer = Callable[[Question], Summable]


@dataclass
class _Session:
    """One sum under way, with what was answered: a request that comes again, as it was, gets the same reply."""

    study: StudyConfig
    site: MaskingSite
    answered: dict[type, tuple[str, MaskingReply]] = field(default_factory=dict)
    question: Question | None = None
    included: tuple[str, ...] = ()


class MaskedSums:
    """All masked sums that a site takes part in, one at a time.

    Parameters
    ----------
    record : SumRecord
        Which sums this hospital's numbers have gone into.
    lasting : bool
        False where the process ends after every message: it takes part in no sum, for its keys would end with it.
    """

    def __init__(
        self, config: SiteConfig, record: SumRecord, credentials: Callable[[], Credentials], *, lasting: bool = True
    ) -> None:
        self._lasting = lasting
        self._config = config
        self._record = record
        self._credentials = credentials
        self._session: _Session | None = None
        self._used: set[str] = set()
        self._noised = NoisedWords(config.state)

    def require_possible(self, study: StudyConfig) -> None:
        """Raise where this hospital would not take part in the study's sums, before any work is done.

        Raises
        ------
        GateError
            If the study's sums are over fewer hospitals than this one demands, or this process keeps no keys.
        StateError
            If this hospital's key, certificate or authorities cannot be used.
        """
        settings = study.privacy.secure_aggregation
        if settings is not None:
            if not self._lasting:
                raise GateError(
                    "this study adds up its answers under masks, whose keys stay in memory between messages; "
                    "a plain flower-supernode starts a process for every message: use fedrad site supernode"
                )
            for cohort in cohorts(study).values():
                self._require_enough(settings, cohort)
            self._credentials()

    def answer(self, request: MaskingRequest, study: StudyConfig, answer: Answer) -> MaskingReply:
        """The reply to a step; ``answer`` computes what is masked.

        Raises
        ------
        PrivacyError
            Where the step is not the next one as agreed; the session is over then, as after any other failure.
        """
        session = self._begin(request, study) if isinstance(request, AdvertiseKeys) else self._running(request)
        digest = message_digest(request)
        if type(request) in session.answered:
            known, reply = session.answered[type(request)]
            if known != digest:
                self._end()
                raise PrivacyError(f"{type(request).__name__} was asked twice in one session, with another content")
            return reply
        try:
            reply = self._step(session, request, answer)
        except BaseException:
            self._end()
            raise
        session.answered[type(request)] = (digest, reply)
        return reply

    def close(self) -> None:
        """Give up the session that is under way."""
        self._end()

    def finish(self, study_digest: str, *, completed: bool) -> None:
        """The run is over; of a completed study nothing will be asked again."""
        self._end()
        if completed:
            self._noised.forget(study_digest)

    def _begin(self, request: AdvertiseKeys, study: StudyConfig) -> _Session:
        if self._session is not None and self._session.site.terms.session == request.session:
            return self._session
        settings = study.privacy.secure_aggregation
        if settings is None:
            raise PrivacyError("this study does not add up its answers under masks")
        if request.session in self._used:
            raise PrivacyError(f"session {request.session[:8]} is over, and begins once")
        if request.cohort not in cohorts(study).values() or self._config.site not in request.cohort:
            raise PrivacyError(f"a sum over {', '.join(request.cohort)} is none that the study names")
        least = self._require_enough(settings, request.cohort)
        credentials = self._credentials()
        self._end()
        terms = Terms(request.study_digest, request.session, request.asked, request.cohort, least)
        site = MaskingSite(
            terms, site=self._config.site, signer=credentials.signer, authorities=credentials.authorities
        )
        self._used.add(request.session)
        self._session = _Session(study, site)
        return self._session

    def _running(self, request: MaskingRequest) -> _Session:
        session = self._session
        if session is None or session.site.terms.session != request.session:
            raise PrivacyError(
                f"session {request.session[:8]} is not under way here: it is over, or this site was restarted"
            )
        if session.site.terms.study_digest != request.study_digest:
            raise PrivacyError("the session is of another study")
        return session

    def _step(self, session: _Session, request: MaskingRequest, answer: Answer) -> MaskingReply:
        if isinstance(request, AdvertiseKeys):
            if request.asked != session.site.terms.asked or request.cohort != session.site.terms.cohort:
                raise PrivacyError("a session is about one question and one cohort")
            return session.site.advertise()
        if isinstance(request, ShareKeys):
            return session.site.share(request.roster)
        if isinstance(request, MaskedInput):
            return self._masked(session, request, answer)
        if isinstance(request, ConsistencyCheck):
            self._require_one_sum(session, request.included)
            session.included = request.included
            return session.site.sign(request.included, request.sealed)
        self._write(session)
        return session.site.unmask(request.signatures)

    def _masked(self, session: _Session, request: MaskedInput, answer: Answer) -> MaskedValues:
        question, terms = request.request, session.site.terms
        if message_digest(question) != terms.asked or question.study_digest != terms.study_digest:
            raise PrivacyError("this is not the question that all sites of the session signed for")
        trains = not isinstance(question, Evaluate) or question.split == "train"
        if trains and terms.cohort != cohorts(session.study)[ALL_SITES]:
            raise PrivacyError(f"{type(question).__name__} is a question to the sites that train")
        if not isinstance(question, AskStatistic):
            self._require_not_another(session.study, question, None)
        layout, words = self._words(session.study, question, terms.cohort, answer)
        session.question = question
        masked = session.site.mask(words, request.sharers)
        return MaskedValues(layout, masked.wide, masked.narrow)

    def _words(self, study: StudyConfig, question: Question, cohort: tuple[str, ...], answer: Answer) -> Words:
        """Of the answer; those of a round with noise in it are drawn once (`client.noised_words`)."""
        if not (isinstance(question, Train) and is_noised(study, question)):
            return _drawn(study, cohort, answer(question))
        asked = _asked(question)
        noised = self._noised.load(question, asked)
        if noised is None:
            if any(self._lines_about(question)):
                raise PrivacyError(
                    f"{_about(question)} was summed before, and its noisy words are not kept here any more: drawn "
                    "anew, they would be a second look at the same update"
                )
            noised = _drawn(study, cohort, answer(question))
            self._noised.keep(question, asked, noised)
        return noised

    def _require_enough(self, settings: SecureAggregationConfig, cohort: tuple[str, ...]) -> int:
        least, demanded = settings.least(len(cohort)), self._config.secure_aggregation.minimum_sites
        if least < demanded:
            raise GateError(f"the study adds up {least} of {len(cohort)} sites, this hospital demands {demanded}")
        return least

    def _require_one_sum(self, session: _Session, included: tuple[str, ...]) -> None:
        cohort, question = session.site.terms.cohort, session.question
        if isinstance(question, AskStatistic) and included != cohort:
            missing = ", ".join(sorted(set(cohort) - set(included)))
            raise PrivacyError(f"a statistic is summed over all sites or none; it lacks {missing}")
        if isinstance(question, Train | Evaluate):
            self._require_not_another(session.study, question, included)

    def _require_not_another(
        self, study: StudyConfig, question: Train | Evaluate, included: tuple[str, ...] | None
    ) -> None:
        """One round is asked once, with one content; one evaluation is summed over one set of sites."""
        about, asked = _about(question), _asked(question)
        for line in self._lines_about(question):
            if isinstance(question, Train) and line["asked"] != asked:
                raise PrivacyError(f"{about} was asked before with other parameters; a round is summed once")
            if included is not None and tuple(line["included"].split(",")) != included:
                raise PrivacyError(
                    f"{about} was summed before over {line['included']}: with a sum over {', '.join(included)} of "
                    f"{study.name} single sites could be told apart"
                )

    def _lines_about(self, question: Train | Evaluate) -> Iterator[Mapping[str, Any]]:
        about = _about(question)
        for line in self._record.read():
            if line["study"] == question.study_digest and line["about"] == about:
                yield line

    def _write(self, session: _Session) -> None:
        """On the disk before the shares leave."""
        question = session.question
        if isinstance(question, Train | Evaluate):
            self._record.write(
                SUMMED,
                study=question.study_digest,
                about=_about(question),
                asked=_asked(question),
                included=",".join(session.included),
            )

    def _end(self) -> None:
        if self._session is not None:
            self._session.site.wipe()
        self._session = None


def _drawn(study: StudyConfig, cohort: tuple[str, ...], reply: Summable) -> Words:
    """Layout and words of an answer; where the study protects whole hospitals, with this one's share of the noise."""
    settings = study.privacy.secure_aggregation
    source = SystemNoise() if settings and settings.rounding == "stochastic" else None
    share = None
    if isinstance(reply, LocalUpdate) and study.privacy.site_level is not None:
        share = _noise_share(study, cohort, reply)
    return to_words(reply, sum_plan(study, cohort), source=source, share=share)


def _noise_share(study: StudyConfig, cohort: tuple[str, ...], update: LocalUpdate) -> NoiseShare:
    if update.compressed:
        private = private_grid_of(study, size=update.compressed[0].size // 2)
        if private is None:
            raise PrivacyError("a compressed update of a study whose updates have no grid")
        return private.noise.share
    return shared_noise(study, cohort, size=update.delta.size).share


def _asked(question: Train | Evaluate) -> str:
    """The question's SHA-256; the same whether its model came whole or as a difference."""
    return question_of(question).sha256


def _about(question: Train | Evaluate) -> str:
    if isinstance(question, Train):
        return f"round {question.round_number} of {question.model} in fold {question.fold}"
    return f"evaluation of {question.model} on {question.split} cases of fold {question.fold}"
