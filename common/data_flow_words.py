"""What each kind of message carries, in the words of the report and of the approval of a study at a hospital."""

from __future__ import annotations

from collections.abc import Mapping

WHAT_LEFT: Mapping[str, str] = {
    "Welcome": "The site's name and the versions of its software.",
    "Prepared": "Numbers of cases: listed, usable, excluded by code; names of the features and of ComBat's batches.",
    "StatisticSums": "Sums over the training cases that the study's statistics are made of; their number.",
    "LocalUpdate": "The change of the model's parameters, one training loss, the number of cases.",
    "EvaluationSums": "Counts of test cases by class and by bin of the predicted probability, sums of errors.",
    "KeysAdvertised": "Public keys for one masked sum, with the hospital's certificate and signature.",
    "SharesSealed": "Parts of the hospital's secret masks, sealed for the other hospitals.",
    "MaskedValues": "An answer under masks: random numbers until all hospitals' masks cancel in the sum.",
    "Consistent": "A signature of which hospitals are in the sum.",
    "Unmasked": "Parts of masks: the sum can be read, no hospital's share in it.",
    "Done": "An acknowledgement.",
    "Refusal": "An error code, nothing else.",
}
"""By kind of reply; a reply kind of which nothing is said here is a fault that a test finds."""

WHAT_CAME: Mapping[str, str] = {
    "Hello": "the study's digest and the coordinator's versions",
    "Prepare": "the request to check and measure the cases; learned landmarks of images",
    "AskStatistic": "which sums are wanted, the steps and landmarks learned so far",
    "Train": "the model's parameters, the learned table steps and landmarks",
    "Evaluate": "the finished model, the learned table steps and landmarks",
    "AdvertiseKeys": "the request to make keys for a masked sum",
    "ShareKeys": "the public keys of all hospitals",
    "MaskedInput": "a question to be answered under masks",
    "ConsistencyCheck": "the names of the hospitals in a sum",
    "Unmask": "the signatures of the hospitals in a sum",
    "Finish": "the end of the run",
}
"""By kind of request: what reached the hospital."""


def readable_bytes(n: int) -> str:
    """Bytes in decimal units, as networks count them."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{n} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError("unreachable: GB has no upper end")
