"""The layout of the AION-1 release: read whatever its switches, written so that the release's own package loads it.

Differences from our own layout: modalities go by their upstream keys and nothing says what they mean (no manifest);
the fixed positions, the zero biases of bias-free norms and the token embeddings of the decoder are stored too, of which
the last are never used except for sequences (REFERENCE section 3). What the model has no use for is kept beside it as
`ExportOnly`, so that a release that was read is written again bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from aion_core.contract import AionError, InputError, TokenSpace, did_you_mean
from aion_core.files import read_json, read_safetensors, write_json, write_safetensors
from aion_core.hub import require
from aion_core.model.aion import AionModel
from aion_core.model.config import AionConfig
from aion_core.model.embeddings import position_table
from aion_core.model.initialise import initial
from aion_core.model.released_space import SEQUENCE_ROWS, released_space
from aion_core.release import CONFIG, LEFTOVERS, MANIFEST, WEIGHTS

#: What the release's code takes for a switch that its configuration leaves out; the others must be given.
DEFAULTS: dict[str, Any] = {
    "dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": True,
    "proj_bias": True, "mlp_bias": True, "gated_mlp": False, "qk_norm": False, "share_modality_embeddings": True,
    "num_register_tokens": 0, "decoder_sep_mask": True, "decoder_causal_mask": False,
}  # fmt: skip
REQUIRED = ("domains_in", "domains_out", "act_layer", "norm_bias")
#: Switches of its training, which change nothing in what a trained model computes.
TRAINING_ONLY = ("drop_path_rate_encoder", "drop_path_rate_decoder", "shared_drop_path", "use_act_checkpoint")
#: Written only where they differ from the default, as in the released files.
RARE = ("share_modality_embeddings", "num_register_tokens", "decoder_sep_mask", "decoder_causal_mask")

SIDES = ("encoder_embeddings", "decoder_embeddings")


@dataclass(frozen=True)
class ExportOnly:
    """What a release holds and a model does not use.

    `tensors` by name in the release; `config` are switches of its training; `provenance_names` are the names under
    which embeddings that encoder and decoder share are stored: either of two, or both.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance_names: frozenset[str] = frozenset()


def is_released(folder: Path) -> bool:
    """Whether a folder holds a model in the release's layout: a configuration with domains, and no manifest."""
    if (folder / MANIFEST).is_file() or not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG)
    return isinstance(config, dict) and "domains_in" in config


def load_released(folder: Path) -> AionModel:
    """Read a model of the release from a folder."""
    config, space, inputs, outputs = read_released_description(folder)
    path = require(folder, WEIGHTS)
    tensors, _ = read_safetensors(path)
    with torch.device("meta"):
        model = AionModel(config, space, inputs=inputs, outputs=outputs)
    state, names = _take_weights(model, tensors, path)
    leftovers = _check_leftovers(model, tensors, path)
    model.load_state_dict(state, assign=True)
    model.export_only = ExportOnly(leftovers, _read_config(folder / CONFIG)[3], names)
    return model.eval()


def read_released_description(folder: Path) -> tuple[AionConfig, TokenSpace, list[str], list[str]]:
    """Return the shape of a release, its token space, and the keys that can be given and asked for.

    Vocabularies and positions are read off its tensors, meanings off the installed plugins.
    """
    config, inputs, outputs, _ = _read_config(folder / CONFIG)
    path = require(folder, WEIGHTS)
    space = released_space(dict.fromkeys((*inputs, *outputs)), read_safetensors(path)[0], config.dim, path)
    return config, space, [space[name].key for name in inputs], [space[name].key for name in outputs]


def save_released(model: AionModel, folder: Path) -> None:
    """Write a model in the release's layout, the weights last; a manifest that lies there is removed."""
    config, tensors = released_config(model), released_tensors(model)
    # As safetensors does, name in the header where each embedding that has two names is stored.
    pairs = [names for own in model.state_dict() if len(names := _released_names(model, own)) == 2]
    aliases = {name: other for a, b in pairs for name, other in ((a, b), (b, a)) if name not in tensors}
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, MANIFEST, LEFTOVERS):  # of a model that was there, which must not mix with this one
        (folder / name).unlink(missing_ok=True)
    write_json(folder / CONFIG, config)
    write_safetensors(folder / WEIGHTS, tensors, aliases)


# -- leftovers in our own layout -----------------------------------------------------------------------------------


def write_leftovers(model: AionModel, folder: Path) -> None:
    """Write what a release held besides the model, so that it survives being saved in our own layout."""
    rest = model.export_only
    if rest is None:
        (folder / LEFTOVERS).unlink(missing_ok=True)
        return
    header = {"config": json.dumps(dict(rest.config)), "provenance_names": json.dumps(sorted(rest.provenance_names))}
    write_safetensors(folder / LEFTOVERS, rest.tensors, header)


def read_leftovers(folder: Path) -> ExportOnly | None:
    """Read what `write_leftovers` wrote, if it wrote anything."""
    path = folder / LEFTOVERS
    if not path.is_file():
        return None
    tensors, header = read_safetensors(path)
    try:
        config, names = json.loads(header["config"]), json.loads(header["provenance_names"])
        return ExportOnly(tensors, dict(config), frozenset(names))
    except (KeyError, ValueError, TypeError):
        raise InputError(f"{path} has no header as aion-core writes it; delete it to do without it.") from None


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_config(path: Path) -> tuple[AionConfig, list[str], list[str], dict[str, Any]]:
    """Return the switches, the domains in and out, and the switches of the release's training."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a JSON object.")
    if missing := [name for name in REQUIRED if name not in values]:
        raise InputError(f"{path} does not say {missing[0]!r}, which every AION-1 configuration says.")
    known = {*DEFAULTS, *REQUIRED, *TRAINING_ONLY}
    if unknown := sorted(set(values) - known):
        raise InputError(
            f"{path} has {unknown[0]!r}, which is no switch of AION-1's.{did_you_mean(unknown[0], known)} "
            "It may change what the model computes, so nothing is loaded; remove it if it does not."
        )
    inputs, outputs = (_domains(path, values, name) for name in ("domains_in", "domains_out"))
    switches = {k: v for k, v in (DEFAULTS | values).items() if k in AionConfig.model_fields}
    try:
        config = AionConfig(**switches)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "config"
        found = f" {first['input']!r}" if first["loc"] else ""
        raise InputError(f"{path}: {where}{found}: {first['msg'].removeprefix('Value error, ')}.") from None
    return config, inputs, outputs, {k: values[k] for k in TRAINING_ONLY if k in values}


def _domains(path: Path, values: Mapping[str, Any], name: str) -> list[str]:
    domains = values[name]
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) for d in domains):
        raise InputError(f"{path}: {name} is a list of modalities, not {domains!r}.")
    if len(set(domains)) < len(domains):
        raise InputError(f"{path}: {name} names a modality twice.")
    return domains


def _take_weights(model: AionModel, tensors: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Take a model's parameters out of a release's tensors; return them, and the names of what is shared."""
    state, provenance = {}, set()
    for own, parameter in model.state_dict().items():
        names = _released_names(model, own)
        found = [name for name in names if name in tensors]
        if not found:
            raise InputError(f"{path} has no {names[0]}, which its configuration asks for.")
        first, *others = [tensors.pop(name) for name in found]
        if others and not torch.equal(first, others[0]):
            raise InputError(
                f"{path}: {found[0]} and {found[1]} differ, but the configuration says that they are one "
                "(share_modality_embeddings)."
            )
        _check_tensor(found[0], first, parameter.shape, path)
        state[own] = first.to(torch.float32)
        provenance |= set(found) if len(names) > 1 else set()
    return state, frozenset(provenance)


def _check_leftovers(model: AionModel, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Check what the model has no use for; return what cannot be made again when it is exported."""
    zeros, tables, unused = set(_zero_biases(model)), _position_tables(model), _unused(model)
    kept = {}
    for name, tensor in tensors.items():
        if name in zeros:
            if tensor.any():
                raise InputError(
                    f"{path}: {name} is not zero, but the configuration says that norms have no bias (norm_bias)."
                )
        elif name in tables:
            if not torch.equal(tensor, tables[name]):  # checked with the token space; a rounding apart
                kept[name] = tensor
        elif name in unused:
            _check_tensor(name, tensor, unused[name], path)
            kept[name] = tensor
        else:
            raise InputError(
                f"{path} has {name}, which its configuration has no place for; the two are not of one model."
            )
    return kept


def _check_tensor(name: str, tensor: Tensor, shape: torch.Size, path: Path) -> None:
    if tensor.shape != shape:
        raise InputError(f"{path}: {name} is {list(tensor.shape)}; the configuration expects {list(shape)}.")
    if not tensor.is_floating_point():
        raise InputError(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers.")


# -- writing ---------------------------------------------------------------------------------------------------------


def released_config(model: AionModel) -> dict[str, Any]:
    """Return the configuration of a model as the release writes it."""
    switches = {k: v for k, v in model.config.model_dump().items() if k not in RARE or v != DEFAULTS[k]}
    if float(ratio := switches["mlp_ratio"]).is_integer():
        switches["mlp_ratio"] = int(ratio)  # as the release writes it
    upstream = {key: _upstream(model, key) for key in model.space.keys}
    domains = {
        "domains_in": [upstream[key] for key in model.encoder_embeddings],
        "domains_out": [upstream[key] for key in model.decoder_embeddings],
    }
    return dict(sorted({**switches, **(model.export_only or ExportOnly()).config, **domains}.items()))


def released_tensors(model: AionModel) -> dict[str, Tensor]:
    """Return all tensors of a model by name as the release stores them.

    Those that the model has no use for are the ones it was read with, else initial values.
    """
    rest = model.export_only or ExportOnly()
    tensors: dict[str, Tensor] = {}
    for own, tensor in model.state_dict().items():
        names = _released_names(model, own)
        stored = [name for name in names if name in rest.provenance_names] or names[:1]
        tensors |= {name: tensor if name == stored[0] else tensor.clone() for name in stored}
    norms = {name: tensors[f"{name.removesuffix('bias')}weight"] for name in _zero_biases(model)}
    tensors |= {name: torch.zeros_like(weight) for name, weight in norms.items()} | _position_tables(model)
    tensors |= {n: rest.tensors[n] if n in rest.tensors else initial(n, s, 0) for n, s in _unused(model).items()}
    return tensors | {name: tensor for name, tensor in rest.tensors.items() if name in tensors}


# -- names -----------------------------------------------------------------------------------------------------------


def _upstream(model: AionModel, key: str) -> str:
    name = model.space[key].spec.upstream_key
    if name is None:
        raise AionError(
            f"{key} has no name in the AION-1 release, so its layout cannot hold this model; "
            "aion-core's own layout can (--layout aion)."
        )
    return name


def _released_names(model: AionModel, own: str) -> list[str]:
    """Return the names that a parameter may have in the release, the usual one first."""
    side, _, rest = own.partition(".")
    if side not in SIDES:
        return [own]
    key, _, rest = rest.partition(".")
    names = [f"{side}.{_upstream(model, key)}.{rest}"]
    if model.config.share_modality_embeddings and rest == "mod_emb" and {key} <= model.inputs & model.outputs:
        names.insert(0, f"{SIDES[1]}.{_upstream(model, key)}.{rest}")
    return names


def _zero_biases(model: AionModel) -> Iterator[str]:
    """Names of the biases that norms without a bias store all the same."""
    if not model.config.norm_bias:
        for name in model.state_dict():
            if "norm" in name and name.endswith(".weight") and name.partition(".")[0] not in SIDES:
                yield f"{name.removesuffix('weight')}bias"


def _embeddings(model: AionModel) -> Iterator[tuple[str, str]]:
    """Yield the name in the release and the key of each modality on each side."""
    for side in SIDES:
        for key in getattr(model, side):
            yield f"{side}.{_upstream(model, key)}", key


def _position_tables(model: AionModel) -> dict[str, Tensor]:
    rows = {s.key: SEQUENCE_ROWS if s.position == "seq1d" else s.n_tokens for s in model.space.specs()}
    return {
        f"{name}.pos_emb": position_table(model.space[key].spec, model.config.dim, rows[key])[None]
        for name, key in _embeddings(model)
    }


def _unused(model: AionModel) -> dict[str, torch.Size]:
    """Names and shapes of the decoder's token embeddings that are never trained."""
    masked = {s.key: s.vocab_size for s in model.space.specs() if s.order == "masked"}
    return {
        f"{name}.token_emb.weight": torch.Size((masked[key], model.config.dim))
        for name, key in _embeddings(model)
        if name.startswith(SIDES[1]) and key in masked
    }
