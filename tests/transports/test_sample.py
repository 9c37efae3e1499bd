"""Samples of JSON Schemas: valid where a value exists, small and harmless where the schema is not."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.transports.sample import sample

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def valid(value: Any, schema: Any, root: Any) -> bool:
    """The keywords that structured outputs know, checked as the JSON Schema standard says."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        found = root
        for part in schema["$ref"].split("/")[1:]:
            found = found[part.replace("~1", "/").replace("~0", "~")]
        if not valid(value, found, root):
            return False
    kinds = schema.get("type", list(TYPES))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    checks = [
        any(
            isinstance(value, TYPES[kind]) and (kind == "boolean") >= isinstance(value, bool)
            for kind in kinds
        ),
        "const" not in schema or value == schema["const"],
        "enum" not in schema or value in schema["enum"],
        all(valid(value, each, root) for each in schema.get("allOf", ())),
        "anyOf" not in schema or any(valid(value, each, root) for each in schema["anyOf"]),
        "oneOf" not in schema or sum(valid(value, each, root) for each in schema["oneOf"]) == 1,
    ]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        checks += [valid(value[name], each, root) for name, each in properties.items() if name in value]
        checks += [name in value for name in schema.get("required", ())]
        checks += [schema.get("additionalProperties", True) is not False or value.keys() <= properties.keys()]
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        checks += [valid(item, each, root) for item, each in zip(value, first, strict=False)]
        checks += [valid(item, schema.get("items", {}), root) for item in value[len(first) :]]
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)]
    if isinstance(value, str):
        checks += [schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)]
    if number:
        checks += [schema.get("minimum", value) <= value <= schema.get("maximum", value)]
        checks += [
            schema.get("exclusiveMinimum", value - 1) < value < schema.get("exclusiveMaximum", value + 1)
        ]
        checks += [value % schema.get("multipleOf", value or 1) == 0]
    return all(checks)


NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["value", "next"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name", "children"],
}
SCHEMAS: dict[str, Any] = {
    "object": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "number"}},
        "required": ["a"],
    },
    "nested": {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "boolean"}}}},
    },
    "no type": {"properties": {"a": {"type": "null"}}},
    "empty": {},
    "required without a schema": {"type": "object", "required": ["a"]},
    "enum": {"type": "string", "enum": ["red", "green"]},
    "const": {"const": None},
    "default": {"type": "integer", "default": 7},
    "nullable": {"type": ["string", "null"]},
    "null first": {"type": ["null", "string"]},
    "anyOf": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    "oneOf": {
        "oneOf": [
            {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
            {"type": "null"},
        ]
    },
    "allOf": {
        "allOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"const": 2}}, "required": ["b"]},
        ]
    },
    "anyOf beside properties": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "null"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 3},
    "no items allowed": {"type": "array", "items": {"type": "integer"}, "maxItems": 0},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]},
    "array of objects": {"type": "array", "items": {"type": "object", "properties": {"a": {"enum": [1]}}}},
    "definitions": {
        "$ref": "#/$defs/a~1b",
        "$defs": {"a/b": {"type": "object", "properties": {"x": {"type": "string"}}}},
    },
    "recursive list": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "recursive tree": TREE,
    "minimum": {"type": "integer", "minimum": 10},
    "fractional minimum of an integer": {"type": "integer", "minimum": 1.5},
    "maximum": {"type": "number", "maximum": -3},
    "exclusive": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3},
    "narrow": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 11},
    "long": {"type": "string", "minLength": 10},
    "short": {"type": "string", "maxLength": 2},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_sample_is_valid(name: str) -> None:
    schema = SCHEMAS[name]
    value = sample(schema)
    assert valid(value, schema, schema), value


def test_the_first_choice_is_taken_everywhere() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}, "b": {"anyOf": [{"const": 1}, {"const": 2}]}},
    }
    assert sample(schema) == {"a": "x", "b": 1}


def test_known_formats_are_kept() -> None:
    assert sample({"type": "string", "format": "date"}) == "2026-01-01"
    assert sample({"type": "string", "format": "unheard-of"}) == "demo"


bounds = st.integers(-50, 50)


@given(st.sampled_from(["integer", "number"]), bounds, st.integers(2, 20), st.booleans(), st.booleans())
def test_a_number_is_found_between_its_bounds(
    kind: str, low: int, room: int, above: bool, below: bool
) -> None:
    schema = {
        "type": kind,
        "exclusiveMinimum" if above else "minimum": low,
        "exclusiveMaximum" if below else "maximum": low + room,
    }
    assert valid(sample(schema), schema, schema)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "required",
                    "items",
                    "prefixItems",
                    "anyOf",
                    "oneOf",
                    "allOf",
                    "$ref",
                    "enum",
                    "minimum",
                    "maximum",
                    "exclusiveMinimum",
                    "exclusiveMaximum",
                    "multipleOf",
                    "minItems",
                    "maxItems",
                    "minLength",
                    "maxLength",
                    "format",
                    "a",
                ]
            ),
            inner
            | st.sampled_from(["object", "array", "integer", "number", "string", "#", "#/properties/a"]),
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(json_values)
def test_no_json_at_all_breaks_it(schema: Any) -> None:
    orjson.dumps(sample(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {str(n): {"$ref": "#"} for n in range(100)}},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 10**9},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"allOf": [{"allOf": [{"$ref": "#"}] * 1000}] * 1000},
        {"type": "string", "minLength": 10**12},
        {
            "type": "object",
            "required": [str(n) for n in range(100_000)],
            "properties": {str(n): {} for n in range(100_000)},
        },
    ],
    ids=lambda schema: repr(schema)[:40],
)
def test_a_schema_that_explodes_gives_a_small_sample_soon(schema: Any) -> None:
    started = time.process_time()
    assert len(orjson.dumps(sample(schema))) < 3_000_000
    assert time.process_time() - started < 0.5
