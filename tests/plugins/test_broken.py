"""A broken plugin is told of and harms no other: all faults at once, in a process beside the real plugins."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

from aion_core.plugins import load_registry

ASK = """
import json, sys
from aion_core.contract import AionError
from aion_core.plugins import load_registry
registry, answers = load_registry(), {}
for key in sys.argv[1:]:
    try:
        answers[key] = registry.resolve(key).key
    except AionError as error:
        answers[key] = [type(error).__name__, str(error)]
print(json.dumps(answers))
"""


def ask(broken, folder, *keys, **environment):
    done = broken.python(folder, "-c", ASK, *keys, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_fault_is_told_once_with_its_stage_reason_and_distributions(case, document, broken):
    failures = broken.failures_of(case, document)
    assert len(failures) == 1
    (failure,) = failures
    assert failure["stage"] == case.stage
    assert all(words in failure["reason"] for words in case.reason), failure["reason"]
    assert set(failure["distributions"]) == {f"{name} 1.0" for name in case.distributions}


def test_a_fault_costs_its_own_keys_and_no_others(case, document, broken):
    (failure,) = broken.failures_of(case, document)
    assert tuple(failure["keys"]) == case.disabled
    usable = {modality["key"] for modality in document["modalities"]}
    assert usable.isdisjoint(case.disabled)
    assert usable.issuperset(case.survivors)


def test_nothing_is_told_of_plugins_without_fault(document, broken):
    faulty = {name for case in broken.CASES for name in case.distributions}
    told = {d.split()[0] for failure in document["failures"] for d in failure["distributions"]}
    assert told == faulty


def test_every_real_modality_is_still_there(document):
    usable = {modality["key"] for modality in document["modalities"]}
    assert usable.issuperset(load_registry().modalities)
    assert len(load_registry().plugins) == len(entry_points(group="aion.plugins"))


def test_using_a_disabled_key_names_both_distributions(everything, broken):
    conflicts = [case for case in broken.CASES if case.disabled]
    answers = ask(broken, everything, *(key for case in conflicts for key in case.disabled))
    for case in conflicts:
        for key in case.disabled:
            name, message = answers[key]
            assert name == "DisabledKeyError"
            assert all(f"{distribution} 1.0" in message for distribution in case.distributions), message


def test_using_a_disabled_upstream_key_says_the_same(everything, broken):
    name, message = ask(broken, everything, "up_flux")["up_flux"]
    assert name == "DisabledKeyError"
    assert "up-one 1.0" in message
    assert "up-two 1.0" in message


def test_using_a_key_of_a_plugin_that_did_not_load_tells_why(everything, broken):
    name, message = ask(broken, everything, "badhook_flux")["badhook_flux"]
    assert name == "DisabledKeyError"
    assert "bad-hook 1.0" in message
    assert "disk on fire" in message


def test_a_misspelt_key_is_unknown_with_the_nearest_one(everything, broken):
    name, message = ask(broken, everything, "noisy_fluks")["noisy_fluks"]
    assert name == "UnknownKeyError"
    assert "'noisy_flux'" in message


def test_two_distributions_may_share_a_plugin_name(document):
    usable = {modality["key"]: modality["plugin"] for modality in document["modalities"]}
    assert usable["pair_flux"] == usable["pair_mag"] == "pair"


def test_a_plugin_whose_metadata_is_empty_still_loads(document):
    (plugin,) = (plugin for plugin in document["plugins"] if plugin["name"] == "nameless")
    assert plugin["modalities"] == ["nameless_flux"]
    assert plugin["distribution"] == "unknown distribution"


def test_what_a_plugin_prints_stays_out_of_the_json(everything, broken, document):
    assert "noisy_flux" in {modality["key"] for modality in document["modalities"]}
    done = broken.python(everything, "-m", "aion_core.cli", "plugins", "--json")
    assert "at import" in done.stderr
    assert "in a hook" in done.stderr


def test_a_reader_keeps_only_the_modalities_that_are_installed(document):
    readers = {reader["name"]: reader["modalities"] for reader in document["readers"]}
    assert readers["okreader_files"] == ["okreader_flux"]


def test_the_variable_restricts_and_tells_a_name_that_is_absent(everything, broken):
    document = broken.report(everything, AION_PLUGINS="noisy, nosy")
    assert [plugin["name"] for plugin in document["plugins"]] == ["noisy"]
    (failure,) = document["failures"]
    assert (failure["plugin"], failure["stage"]) == ("nosy", "selection")
    assert "'noisy'" in failure["reason"]


def test_the_empty_variable_disables_all(everything, broken):
    document = broken.report(everything, AION_PLUGINS="")
    assert document["plugins"] == document["modalities"] == document["failures"] == []


def test_an_unknown_key_mentions_the_variable_that_hides_plugins(everything, broken):
    name, message = ask(broken, everything, "pair_flux", AION_PLUGINS="noisy")["pair_flux"]
    assert name == "UnknownKeyError"
    assert "AION_PLUGINS restricts the plugins to noisy" in message
