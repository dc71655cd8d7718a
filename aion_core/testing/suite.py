"""The rules in the order in which they are put, and what becomes of all of them."""

from __future__ import annotations

from collections.abc import Collection

from aion_core.contract import InputError, did_you_mean
from aion_core.testing import behaviour, decoding, golden, identity, readers, sharing, simulators, static
from aion_core.testing.rules import Outcome, Rule
from aion_core.testing.subject import Subject

RULES: tuple[Rule, ...] = (
    # what is declared
    static.imports,
    static.prefix,
    static.declarations,
    static.unique,
    static.distribution,
    static.import_strings,
    static.round_trip,
    static.unit_and_quantity,
    static.provenance_is_written_out,
    golden.identity_is_kept,
    # encoding
    decoding.tokenizer_is_made,
    behaviour.dtype_and_shape,
    behaviour.codes_in_range,
    behaviour.deterministic,
    behaviour.input_left_alone,
    behaviour.independent_of_the_batch,
    behaviour.nothing_valid_is_minus_one,
    behaviour.bad_pixels_do_not_count,
    behaviour.survives_what_surveys_contain,
    # decoding
    decoding.every_code_decodes,
    decoding.decodes,
    decoding.takes_back_what_it_decodes,
    decoding.within_its_bound,
    behaviour.refuses_what_is_not_its_own,
    # what a tokenizer is
    identity.saved_and_read,
    identity.fingerprint_has_the_preprocessing,
    identity.fingerprint_has_the_weights,
    identity.fingerprint_has_the_settings,
    identity.fingerprint_has_no_decoder,
    golden.golden_tokens,
    # simulators and readers
    simulators.writes_files,
    simulators.simulates_the_same_again,
    *readers.RULES,
    simulators.is_read_back,
    simulators.objects_are_where_they_were,
    simulators.round_trip_gives_tokens,
    # elsewhere
    sharing.tokens_are_the_same_in_threads,
    sharing.tokens_are_the_same_on_a_gpu,
    static.light_import,
    static.stands_alone,
    static.same_declarations,
    identity.fingerprint_is_the_same_elsewhere,
    sharing.tokens_are_the_same_elsewhere,
)


def chosen(names: Collection[str] | None) -> list[Rule]:
    """Return the rules of some names (default: all).

    Raises
    ------
    InputError
        If a name is unknown.
    """
    known = {rule.name: rule for rule in RULES}
    for name in names or ():
        if name not in known:
            raise InputError(f"There is no rule {name!r}.{did_you_mean(name, known)} Rules: {', '.join(known)}.")
    return [rule for rule in RULES if not names or rule.name in names]


def put(rule: Rule, subject: Subject) -> list[Outcome]:
    """Put a rule to every part of a plugin that it is about."""
    if rule.scope == "plugin":
        return [rule.put(subject)]
    return [rule.put(subject, part) for part in subject.parts(rule.scope).values()]
