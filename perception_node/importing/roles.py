"""Which of a network's outputs is which of the tensors that a family takes.

The shapes that the families state (`Fusion.inputs`) decide: an output can play a role if its rank, its type and its
sizes are the role's, where C is the number of classes, h and w are a whole stride of the input's height and width, and
one letter stands for one size in all roles. Where several outputs can, names decide; where those do not, the user must.
Of two sets of roles (masks in boxes, masks of the whole input) the one that uses more of the outputs is meant.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perception_node.engine import TensorSpec
from perception_node.errors import UserError
from perception_node.fusion import FAMILIES
from perception_node.fusion.base import Input
from perception_node.model import tensor_sets
from perception_node.taxonomy import Taxonomy

MAX_STRIDE = 64  # as in model.schema.yaml

WORDS = {
    "semantic": ("sem",),
    "center": ("center", "centre", "ctr", "heatmap"),
    "offset": ("offset", "off", "regression"),
    "foreground": ("foreground", "fg"),
    "class_logits": ("class", "cls", "pred_logits"),
    "mask_logits": ("mask",),
    "classes": ("class", "label"),
    "scores": ("score", "conf"),
    "boxes": ("box",),
    "masks28": ("mask",),
    "masks": ("mask",),
    "coefficients": ("coef",),
    "prototypes": ("proto",),
}
"""What names of such tensors contain in the networks' own repositories."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which output is which.

    Attributes:
        tensors: role -> name of the output.
        stride: input pixels for each pixel of the outputs.
        reasons: role -> why this output, for people.
    """

    tensors: Mapping[str, str]
    stride: int
    reasons: Mapping[str, str]


def match_outputs(
    family: str,
    outputs: Sequence[TensorSpec],
    taxonomy: Taxonomy,
    size_hw: tuple[int, int],
    given: Mapping[str, str],
) -> Match:
    """Finds the outputs that a family takes.

    Args:
        family: a key of perception_node.fusion.FAMILIES.
        outputs: of the network, all sizes known.
        taxonomy: the classes.
        size_hw: height and width of the input.
        given: role -> output, what the user said.

    Raises:
        UserError: no output, or several, can play a role; or the classes are not as many as the taxonomy's.
    """
    inputs = FAMILIES[family].inputs
    _check_given(family, inputs, outputs, given)
    sizes = {"C": len(taxonomy), "S": (len(taxonomy), len(taxonomy.thing_ids))}
    matches = _matches(family, outputs, sizes, size_hw, given)
    if not matches:
        raise UserError(_why_none(family, outputs, sizes, size_hw, given))
    most = max(map(len, matches))
    matches = [match for match in matches if len(match) == most]
    named = [_named(match) for match in matches]
    best = [match for match, count in zip(matches, named, strict=True) if count == max(named)]
    if len(best) > 1:
        raise UserError(_why_several(best, outputs, given))
    tensors = dict(best[0])
    reasons = {}
    for role, name in tensors.items():
        others = {match[role] for match in matches} - {name}
        if role in given:
            reasons[role] = "as you said"
        else:
            reasons[role] = "by its name" if others else "the only one of its shape and type"
    for role, name in _optional(family, outputs, sizes, given, tensors).items():
        tensors[role], reasons[role] = name, "as you said" if role in given else "by its name"
    stride = _stride(tensors, inputs, outputs, size_hw)
    assert stride, "matches have one"
    return Match(tensors, stride, reasons)


def describe(outputs: Sequence[TensorSpec]) -> str:
    """Tensors for people, e.g. "logits float32 (1, 19, 64, 128), boxes float32 (1, 100, 4)"."""
    return ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in outputs)


def wanted(family: str, roles: Sequence[str]) -> str:
    """What a family takes, for people, e.g. "semantic (1, C, h, w), center (1, 1, h, w)"."""
    return ", ".join(f"{role} (1, {FAMILIES[family].inputs[role].shape.replace(' ', ', ')})" for role in roles)


def _check_given(
    family: str, inputs: Mapping[str, Input], outputs: Sequence[TensorSpec], given: Mapping[str, str]
) -> None:
    for role, name in given.items():
        if role not in inputs:
            raise UserError(f"tensor {role}={name}: {family} has no such; expected: {wanted(family, list(inputs))}")
        if name not in [spec.name for spec in outputs]:
            raise UserError(f"tensor {role}={name}: the network has no such output; it has {describe(outputs)}")


def _matches(
    family: str,
    outputs: Sequence[TensorSpec],
    sizes: Mapping[str, Any],
    size_hw: tuple[int, int],
    given: Mapping[str, str],
    strict_stride: bool = True,
) -> list[dict[str, str]]:
    """Every way to give a different output to each role of one of the family's sets of tensors."""
    inputs, sets = FAMILIES[family].inputs, tensor_sets(family)
    said = given.keys() & {role for roles in sets for role in roles}
    found = []
    for roles in sets:
        if not said <= set(roles):
            continue
        alone = [
            [
                spec
                for spec in outputs
                if given.get(role, spec.name) == spec.name and _bind(spec, inputs[role], sizes) is not None
            ]
            for role in roles
        ]
        for specs in itertools.product(*alone):
            bound = dict(sizes)
            for role, spec in zip(roles, specs, strict=True):
                bound = bound and _bind(spec, inputs[role], bound)
            tensors = {role: spec.name for role, spec in zip(roles, specs, strict=True)}
            fits = bound and len(set(tensors.values())) == len(roles)
            if fits and (not strict_stride or _stride(tensors, inputs, outputs, size_hw)):
                found.append(tensors)
    return found


def _bind(spec: TensorSpec, role: Input, sizes: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the letters stand for if the output plays the role; None if it cannot. S stands for any of several sizes."""
    symbols = role.shape.split()
    if len(spec.shape) != 1 + len(symbols) or spec.shape[0] != 1 or spec.dtype not in role.network_dtypes:
        return None
    bound = dict(sizes)
    for symbol, size in zip(symbols, spec.shape[1:], strict=True):
        letter, _, more = symbol.partition("+")
        if symbol.isdigit():
            right = size == int(symbol)
        elif letter == "S":
            right = size in bound[letter]
        elif letter in "HW":  # masks of the whole input, of any resolution
            right = size > 0
        else:
            right = bound.setdefault(letter, size - int(more or 0)) + int(more or 0) == size
            right &= size > 0 or letter == "N"
        if not right:
            return None
    return bound


def _stride(
    tensors: Mapping[str, str],
    inputs: Mapping[str, Input],
    outputs: Sequence[TensorSpec],
    size_hw: tuple[int, int],
) -> int | None:
    """The whole number of input pixels for each output pixel, in both directions; None if there is no such.

    Where a network pads, several round up to the same size (520 / 32 and 520 / 31 to 17): those that divide the input
    come first, then powers of two.
    """
    shapes = {spec.name: spec.shape for spec in outputs}
    hw = next(shapes[name][-2:] for role, name in tensors.items() if inputs[role].shape.endswith(" h w"))
    pairs = list(zip(size_hw, hw, strict=True))
    strides = [s for s in range(1, MAX_STRIDE + 1) if all(-(-size // s) == own for size, own in pairs)]
    likely = [s for s in strides if all(size == own * s for size, own in pairs)]
    likely += [s for s in strides if s.bit_count() == 1]
    return next(iter((*likely, *strides)), None)


def _named(tensors: Mapping[str, str]) -> int:
    """How many of the outputs have names that tell their roles."""
    return sum(name == role or any(word in name.lower() for word in WORDS[role]) for role, name in tensors.items())


def _optional(
    family: str,
    outputs: Sequence[TensorSpec],
    sizes: Mapping[str, Any],
    given: Mapping[str, str],
    tensors: Mapping[str, str],
) -> dict[str, str]:
    """Roles that a family can do without, if an output is named so."""
    inputs, found = FAMILIES[family].inputs, {}
    bound = dict(sizes)
    for role, name in tensors.items():
        bound = _bind(next(spec for spec in outputs if spec.name == name), inputs[role], bound)
    choices = {role for roles in tensor_sets(family) for role in roles}
    for role, taken in inputs.items():
        if role in choices or not taken.optional:
            continue
        for spec in outputs:
            named = given[role] == spec.name if role in given else _named({role: spec.name})
            free = spec.name not in (*tensors.values(), *found.values())
            if free and named and _bind(spec, taken, bound) is not None:
                found[role] = spec.name
                break
        else:
            if role in given:
                raise UserError(f"tensor {role}={given[role]}: expected: {wanted(family, [role])} like the others")
    return found


def _why_none(
    family: str,
    outputs: Sequence[TensorSpec],
    sizes: Mapping[str, Any],
    size_hw: tuple[int, int],
    given: Mapping[str, str],
) -> str:
    has = f"the network has {describe(outputs)}"
    roles = next(iter(tensor_sets(family)))
    free = {"S": range(1, 1 << 16)}
    other_classes = _matches(family, outputs, free, size_hw, given)
    if other_classes and "C" in " ".join(FAMILIES[family].inputs[role].shape for role in roles):
        inputs, shapes = FAMILIES[family].inputs, {spec.name: spec for spec in outputs}
        role, name = next((r, n) for r, n in other_classes[0].items() if "C" in inputs[r].shape)
        classes = _bind(shapes[name], inputs[role], free)["C"]
        void = " and no object" if "+" in inputs[role].shape else ""
        return (
            f"{name} {shapes[name].shape} has {classes} classes{void}, but the taxonomy has {sizes['C']}; "
            "expected: the taxonomy that the network was trained with, in its order"
        )
    if crooked := _matches(family, outputs, sizes, size_hw, given, strict_stride=False):
        name = next(n for r, n in crooked[0].items() if FAMILIES[family].inputs[r].shape.endswith(" h w"))
        shape = next(spec.shape for spec in outputs if spec.name == name)
        return (
            f"{name} {shape} is not the {size_hw[0]}x{size_hw[1]} input at a whole stride up to {MAX_STRIDE}; "
            "expected: another --size, e.g. multiples of 32, or an export without the odd resize"
        )
    maps = [spec for spec in outputs if spec.dtype.startswith(("int", "uint")) and 2 < len(spec.shape) < 5]
    if maps and "semantic" in roles:
        return (
            f"{describe(maps[:1])} holds class ids, not logits, and where the argmax was taken cannot be seen; "
            "expected: an export that ends before the argmax, with logits (1, C, h, w)"
        )
    names = " or ".join(wanted(family, roles) for roles in tensor_sets(family))
    return f"{family} takes {names} with C = {sizes['C']}; {has}; if a tensor is another one: --tensor ROLE=NAME"


def _why_several(matches: Sequence[Mapping[str, str]], outputs: Sequence[TensorSpec], given: Mapping[str, str]) -> str:
    shapes = {spec.name: spec for spec in outputs}
    roles = dict.fromkeys(role for match in matches for role in match)
    for role in roles:
        names = list(dict.fromkeys(match[role] for match in matches))
        if len(names) > 1 and role not in given:
            candidates = describe([shapes[name] for name in names])
            return f"{role} can be any of {candidates}; expected: --tensor {role}=NAME"
    return f"the outputs can be {' or '.join(map(str, matches))}; expected: --tensor ROLE=NAME"
