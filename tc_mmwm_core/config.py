"""Read YAML or JSON that people write into a pydantic model, with errors that name file, field, finding and fix."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

# pydantic: the field's standard for validated settings; its error list is what we turn into one readable message.
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration file is missing, unreadable or holds a value that is not allowed."""


class Config(BaseModel):
    """Base of every configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ConfigType = TypeVar("ConfigType", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML readers silently take the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # As it is written: later `<<` merges in what keys of the mapping's own may replace.
        node = super().compose_mapping_node(anchor)
        first: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key), key.start_mark.line + 1
            if name in first:
                raise ConfigError(f"line {line}: key '{key.value}' stands twice, first in line {first[name]}")
            first[name] = line
        return node


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object, which gives each key once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ConfigError(f"key '{twice}' stands twice in one object")
    return content


def load(path: str | Path, model: type[ConfigType]) -> ConfigType:
    """Read ``path`` (YAML, of which JSON is a subset) into ``model``.

    Raises:
        ConfigError: names the file, each wrong field, what was found and what is allowed; a key that stands twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        is_json = path.suffix == ".json"
        content = json.loads(text, object_pairs_hook=_unique) if is_json else yaml.load(text, _Loader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix.lstrip('.') or 'YAML'}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, a mapping of keys is needed")
    return parse(content, model, str(path))


def parse(content: dict[str, Any], model: type[ConfigType], origin: str) -> ConfigType:
    """Validate ``content`` as ``model``; ``origin`` names it in the error."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [f"{origin}: {_describe(detail, model)}" for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about ``name``: the nearest of ``known``; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _describe(detail: Any, model: type[BaseModel]) -> str:
    location = detail["loc"]
    field = ".".join(str(part) for part in location) or "(root)"
    if detail["type"] == "extra_forbidden":
        siblings = _known_keys(model, location[:-1])
        hint = did_you_mean(str(location[-1]), siblings)
        return f"unknown key '{field}'{hint or '.'} Known keys here: {', '.join(siblings) or 'none'}"
    if detail["type"] == "missing":
        return f"key '{field}' is missing"
    return f"'{field}' is {detail['input']!r}: {detail['msg']}"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys allowed at ``location``, found by walking the model's schema (lists, maps and unions looked through)."""
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = definitions[node["$ref"].split("/")[-1]]
        return node

    nodes = [resolve(schema)]
    for part in location:
        following: list[dict[str, Any]] = []
        for node in nodes:
            for choice in [node, *map(resolve, node.get("anyOf", []) + node.get("oneOf", []))]:
                if part in choice.get("properties", {}):
                    following.append(resolve(choice["properties"][part]))
                elif isinstance(part, int) and "items" in choice:
                    following.append(resolve(choice["items"]))
                elif isinstance(choice.get("additionalProperties"), dict):
                    following.append(resolve(choice["additionalProperties"]))
        nodes = following
    keys: set[str] = set()
    for node in nodes:
        for choice in [node, *map(resolve, node.get("anyOf", []) + node.get("oneOf", []))]:
            keys.update(choice.get("properties", {}))
    return sorted(keys)
